"""How far a fitted Q̂ is from the exact Q^π of the shop, method by method.

    python -m benchmarks.known_truth [--quick] [--settings NAME …] [--seeds N] [--conversations N]
                                     [--record]

Three settings, on conversations that no fit has seen, through the real stages (ingest, returns,
init, fit-q), from text alone:

on_policy: logs of the script `mediocre`, and its own Q^π. mc, td-lambda, sarsa and lstd, which is
also measured with heads that are linear in the last hidden state (`compared_turns = 0`).

exploratory: logs of an explorer, who decides every second time, at random, as `expert` would, and
else as `uniform`, which tries everything; and the Q^π of `expert`, which sells. mc cannot know of
the expert and evaluates the explorer; fqe and lstdq are told what the expert would do next (K
actions in every state, an `actions` artifact).

uncovered: the same with logs of `uniform` alone. Of what leads the expert to a visit, four or five
right steps in a row, such a log holds next to nothing, and no method can learn it from there.

Per method: rmse, √ mean (Q̂ − Q^π)², over all held-out turns; bias, mean Q̂ − Q^π; correlation; and,
in `STATES` held-out states, of everything that can be said there to the business, one wording each:
ranking, the correlation of Q̂ and Q^π less their means in the state. What a policy step makes of Q̂
depends on that alone. The model is that of `configs/tiny.toml`. The
truth is the posterior mean over what a log does not show (`iterppo.environments.shop_solution`), so
a perfect Q̂ has an rmse of 0. `constant` is the best single number, the standard deviation of Q^π.
fqe_over_mc: fqe's rmse / mc's; wanted: at most .7 in the mean of the seeds in the exploratory
setting.

The last line printed is a JSON object, by setting. `--record` writes it to
`benchmarks/results/known_truth.json`, where settings that were not measured stay as they are.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from benchmarks.machine import machine
from iterppo.artifact import ArtifactWriter, open_artifact
from iterppo.config import (
    OFF_POLICY,
    ActionsConfig,
    FitQConfig,
    IngestConfig,
    InitConfig,
    ReturnsConfig,
)
from iterppo.environments.episodes import Suggestion, TurnSoFar, hold_conversations
from iterppo.environments.shop import SCRIPTS, Shop
from iterppo.environments.shop_language import UNKNOWN, sayings
from iterppo.environments.shop_optimum import ACTS
from iterppo.environments.shop_solution import ShopSolution
from iterppo.lm.policy import load_policy
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import decisions
from iterppo.logs.sources import LogFile
from iterppo.personas import Persona
from iterppo.stages import fit_q, ingest, init, returns

RESULT = Path(__file__).resolve().parent / "results" / "known_truth.json"
GAMMA = 0.99
SAMPLES = 4
STATES = 200
MODEL = {"hidden_size": 128, "num_layers": 3, "max_steps": 600}
SETTINGS: dict[str, dict[str, Any]] = {
    "on_policy": {
        "log": ["mediocre"],
        "target": "mediocre",
        "methods": ["mc", "td-lambda", "sarsa", "lstd", "lstd-linear"],
    },
    "exploratory": {
        "log": ["expert", "uniform"],
        "target": "expert",
        "methods": ["mc", "fqe", "lstdq", "lstdq-linear"],
    },
    "uncovered": {
        "log": ["uniform"],
        "target": "expert",
        "methods": ["mc", "fqe", "lstdq", "lstdq-linear"],
    },
}
"""`log`: the scripts of which each decision is one's, drawn at random."""
LINEAR = "-linear"
"""Suffix of a closed form on the last hidden state alone."""


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(prog="benchmarks.known_truth", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, 400 conversations")
    parser.add_argument("--seeds", type=int, help="number of seeds (5; quick: 1)")
    parser.add_argument("--conversations", type=int, help="in each log (1600; quick: 400)")
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--record", action="store_true", help=f"write {RESULT.name}")
    options = parser.parse_args()
    seeds = options.seeds or (1 if options.quick else 5)
    conversations = options.conversations or (400 if options.quick else 1600)
    result = {
        name: measure(name, seeds=seeds, conversations=conversations) for name in options.settings
    }
    if options.record:
        RESULT.parent.mkdir(exist_ok=True)
        before = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.exists() else {}
        RESULT.write_text(json.dumps(before | result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def measure(setting: str, *, seeds: int, conversations: int) -> dict[str, Any]:
    """One setting, all seeds and methods."""
    runs = []
    for seed in range(seeds):
        with tempfile.TemporaryDirectory(prefix="iterppo-") as folder:
            found = one_run(
                Path(folder), seed=seed, conversations=conversations, **SETTINGS[setting]
            )
        runs.append(found)
        for method, numbers in found.items():
            print(f"{setting}, seed {seed}, {method}: " + _line(numbers), flush=True)
    result: dict[str, Any] = {"machine": machine(), "conversations": conversations, "seeds": runs}
    for method in runs[0]:
        rmse = [run[method]["rmse"] for run in runs]
        result[f"{method}_rmse"] = round(float(np.mean(rmse)), 4)
        if method != "constant":
            ranked = [run[method]["ranking"] for run in runs]
            result[f"{method}_ranking"] = round(float(np.mean(ranked)), 3)
    if "fqe" in runs[0]:
        ratios = [run["fqe"]["rmse"] / run["mc"]["rmse"] for run in runs]
        result["fqe_over_mc"] = round(float(np.mean(ratios)), 3)
        result["fqe_over_mc_by_seed"] = [round(ratio, 3) for ratio in ratios]
    return result


def one_run(
    folder: Path,
    *,
    seed: int,
    conversations: int,
    log: Sequence[str],
    target: str,
    methods: Sequence[str],
) -> dict[str, Any]:
    """One log, all methods on it."""
    trajectories, paid, policy = prepare(folder, scripts=log, number=conversations, seed=seed)
    write_actions(folder / "actions", trajectories=trajectories, script=target, seed=seed)
    truth = exact_values(trajectories, script=target)
    acts = exact_values_of_acts(trajectories, script=target, seed=seed)
    values = np.array(list(truth.values()))
    found: dict[str, Any] = {
        "constant": {"rmse": float(values.std()), "mean": float(values.mean())}
    }
    for method in methods:
        started = time.perf_counter()
        out = folder / f"q-{method}"
        settings: dict[str, Any] = {"seed": seed, "method": method.removesuffix(LINEAR)}
        if method.endswith(LINEAR):
            settings["compared_turns"] = 0
        config = FitQConfig(sampled_states=0, bootstrap_samples=100, **settings)
        fit_q.run(
            config,
            trajectories=trajectories,
            returns=paid,
            policy=policy,
            actions=folder / "actions" if config.method in OFF_POLICY else None,
            out=out,
        )
        seconds = time.perf_counter() - started
        compared = compare(out, truth) | {"ranking": ranking(out, acts, policy=policy)}
        found[method] = compared | {"seconds": seconds}
    return found


def prepare(
    folder: Path, *, scripts: Sequence[str], number: int, seed: int
) -> tuple[Path, Path, Path]:
    """Trajectories, returns and a first policy of conversations of scripts, by the stages."""
    log = folder / "log.jsonl"
    write_log(log, scripts=scripts, number=number, seed=seed)
    return prepare_log(folder, log, seed=seed)


def prepare_log(
    folder: Path,
    log: Path,
    *,
    seed: int,
    personas: Sequence[Persona] = (),
    model: Mapping[str, int] = MODEL,
) -> tuple[Path, Path, Path]:
    """The same of a log that is there."""
    trajectories, paid, policy = (folder / name for name in ("trajectories", "returns", "init"))
    ingest.run(
        IngestConfig(seed=seed),
        logs=[LogFile(str(log), str(log))],
        out=trajectories,
        rejects=folder / "rejects",
    )
    returns.run(ReturnsConfig(gamma=GAMMA), trajectories=trajectories, out=paid)
    init.run(
        InitConfig(seed=seed, personas=list(personas), **model),
        trajectories=trajectories,
        out=policy,
    )
    return trajectories, paid, policy


def write_log(file: Path, *, scripts: Sequence[str], number: int, seed: int) -> None:
    """Conversations of scripts, as `iterppo rollout` writes them."""
    conversations = hold_conversations(
        Shop,
        _Scripted(scripts, seed),
        name="shop",
        number=number,
        parallel=64,
        max_turns=20,
        seed=seed,
    )
    with file.open("w", encoding="utf-8") as out:
        for conversation in conversations:
            out.write(json.dumps(conversation) + "\n")


def write_actions(out: Path, *, trajectories: Path, script: str, seed: int) -> None:
    """What a script would do in every state: what `iterppo actions` makes for a policy."""
    assistant = Shop.scripted_assistant(seed, script)
    source = open_artifact(trajectories, "trajectories")
    config, inputs = ActionsConfig(seed=seed, samples=SAMPLES), {"trajectories": source.record()}
    with ArtifactWriter(
        out, kind="actions", stage="actions", config=config, inputs=inputs
    ) as writer:
        for row in source.rows():
            writer.write(
                {
                    "conversation_id": row["conversation_id"],
                    "turn": row["turn"],
                    "sample": sample,
                    "action": assistant.suggest(row["customer"], row["turn"]),
                    "logprob": None,
                    "policy_version": script,
                    "split": row["split"],
                }
                for sample in range(1, SAMPLES + 1)
            )


def exact_values(trajectories: Path, *, script: str) -> dict[tuple[str, int], float]:
    """Q^π of the script for every held-out turn."""
    solution = ShopSolution(SCRIPTS[script], gamma=GAMMA)
    found = {}
    for turns in open_artifact(trajectories, "trajectories").conversations():
        if turns[0]["split"] != "heldout":
            continue
        for number, turn in enumerate(turns, start=1):
            key = (turn["conversation_id"], turn["turn"])
            found[key] = solution.value(turns[:number], turn["suggestion"])
    return found


def exact_values_of_acts(
    trajectories: Path, *, script: str, seed: int
) -> list[tuple[list[dict[str, Any]], list[str], list[float]]]:
    """In some held-out states, each of another conversation: the rows up to there, a wording of
    every act, and their Q^π."""
    solution, random = ShopSolution(SCRIPTS[script], gamma=GAMMA), Random(f"acts-{seed}")
    heldout = [
        list(turns)
        for turns in open_artifact(trajectories, "trajectories").conversations()
        if turns[0]["split"] == "heldout"
    ]
    found = []
    for turns in random.sample(heldout, min(STATES, len(heldout))):
        state = turns[: random.randint(1, len(turns))]
        texts = [
            random.choice(sayings(*act)) if act is not None and sayings(*act) else ""
            for act in ACTS
            if act is None or act.intent != UNKNOWN
        ]
        found.append((state, texts, [solution.value(state, text) for text in texts]))
    return found


def ranking(
    q: Path,
    acts: Sequence[tuple[list[dict[str, Any]], list[str], list[float]]],
    *,
    policy: Path,
) -> float:
    """Correlation of Q̂ and Q^π, both less their mean over the acts of a state."""
    fitted = QFunction.load(q / "model")
    system_prompt = load_policy(policy).settings.system_prompt
    estimated, exact = [], []
    for turns, texts, values in acts:
        *_, last = decisions(turns, system_prompt=system_prompt)
        estimates = np.array(fitted([last.state] * len(texts), texts))
        estimated.append(estimates - estimates.mean())
        exact.append(np.array(values) - np.mean(values))
    return float(np.corrcoef(np.concatenate(estimated), np.concatenate(exact))[0, 1])


def compare(q: Path, truth: dict[tuple[str, int], float]) -> dict[str, float]:
    """Q̂ of the held-out turns beside the truth."""
    rows = {(r["conversation_id"], r["turn"]): r["q"] for r in open_artifact(q, "q").rows()}
    pairs = np.array([(rows[key], value) for key, value in truth.items() if key in rows])
    error = pairs[:, 0] - pairs[:, 1]
    return {
        "rmse": float(np.sqrt(np.mean(error**2))),
        "bias": float(error.mean()),
        "correlation": float(np.corrcoef(pairs.T)[0, 1]),
        "turns": len(pairs),
    }


class _Scripted:
    """Scripts as an assistant of `hold_conversations`."""

    def __init__(self, scripts: Sequence[str], seed: int) -> None:
        self.version = "+".join(scripts)
        self._assistants = [Shop.scripted_assistant(seed, script) for script in scripts]
        self._random = Random(f"which-{seed}")

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        return [
            Suggestion(
                self._random.choice(self._assistants).suggest(
                    turns[-1]["customer"] or "", len(turns)
                ),
                None,
            )
            for turns in conversations
        ]


def _line(numbers: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in numbers.items())


if __name__ == "__main__":
    main()
