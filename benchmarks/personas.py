"""What personas do for Q: its error on actions that the policy seldom takes, at equal traffic.

    python -m benchmarks.personas [--quick] [--seeds N] [--conversations N] [--script NAME]
                                  [--methods M …] [--personas FILE] [--record]

π is a script of the shop that nearly always knows what it wants (`expert`). Two logs of equally
many conversations: `plain`, all by π; `personas`, by π under the personas of
`configs/personas.toml`, which leave 28 % of the conversations plain. From each of them Q^π is
fitted, from text alone and by the real stages (rollout, ingest, returns, init, fit-q), by fqe and
lstdq, which are told what plain π would do next, and by mc.

Both are read on the same states: turns of a third log of plain π, which no fit has seen. In each of
them stand the action that was taken (`likely`), and one drawn from a script that tries everything
among the intents that π takes there with a probability below 5 % (`unlikely`). The truth is exact
(`iterppo.environments.shop_solution`).

Per log, method and kind of action: rmse, √ mean (Q̂ − Q^π)², in discounted outcomes, and bias.
`fall`, by method: 1 − rmse(personas) / rmse(plain) on unlikely actions, a seed each; wanted: at
least .25. `fall_from_mc` is the same against mc on the plain log. `constant` is the best single
number, and `taken`: the share of turns on which the log holds an action that is unlikely under π.

The last line printed is a JSON object. `--record` writes it to `benchmarks/results/personas.json`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.known_truth import GAMMA, prepare_log, write_actions
from benchmarks.machine import machine
from iterppo.artifact import open_artifact
from iterppo.config import OFF_POLICY, FitQConfig, IngestConfig, InitConfig, RolloutConfig
from iterppo.environments.shop import SCRIPTS, Shop, recognise, reply_type
from iterppo.environments.shop_solution import ShopSolution
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import decisions
from iterppo.logs.sources import LOG_FILE, LogFile
from iterppo.personas import Persona, read_personas
from iterppo.stages import fit_q, ingest, rollout

RESULT = Path(__file__).resolve().parent / "results" / "personas.json"
PERSONAS = Path(__file__).resolve().parent.parent / "configs" / "personas.toml"
Method = Literal["mc", "fqe", "lstdq"]
METHODS: tuple[Method, ...] = get_args(Method)
MODEL = {"hidden_size": 96, "num_layers": 2, "max_steps": 400}
"""Small: each seed makes two policies, and fits a Q by each method on both logs."""
SELDOM = 0.05
"""Probability under π below which an action is unlikely."""
STATES = 600
"""Turns on which Q is read."""

Pairs = dict[str, list[tuple[Sequence[dict[str, Any]], str, float]]]
"""By kind of action: the conversation up to a turn, the action, and its true value."""


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(prog="benchmarks.personas", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, 400 conversations")
    parser.add_argument("--seeds", type=int, help="number of seeds (3; quick: 1)")
    parser.add_argument("--conversations", type=int, help="in each log (1600; quick: 400)")
    parser.add_argument("--script", default="expert", choices=list(SCRIPTS), help="π")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--personas", type=Path, default=PERSONAS)
    parser.add_argument("--record", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    personas = read_personas(options.personas)
    conversations = options.conversations or (400 if options.quick else 1600)
    seeds = []
    for seed in range(options.seeds or (1 if options.quick else 3)):
        with tempfile.TemporaryDirectory(prefix="iterppo-") as folder:
            seeds.append(
                one_seed(
                    Path(folder),
                    script=options.script,
                    personas=personas,
                    number=conversations,
                    methods=options.methods,
                    seed=seed,
                )
            )
    off_policy = [method for method in options.methods if method in OFF_POLICY]
    result: dict[str, Any] = {
        "machine": machine(),
        "script": options.script,
        "conversations": conversations,
        "fall": {method: _fall(seeds, method) for method in off_policy},
        "seeds": seeds,
    }
    if "mc" in options.methods:
        result["fall_from_mc"] = {method: _fall(seeds, method, plain="mc") for method in off_policy}
    if options.record:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def one_seed(
    folder: Path,
    *,
    script: str,
    personas: Sequence[Persona],
    number: int,
    methods: Sequence[Method],
    seed: int,
) -> dict[str, Any]:
    """Both logs, and what is learned from each."""
    pairs = true_pairs(folder / "truth", script=script, seed=seed)
    found: dict[str, Any] = {
        "constant": {kind: float(np.std([v for *_, v in of])) for kind, of in pairs.items()}
    }
    for name, used in (("plain", ()), ("personas", personas)):
        own = folder / name
        log = hold(own / "log", script=script, personas=used, number=number, seed=seed)
        trajectories, paid, policy = prepare_log(own, log, seed=seed, personas=used, model=MODEL)
        write_actions(own / "actions", trajectories=trajectories, script=script, seed=seed)
        found[name] = {"taken": share_taken(trajectories, script=script)}
        for method in methods:
            started = time.perf_counter()
            fit_q.run(
                FitQConfig(seed=seed, method=method, sampled_states=0, bootstrap_samples=20),
                trajectories=trajectories,
                returns=paid,
                policy=policy,
                actions=own / "actions" if method in OFF_POLICY else None,
                out=own / method,
            )
            numbers = errors(own / method, pairs)
            found[name][method] = numbers | {"seconds": time.perf_counter() - started}
            print(f"seed {seed}, {name}, {method}: {json.dumps(found[name][method])}", flush=True)
    return found


def hold(out: Path, *, script: str, personas: Sequence[Persona], number: int, seed: int) -> Path:
    """The log of a script, by `iterppo rollout`."""
    rollout.run(
        RolloutConfig(seed=seed, script=script, conversations=number, personas=list(personas)),
        policy=None,
        out=out,
        scripted=True,
    )
    return out / LOG_FILE


def true_pairs(folder: Path, *, script: str, seed: int) -> Pairs:
    """States of plain π, an action of each kind in each, and Q^π."""
    log = hold(folder / "log", script=script, personas=(), number=STATES, seed=seed + 1000)
    ingest.run(
        IngestConfig(seed=seed),
        logs=[LogFile(str(log), str(log))],
        out=folder / "trajectories",
        rejects=folder / "rejects",
    )
    solution, explorer = ShopSolution(SCRIPTS[script], gamma=GAMMA), _explorer(seed)
    pairs: Pairs = {"likely": [], "unlikely": []}
    for rows in open_artifact(folder / "trajectories", "trajectories").conversations():
        for count, row in enumerate(rows, start=1):
            history = rows[:count]
            unlikely = next(text for text in explorer(row) if is_unlikely(script, row, text))
            for kind, action in (("likely", row["suggestion"] or ""), ("unlikely", unlikely)):
                if len(pairs[kind]) < STATES:
                    pairs[kind].append((history, action, solution.value(history, action)))
    return pairs


def is_unlikely(script: str, row: dict[str, Any], text: str) -> bool:
    """Whether a script seldom means this, after this customer's message on this turn."""
    probabilities = SCRIPTS[script](reply_type(row["customer"]), row["turn"])
    return probabilities.get(recognise(text), 0.0) < SELDOM


def share_taken(trajectories: Path, *, script: str) -> float:
    """Of the turns of a log with a suggestion, those whose suggestion is unlikely under π."""
    said = [row for row in open_artifact(trajectories, "trajectories").rows() if row["suggestion"]]
    return sum(is_unlikely(script, row, row["suggestion"]) for row in said) / len(said)


def errors(q_folder: Path, pairs: Pairs) -> dict[str, Any]:
    """Q̂ beside the truth, by kind of action."""
    q = QFunction.load(q_folder / "model")
    found = {}
    for kind, chosen in pairs.items():
        states = []
        for rows, *_ in chosen:
            *_, last = decisions(rows, system_prompt=InitConfig().system_prompt)
            states.append(last.state)
        values = np.array(q(states, [action for _, action, _ in chosen]))
        error = values - np.array([value for *_, value in chosen])
        found[kind] = {"rmse": float(np.sqrt(np.mean(error**2))), "bias": float(error.mean())}
    return found


def _explorer(seed: int) -> Any:
    assistant = Shop.scripted_assistant(seed, "uniform")

    def proposals(row: dict[str, Any]) -> Any:
        while True:
            text = assistant.suggest(row["customer"], row["turn"])
            if text is not None:
                yield text

    return proposals


def _fall(seeds: Sequence[dict[str, Any]], method: str, *, plain: str = "") -> list[float]:
    return [
        round(
            1
            - seed["personas"][method]["unlikely"]["rmse"]
            / seed["plain"][plain or method]["unlikely"]["rmse"],
            3,
        )
        for seed in seeds
    ]


if __name__ == "__main__":
    main()
