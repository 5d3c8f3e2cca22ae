"""What one policy step gains, by the truth, under one configuration and another.

    python -m benchmarks.policy_step [--work runs/loop] [--seeds N] [--record] ["KEY=VALUE …" …]

On the first round of `benchmarks.loop --rounds 1 --methods ppo`, which must have been made, π_0 is
improved by `ppo` with its defaults but for the settings that are named, a configuration each. In a
held-out state of each of 300 conversations, by 12 suggestions of either policy:

    gain      E_π1 Q − E_π0 Q, of the exact Q of π_0 (counted as in `benchmarks.loop_analysis`)
    of_q      the same of Q̂, which is what was climbed
    kl        in nats a suggestion, as the step read it
    cpu_s     the processor's seconds of the stage

as means over seeds, every seed a log of its own; `gain` with its 95 % interval (Student's t). A
step that keeps the policy that it began with gains 0. Every step is kept below `--work`.

The last line printed is a JSON object; `--record` writes it to
`benchmarks/results/policy_step.json`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.loop_analysis import (
    GAMMA,
    Counted,
    conversations_of,
    of_policy,
    prompts_of,
    states_of,
)
from benchmarks.loop_rounds import made
from benchmarks.machine import commit, machine, say
from benchmarks.over_seeds import interval
from iterppo.artifact import read_manifest
from iterppo.config import PPOConfig
from iterppo.config_loading import load_config
from iterppo.environments.shop_solution import ShopSolution
from iterppo.lm.policy import prepare_libraries
from iterppo.lm.q_function import QFunction
from iterppo.pipeline import STAGES, sections

RESULT = Path(__file__).resolve().parent / "results" / "policy_step.json"
CONFIGURATIONS = (
    "completions_per_prompt=2 baseline=none",
    "completions_per_prompt=8 baseline=none",
    "completions_per_prompt=8 baseline=others",
)
SAMPLES = 12


def main() -> None:
    """Every configuration on every seed."""
    parser = argparse.ArgumentParser(
        prog="benchmarks.policy_step",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("configurations", nargs="*", default=list(CONFIGURATIONS))
    parser.add_argument("--work", type=Path, default=Path("runs/loop"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write to benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    prepare_libraries()
    found = {
        chosen: [one_step(options.work / str(seed), chosen, seed) for seed in range(options.seeds)]
        for chosen in options.configurations
    }
    result: dict[str, Any] = {
        "machine": machine(),
        "commit": commit(),
        "configurations": {chosen: summary(steps) for chosen, steps in found.items()},
    }
    if options.record:
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def one_step(folder: Path, chosen: str, seed: int) -> dict[str, float]:
    """One configuration on the first round of one seed of `benchmarks.loop`."""
    place, before = folder / "ppo" / "000", folder / "start" / "policy"
    out = folder / "steps" / chosen.replace(" ", ",")
    config = load_config(
        "ppo",
        PPOConfig,
        file=None,
        settings=[f"seed={seed}", *(f"ppo.{one}" for one in shlex.split(chosen))],
        sections=sections(),
    )
    kept = out.with_suffix(".cpu")

    def step() -> None:
        started = time.process_time()
        STAGES["ppo"].run(config, prompts=place / "prompts", q=place / "q", policy=before, out=out)
        kept.write_text(f"{time.process_time() - started:.1f}", encoding="utf-8")

    made(out, step)
    gain, of_q = _gains(place, before, out)
    found = {
        "gain": gain,
        "of_q": of_q,
        "kl": float(str(read_manifest(out).metrics["watched_kl_kept"])),
        "cpu_s": float(kept.read_text(encoding="utf-8")),
    }
    say(f"{chosen}, seed {seed}: " + ", ".join(f"{key} {found[key]:.4g}" for key in found))
    return found


def _gains(place: Path, before: Path, after: Path) -> tuple[float, float]:
    """Of the exact Q, and of Q̂."""
    conversations = conversations_of(place)
    solution = ShopSolution(Counted(conversations), gamma=GAMMA)
    states = states_of([c for c in conversations if c[0]["split"] == "heldout"])
    seen = [turns for turns, _ in states]
    several = [
        [one for one in each for _ in range(SAMPLES)] for each in (seen, prompts_of(before, seen))
    ]
    q = QFunction.load(place / "q" / "model")
    then, now = (of_policy(folder, *several, solution, q) for folder in (before, after))
    gain, of_q = (now - then).tolist()
    return gain, of_q


def summary(steps: list[dict[str, float]]) -> dict[str, Any]:
    """Means over seeds, and each seed's gain."""
    means = {
        name: round(float(np.mean([step[name] for step in steps])), 4)
        for name in ("of_q", "kl", "cpu_s")
    }
    return {
        "gain": interval(np.array([step["gain"] for step in steps])),
        **means,
        "gains": [round(step["gain"], 4) for step in steps],
    }


if __name__ == "__main__":
    main()
