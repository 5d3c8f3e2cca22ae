"""How well a Q̂ predicts returns on conversations that it has not seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from iterppo.statistics.intervals import cluster_bootstrap

Array = np.ndarray[Any, Any]


def explained_variance(
    prediction: Array, target: Array, weight: Array, *, constant: float
) -> float:
    """1 − MSE(prediction) / MSE(constant): 0 for a prediction as good as the constant, 1 for a
    perfect one.

    The constant is given, not the target's own mean, so that both are predictions made without
    seeing the target.
    """
    baseline = float(np.sum(weight * (target - constant) ** 2))
    if baseline == 0:
        return float("nan")
    return 1 - float(np.sum(weight * (target - prediction) ** 2)) / baseline


def auc(prediction: Array, positive: Array) -> float:
    """Probability that a positive turn is scored above another (ties count half); NaN where one
    class is missing."""
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if num_positive == 0 or num_negative == 0:
        return float("nan")
    _, inverse, counts = np.unique(prediction, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return float(
        (ranks[positive].sum() - num_positive * (num_positive + 1) / 2)
        / (num_positive * num_negative)
    )


def calibration_error(
    prediction: Array, target: Array, weight: Array, *, num_bins: int = 10
) -> float:
    """Expected calibration error: mean |mean prediction − mean return| over bins of equal size by
    prediction.

    Equal predictions share a bin, so the order of the turns does not matter and a constant is one
    bin.
    """
    _, inverse, counts = np.unique(prediction, return_inverse=True, return_counts=True)
    middle_rank = (np.cumsum(counts) - counts / 2)[inverse]
    bins = (middle_rank * num_bins / max(1, len(prediction))).astype(int)
    error = total = 0.0
    for members in (bins == number for number in range(num_bins)):
        mass = float(weight[members].sum())
        if mass > 0:
            gap = np.sum(weight[members] * (prediction[members] - target[members])) / mass
            error += mass * abs(float(gap))
            total += mass
    return error / total if total else float("nan")


def q_diagnostics(
    conversation_ids: Sequence[str],
    prediction: Sequence[float],
    target: Sequence[float],
    weight: Sequence[float],
    *,
    constant: float,
    samples: int,
    seed: int,
) -> dict[str, float | bool]:
    """Held-out metrics of Q̂, with intervals bootstrapped by conversation.

    `better_than_constant` is true only where the whole 95 % interval of the explained variance lies
    above 0.
    """
    q, g, w = (np.asarray(values, dtype=float) for values in (prediction, target, weight))
    clusters = list(conversation_ids)
    low, high = cluster_bootstrap(
        clusters,
        lambda rows: explained_variance(q[rows], g[rows], w[rows], constant=constant),
        samples=samples,
        seed=seed,
    )
    return {
        "num_turns": float(len(q)),
        "num_conversations": float(len(set(clusters))),
        "return_mean": float(np.average(g, weights=w)),
        "q_mean": float(np.average(q, weights=w)),
        "constant": constant,
        "mse": float(np.average((g - q) ** 2, weights=w)),
        "mse_constant": float(np.average((g - constant) ** 2, weights=w)),
        "explained_variance": explained_variance(q, g, w, constant=constant),
        "explained_variance_low": low,
        "explained_variance_high": high,
        "auc": auc(q, g > 0),
        "calibration_error": calibration_error(q, g, w),
        "better_than_constant": bool(low > 0),
    }
