"""Does the policy step stop where the truth is best?

    python -m benchmarks.overoptimisation [--quick] [--seeds N] [--runs DIR] [--record]

The shop, whose Q^π is known exactly (`iterppo.environments.shop_solution`). Logs of the script
`mediocre`; π_0 clones it; two Q̂ (`lstd`), each fitted on half of the training conversations. PPO
climbs the first one, without a KL penalty and without limits, far beyond what is sensible, and is
read every few updates on held-out states:

proxy: the reward, Q̂ of the one half        heldout: Q̂ of the other half        gold: Q^π itself

all as means over one completion of every watched state, beside KL(π‖π_0) in nats per completion.
Afterwards the rule of `iterppo.rl.stopping` is asked where it would have stopped, and which policy
it would have kept.

gold_share: gold of the policy that is kept / gold at its peak; wanted: at least .9 in every seed.
gain_share: the same of what was gained over π_0, which is harder. gold_last_share: gold of the last
policy / its peak: what there is to lose. peak_gain_lower_bound: how much higher gold's peak is
where the reward is the ensemble's lower bound (κ = 1) than where it is the mean; wanted: above 0.

Every seed is a file under `--runs`, by its settings: a killed benchmark goes on where it was. The
last line printed is a JSON object. `--record` writes it to
`benchmarks/results/overoptimisation.json`, and the curves of all seeds to `overoptimisation.png`.
"""

from __future__ import annotations

import argparse
import functools
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt

from benchmarks.kept_runs import once
from benchmarks.known_truth import GAMMA, prepare
from benchmarks.machine import machine, say
from iterppo.artifact import open_artifact
from iterppo.config import (
    FitQConfig,
    PPOConfig,
    PromptsConfig,
)
from iterppo.environments.shop import SCRIPTS
from iterppo.environments.shop_solution import ShopSolution
from iterppo.lm.policy import load_policy, prepare_libraries
from iterppo.lm.ppo import PPOTrainer
from iterppo.lm.q_function import QFunction
from iterppo.rl.stopping import Limits, Reading, best, broken
from iterppo.stages import fit_q, prompts

RESULTS = Path(__file__).resolve().parent / "results"
LOG = "mediocre"
METHOD: Literal["lstd"] = "lstd"
UNLIMITED = {"kl_budget": 0.0, "least_entropy": 0.0, "least_distinct": 0.0, "judge_fall": 0.0}
DEFAULTS = PPOConfig()
LIMITS = Limits(
    kl=DEFAULTS.kl_budget,
    entropy=DEFAULTS.least_entropy,
    distinct=DEFAULTS.least_distinct,
    judge_fall=DEFAULTS.judge_fall,
)
WANTED = 0.9


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(prog="benchmarks.overoptimisation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one seed, 12 updates")
    parser.add_argument("--seeds", type=int, help="number of seeds (5; quick: 1)")
    parser.add_argument("--conversations", type=int, default=1600, help="in the log")
    parser.add_argument("--updates", type=int, help="of PPO (48; quick: 12)")
    parser.add_argument("--runs", default="runs/benchmarks/overoptimisation", help="for seeds")
    parser.add_argument("--record", action="store_true", help="write to benchmarks/results")
    options = parser.parse_args()
    seeds = options.seeds or (1 if options.quick else 5)
    updates = options.updates or (12 if options.quick else 48)
    kept = Path(options.runs) / f"{options.conversations}-{updates}"
    kept.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in range(seeds):
        run = functools.partial(
            one_run, seed=seed, conversations=options.conversations, updates=updates
        )
        runs.append(judged(once(kept / f"{seed}.json", run)))
        print(f"seed {seed}: {_line(runs[-1])}", flush=True)
    result: dict[str, Any] = {
        "machine": machine(),
        "conversations": options.conversations,
        "updates": updates,
        "seeds": runs,
    }
    for name in ("gold_share", "gain_share", "gold_last_share", "peak_gain_lower_bound"):
        result[name] = [round(run[name], 3) for run in runs]
    result["within_a_tenth"] = sum(run["gold_share"] >= WANTED for run in runs)
    if options.record:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "overoptimisation.json").write_text(
            json.dumps(result, indent=2) + "\n", encoding="utf-8"
        )
        draw(runs, RESULTS / "overoptimisation.png")
    print(json.dumps({name: value for name, value in result.items() if name != "seeds"}))


def one_run(*, seed: int, conversations: int, updates: int) -> dict[str, Any]:
    """One log; the readings of PPO on the mean of the ensemble, and on its lower bound."""
    with tempfile.TemporaryDirectory(prefix="iterppo-") as name:
        folder = Path(name)
        make_round(folder, seed=seed, conversations=conversations)
        mean, bound = (
            climb(folder, seed=seed, updates=updates, kappa=kappa) for kappa in (0.0, 1.0)
        )
    return {"mean": mean, "lower_bound": bound}


def judged(run: Mapping[str, Any]) -> dict[str, Any]:
    """What the rule with its defaults makes of a run's readings, and where the truth is best."""
    mean, bound = (
        [(Reading(**one["reading"]), one["gold"]) for one in run[kind]]
        for kind in ("mean", "lower_bound")
    )
    readings, gold = [reading for reading, _ in mean], [true for _, true in mean]
    stop, reason = len(readings), None
    for number in range(1, len(readings) + 1):
        reason = broken(readings[:number], LIMITS)
        if reason is not None:
            stop = number
            break
    kept = best(readings[:stop], LIMITS)
    peak = max(gold)
    return {
        "mean": curve(mean),
        "lower_bound": curve(bound),
        "stop": readings[stop - 1].update,
        "reason": reason,
        "kept": kept,
        "gold_share": gold[kept] / peak,
        "gain_share": (gold[kept] - gold[0]) / (peak - gold[0]) if peak > gold[0] else 1.0,
        "gold_last_share": gold[-1] / peak,
        "peak_gain_lower_bound": max(true for _, true in bound) - peak,
    }


def curve(points: Sequence[tuple[Reading, float]]) -> list[dict[str, float]]:
    """A point a reading."""
    return [
        {
            "update": reading.update,
            "kl": reading.kl,
            "entropy": reading.entropy,
            "distinct": reading.distinct,
            "proxy": reading.q,
            "heldout": reading.score,
            "gold": gold,
        }
        for reading, gold in points
    ]


def make_round(folder: Path, *, seed: int, conversations: int) -> None:
    """Everything before the policy step, through the stages."""
    trajectories, paid, policy = prepare(folder, scripts=[LOG], number=conversations, seed=seed)
    for part in ("first-half", "second-half"):
        fit_q.run(
            FitQConfig(
                seed=seed, method=METHOD, part=part, sampled_states=0, bootstrap_samples=100
            ),
            trajectories=trajectories,
            returns=paid,
            policy=policy,
            out=folder / f"q-{part}",
        )
    prompts.run(
        PromptsConfig(seed=seed), trajectories=trajectories, policy=policy, out=folder / "prompts"
    )


class GoldBeside:
    """A Q̂ that is asked now and then, and the truth about the same actions, which is noted."""

    def __init__(self, judge: Any, gold: Gold) -> None:
        self.judge = judge
        self.gold = gold
        self.noted: list[float] = []

    def __call__(self, states: Any, actions: Sequence[str]) -> list[float]:
        """The judge's values."""
        self.noted.append(float(np.mean(self.gold(actions))))
        values: list[float] = self.judge(states, actions)
        return values


class Gold:
    """Q^π(s, a) in the watched states, in their order."""

    def __init__(self, trajectories: Path, prompt_ids: Sequence[str]) -> None:
        self._solution = ShopSolution(SCRIPTS[LOG], gamma=GAMMA)
        wanted = set(prompt_ids)
        self._turns: dict[str, list[dict[str, Any]]] = {}
        for rows in open_artifact(trajectories, "trajectories").conversations():
            for number, row in enumerate(rows, start=1):
                name = f"{row['conversation_id']}/{row['turn']}"
                if name in wanted:
                    self._turns[name] = rows[:number]
        self._prompt_ids = prompt_ids

    def __call__(self, actions: Sequence[str]) -> list[float]:
        """Of an action in each state."""
        return [
            self._solution.value(self._turns[name], action or None)
            for name, action in zip(self._prompt_ids, actions, strict=True)
        ]


def climb(folder: Path, *, seed: int, updates: int, kappa: float) -> list[dict[str, Any]]:
    """PPO without limits: its readings, and the truth beside each."""
    prepare_libraries()
    say(f"seed {seed}: ppo, κ = {kappa:g}")
    config = PPOConfig(
        seed=seed,
        updates=updates,
        completions_per_prompt=2,
        baseline="none",
        kappa=kappa,
        kl_coefficient=0.0,
        watch_updates=2,
        watched_prompts=256,
        best_of=0,
        **UNLIMITED,
    )
    reward = QFunction.load(folder / "q-first-half" / "model")
    reward.kappa = kappa
    judge = QFunction.load(folder / "q-second-half" / "model")
    rows = list(open_artifact(folder / "prompts", "prompts").rows())
    watched = [row for row in rows if row["split"] == "heldout"][: config.watched_prompts]
    gold = Gold(folder / "trajectories", [row["prompt_id"] for row in watched])
    beside = GoldBeside(judge, gold)
    with tempfile.TemporaryDirectory(prefix="iterppo-") as work:
        trainer = PPOTrainer(
            policy=load_policy(folder / "init"),
            reward=reward,
            judge=beside,
            prompts=[row for row in rows if row["split"] == "train"],
            watched=watched,
            config=config,
            work=Path(work),
            on_samples=lambda _: None,
        )
        trainer.train()
    readings = list(zip(trainer.watching.readings, beside.noted, strict=True))
    for point in curve(readings):
        say(", ".join(f"{name} {value:.3g}" for name, value in point.items()))
    return [{"reading": asdict(reading), "gold": gold} for reading, gold in readings]


COLOURS = {"proxy": "#c44e52", "heldout": "#dd8452", "gold": "#4c72b0"}
LABELS = {
    "proxy": "reward: Q̂ of one half",
    "heldout": "Q̂ of the other half",
    "gold": "the truth, $Q^\\pi$",
}


def draw(runs: Sequence[dict[str, Any]], file: Path) -> None:
    """Proxy, held-out and gold against updates and against KL, a column a seed; where the rule
    stops, and what it keeps."""
    mpl.use("Agg")
    figure, axes = plt.subplots(
        2, len(runs), figsize=(3.2 * len(runs), 5.6), sharey=True, squeeze=False
    )
    against = {"update": "updates", "kl": "KL(π‖π₀), nats per completion"}
    for row, (x, label) in zip(axes, against.items(), strict=True):
        for axis, run in zip(row, runs, strict=True):
            mean, bound = run["mean"], run["lower_bound"]
            for name, colour in COLOURS.items():
                _plot(axis, mean, x, name, color=colour, label=LABELS[name])
            _plot(
                axis,
                bound,
                x,
                "gold",
                color=COLOURS["gold"],
                linestyle=":",
                label="the truth, with κ = 1",
            )
            kept = mean[run["kept"]]
            axis.plot(kept[x], kept["gold"], "o", color=COLOURS["gold"], label="kept")
            axis.set_xlabel(label, fontsize=9)
            axis.spines[["top", "right"]].set_visible(False)
        row[0].set_ylabel("discounted outcomes")
    for number, (axis, run) in enumerate(zip(axes[0], runs, strict=True)):
        axis.set_title(f"seed {number}", fontsize=9)
        axis.axvline(run["stop"], color="#8c8c8c", linewidth=0.8, label="stopped")
    handles, names = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, names, loc="upper center", ncol=len(names), frameon=False, fontsize=9)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _plot(axis: Any, points: Sequence[Mapping[str, float]], x: str, y: str, **how: Any) -> None:
    axis.plot([point[x] for point in points], [point[y] for point in points], **how)


def _line(run: dict[str, Any]) -> str:
    numbers = {name: value for name, value in run.items() if isinstance(value, float)}
    return (
        ", ".join(f"{name} {value:.3f}" for name, value in numbers.items())
        + f", stops behind update {run['stop']} ({run['reason']})"
    )


if __name__ == "__main__":
    main()
