"""What is drawn as curves: returns by turn, the training's log, the watched policy.

Shapes: T turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from scipy import stats

from iterppo.artifact import Artifact
from iterppo.report.page.decision import read_watch
from iterppo.report.page.run import Place
from iterppo.statistics import FEWEST_CONVERSATIONS

MOST_TURNS = 30


@dataclass(frozen=True)
class TurnMean:
    """The mean return of one turn number."""

    turn: int
    conversations: int
    mean: float
    """In discounted outcomes, weighted by the inverse chance of having been seen to its end."""
    low: float
    high: float
    """Normal interval; both NaN where all returns are alike."""


def returns_by_turn(artifact: Artifact) -> list[TurnMean]:
    """Mean return of turns 1, 2, …, as far as enough conversations go.

        m_t = Σ w G / Σ w,    se² = Σ w² (G − m_t)² / (Σ w)²

    A conversation has one turn of a number, so that the rows of one mean are independent. Reads one
    batch at a time; what is kept is six sums a turn.
    """
    sums_T6 = np.zeros((MOST_TURNS + 1, 6))
    for batch in artifact.batches(["turn", "return", "weight"]):
        value_N = np.asarray(batch.column("return").to_numpy(zero_copy_only=False), dtype=float)
        turn_N = batch.column("turn").to_numpy()
        weight_N = batch.column("weight").to_numpy()
        seen = np.isfinite(value_N) & (turn_N <= MOST_TURNS) & (weight_N > 0)
        turn_N, value_N, weight_N = turn_N[seen], value_N[seen], weight_N[seen]
        square_N = weight_N**2
        columns = (
            np.ones_like(value_N),
            weight_N,
            weight_N * value_N,
            square_N,
            square_N * value_N,
            square_N * value_N**2,
        )
        for place, column in enumerate(columns):
            sums_T6[:, place] += np.bincount(turn_N, weights=column, minlength=MOST_TURNS + 1)
    return [
        _turn_mean(turn, sums_T6[turn])
        for turn in range(1, MOST_TURNS + 1)
        if sums_T6[turn, 0] >= FEWEST_CONVERSATIONS
    ]


def _turn_mean(turn: int, sums: np.ndarray[Any, Any]) -> TurnMean:
    num, weight, paid, square, square_paid, square_paid_paid = (float(each) for each in sums)
    mean = paid / weight
    spread = square_paid_paid - 2 * mean * square_paid + mean**2 * square
    half = stats.norm.ppf(0.975) * math.sqrt(max(spread, 0.0)) / weight
    if half < 1e-9:
        half = math.nan
    return TurnMean(turn, int(num), mean, mean - half, mean + half)


@dataclass(frozen=True)
class Curve:
    """One number over the updates of a training."""

    name: str
    unit: str
    update: tuple[float, ...]
    value: tuple[float, ...]


@dataclass(frozen=True)
class Reading:
    """The policy on held-out prompts after so many updates."""

    update: int
    q: float
    q_low: float
    q_high: float
    judge: float | None
    kl: float


@dataclass(frozen=True)
class Training:
    """A policy step."""

    curves: tuple[Curve, ...]
    readings: tuple[Reading, ...]
    kept_update: float | None
    best_of_n: int
    best_of_q: float | None
    """Mean Q of the best of n suggestions of the policy before."""
    best_of_kl: float | None


# (column of training_log.parquet, title, unit)
_CURVES = (
    ("reward", "Reward", "discounted outcomes"),
    ("kl_per_completion", "KL from the policy before", "nat per suggestion"),
    ("entropy", "Entropy", "nat per token"),
    ("value_loss", "Value loss", "squared outcomes"),
)


def read_training(place: Place) -> Training:
    """What a policy artifact keeps of its training; one made by `init` has nothing."""
    assert place.manifest is not None
    counts, metrics = place.manifest.counts, place.manifest.metrics
    steps = max(counts.get("optimiser_steps", 0) // max(counts.get("updates", 0), 1), 1)
    kept = metrics.get("kept_update")
    watch = read_watch(place.path) if (place.path / "watch.json").is_file() else {}
    best = watch.get("best_of") or {}
    return Training(
        _training_curves(place, steps_per_update=steps),
        tuple(_reading(each) for each in watch.get("readings", ())),
        float(kept) if isinstance(kept, float | int) else None,
        int(best.get("n", 0)),
        best.get("q"),
        best.get("kl"),
    )


def _training_curves(place: Place, *, steps_per_update: int) -> tuple[Curve, ...]:
    file = place.path / "training_log.parquet"
    if not file.is_file():
        return ()
    table = pq.read_table(file)
    update = [step / steps_per_update for step in table.column("step").to_pylist()]
    curves = []
    for column, name, unit in _CURVES:
        if column not in table.column_names:
            continue
        pairs = [
            (at, value)
            for at, value in zip(update, table.column(column).to_pylist(), strict=True)
            if value is not None and math.isfinite(value)
        ]
        if pairs:
            curves.append(Curve(name, unit, *(tuple(each) for each in zip(*pairs, strict=True))))
    return tuple(curves)


def _reading(content: dict[str, Any]) -> Reading:
    q_P = np.asarray(content["q_P"], dtype=float)
    judge_P = content.get("judge_P")
    half = 0.0
    if len(q_P) > 1:
        half = float(stats.t.ppf(0.975, len(q_P) - 1) * q_P.std(ddof=1) / math.sqrt(len(q_P)))
    mean = float(q_P.mean())
    return Reading(
        int(content["update"]),
        mean,
        mean - half,
        mean + half,
        None if judge_P is None else float(np.mean(judge_P)),
        float(content["kl"]),
    )
