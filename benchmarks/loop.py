"""Iterative PPO, round after round, beside what one would use instead.

    python -m benchmarks.loop [--quick] [--seeds N] [--rounds K] [--methods …] [--record]

The shop, whose optimum is known exactly. From conversations of its scripted assistant a first
policy is cloned, π_0. Then, in every round, a method sees the conversations of its own policy, all
methods equally many, beside those of all rounds before and of the script, and makes the next one
(`benchmarks/loop_methods.py` lists the methods). What is told is the share of conversations that
end in the outcome, of every policy, with a 95 % interval over the seeds.

Each method is run for each seed in a process of its own, as many at once as there are cores. Every
artifact is kept below `--work` until it is all done: a run that was killed, or that another method
or seed is asked of, goes on where it was.

The last line printed is a JSON object; `--record` writes it to `benchmarks/results/loop.json`, with
`success[method][seed][round]`, and a figure beside it. Methods that were recorded before under the
same configuration stay there: the table may be made a method at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch

from benchmarks import loop_rounds
from benchmarks.loop_figure import draw
from benchmarks.loop_methods import CONSTANTS, METHODS
from benchmarks.loop_statistics import claims_of, of_methods
from benchmarks.machine import commit, machine, say
from iterppo.environments.shop_optimum import optimal_success
from iterppo.launch import end_with_whoever_started_this
from iterppo.lm.policy import prepare_libraries

RESULTS = Path(__file__).resolve().parent / "results"
MAIN = ("ppo", "mpo")
"""Of which claims are told."""


def main() -> None:
    """Measure, print, record."""
    options = parse()
    cells = [(seed, method) for method in options.methods for seed in range(options.seeds)]
    shared: dict[str, Any] = {
        "work": options.work,
        "conversations": options.conversations,
        "rounds": options.rounds,
        "quick": options.quick,
    }
    refuse_other_settings(options)
    success: dict[str, dict[int, list[float]]] = {method: {} for method in options.methods}
    seconds: dict[str, list[float]] = {method: [] for method in options.methods}
    commits: dict[str, set[str]] = {method: set() for method in options.methods}
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        options.processes, mp_context=context, initializer=end_with_whoever_started_this
    ) as pool:
        begun = [pool.submit(begin, seed, **shared) for seed in range(options.seeds)]
        for first in begun:
            first.result()
        running = {pool.submit(run, *cell, **shared): cell for cell in cells}
        for future in as_completed(running):
            seed, method = running[future]
            rates, took_s, begun_at = future.result()
            success[method][seed] = rates
            commits[method].add(begun_at)
            seconds[method].append(took_s)
            say(f"{method}, seed {seed}: " + " → ".join(f"{rate:.3f}" for rate in rates))
    runs = {
        method: {
            "success": [found[seed] for seed in sorted(found)],
            "minutes_a_seed": round(sum(seconds[method]) / len(found) / 60, 1),
            "commit": " ".join(sorted(commits[method])),
        }
        for method, found in success.items()
    }
    file = RESULTS / "loop.json"
    result = summary(recorded(file, options) | runs if options.record else runs, options)
    if options.record:
        RESULTS.mkdir(exist_ok=True)
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        draw(result, RESULTS / "loop.png")
    print(table(result))
    print(json.dumps({name: value for name, value in result.items() if name != "success"}))


def parse() -> argparse.Namespace:
    """What is asked for; the numbers that were left out."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.loop",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="one seed, two rounds, few methods")
    parser.add_argument("--seeds", type=int, help="number of seeds (5; quick: 1)")
    parser.add_argument("--rounds", type=int, help="number of rounds (4; quick: 2)")
    parser.add_argument("--conversations", type=int, help="of a policy (2,000; quick: 600)")
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), help="all; quick: three")
    parser.add_argument("--work", type=Path, help="folder of the artifacts (runs/loop)")
    parser.add_argument("--processes", type=int, help="at once (one a core)")
    parser.add_argument("--record", action="store_true", help="write to benchmarks/results")
    options = parser.parse_args()
    quick = options.quick
    options.seeds = options.seeds or (1 if quick else 5)
    options.rounds = options.rounds or (2 if quick else 4)
    options.conversations = options.conversations or (600 if quick else 2000)
    options.methods = options.methods or (
        ["ppo", "filtered-cloning", "single-turn-outcome"] if quick else list(METHODS)
    )
    options.work = options.work or Path("runs") / ("loop-quick" if quick else "loop")
    options.processes = options.processes or len(os.sched_getaffinity(0))
    return options


def refuse_other_settings(options: argparse.Namespace) -> None:
    """What was made under other settings is not gone on with, and not recorded under these.

    Raises:
        SystemExit: If the folder holds such.
    """
    file = options.work / "settings.json"
    now = {
        "shared": {**shared_by_all(options), "rounds": None, "quick": options.quick},
        **{method: CONSTANTS.get(method, {}) for method in options.methods},
    }
    then = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    other = [name for name, value in now.items() if then.get(name, value) != value]
    if other:
        raise SystemExit(
            f"{options.work}: holds {', '.join(other)} of other settings ({file.name}). Name "
            "another --work, or remove it."
        )
    options.work.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(then | now, indent=2) + "\n", encoding="utf-8")


def begin(seed: int, *, work: Path, conversations: int, rounds: int, quick: bool) -> None:
    """What all methods of a seed share: π_0 and its conversations."""
    _one_thread()
    settings = loop_rounds.Settings(conversations, seed, quick=quick)
    folder = work / str(seed)
    deployed = loop_rounds.start(folder, settings)
    loop_rounds.collect(folder / "start", deployed, settings, k=0)


def run(
    seed: int, method: str, *, work: Path, conversations: int, rounds: int, quick: bool
) -> tuple[list[float], float, str]:
    """Success of π_0, π_1 … of a method, the time that was taken, in seconds, and the commit that
    it was begun at: artifacts of an earlier run stay what they are."""
    _one_thread()
    settings = loop_rounds.Settings(conversations, seed, quick=quick)
    start, folder = work / str(seed) / "start", work / str(seed) / method
    begun_at = folder / "commit"
    if not begun_at.exists():
        folder.mkdir(parents=True, exist_ok=True)
        begun_at.write_text(commit() or "unknown", encoding="utf-8")
    _share(start, folder / "000")
    _share(work / str(seed) / "scripted", folder / "script")
    deployed = loop_rounds.Deployed(start / "policy")
    rates: list[float] = []
    seen = [folder / "script"]
    for k in range(rounds + 1):
        place = folder / f"{k:03d}"
        loop_rounds.collect(place, deployed, settings, k=k)
        outcomes, held = loop_rounds.success(place)
        rates.append(outcomes / held)
        seen.append(place)
        if k < rounds:
            deployed = METHODS[method](seen, deployed, settings)
            say(f"{method}, seed {seed}: round {k} done, its policy had {rates[-1]:.3f}")
    return rates, loop_rounds.seconds(folder), begun_at.read_text(encoding="utf-8")


def _share(start: Path, first: Path) -> None:
    """The first conversations are the same for all methods, whatever is made of them."""
    first.mkdir(parents=True, exist_ok=True)
    for name in ("log", "trajectories", "rejects"):
        if not (first / name).exists():
            (first / name).symlink_to((start / name).resolve(), target_is_directory=True)


def _one_thread() -> None:
    torch.set_num_threads(1)
    prepare_libraries()


def shared_by_all(options: argparse.Namespace) -> dict[str, Any]:
    """What must be the same for methods to stand in one table."""
    return {
        "conversations": options.conversations,
        "rounds": options.rounds,
        "configuration": hashlib.sha256(loop_rounds.CONFIG.read_bytes()).hexdigest()[:12],
    }


def recorded(file: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Runs of methods that a file holds; none where they were made under another configuration."""
    found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    same = all(found.get(name) == value for name, value in shared_by_all(options).items())
    columns = ("success", "minutes_a_seed", "commit")
    return {
        method: {column: found[column][method] for column in columns}
        for method in (found["success"] if same else ())
    }


def summary(runs: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """What is recorded."""
    runs = {method: runs[method] for method in METHODS if method in runs}
    optimum = optimal_success()
    rates = {method: run["success"] for method, run in runs.items()}
    return {
        "machine": machine(),
        **shared_by_all(options),
        "optimum": round(optimum, 4),
        "commit": {method: run["commit"] for method, run in runs.items()},
        "minutes_a_seed": {method: run["minutes_a_seed"] for method, run in runs.items()},
        "success": rates,
        "methods": of_methods(rates),
        "claims": {
            method: claims_of(method, rates, optimum=optimum) for method in MAIN if method in rates
        },
    }


def table(result: dict[str, Any]) -> str:
    """Success against round, a method a line; the interval is that of the mean over seeds."""
    rounds = range(result["rounds"] + 1)
    lines = [
        f"share of conversations with the outcome, {result['conversations']:,} of each policy; "
        f"the optimum has {result['optimum']:.3f}",
        f"{'':22s}" + "".join(f"{f'π_{k}':>22s}" for k in rounds),
    ]
    for method, numbers in result["methods"].items():
        told = [f"{mean:.3f}" for mean in numbers["mean"]]
        if "low" in numbers:
            ends = zip(told, numbers["low"], numbers["high"], strict=True)
            told = [f"{mean} [{low:.3f}, {high:.3f}]" for mean, low, high in ends]
        lines.append(f"{method:22s}" + "".join(f"{text:>22s}" for text in told))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
