"""How well a Q̂ predicts returns on conversations that it has not seen.

Shapes: N turns, S resamples of conversations.
"""

from __future__ import annotations

import numpy as np

from iterppo.statistics.intervals import percentile_interval
from iterppo.statistics.resampling import Array, Resamples, ratio


def explained_variance(
    prediction: Array, target: Array, weight: Array, *, baseline: float | Array
) -> float:
    """1 − MSE(prediction) / MSE(baseline): 0 for a prediction as good as the baseline, 1 for a
    perfect one; NaN where the baseline is perfect.

    The baseline is given, not the target's own mean, so that both are predictions made without
    seeing the target.

    >>> g, w = np.array([0.0, 1.0]), np.ones(2)
    >>> explained_variance(np.array([0.25, 0.75]), g, w, baseline=0.5)
    0.75
    """
    squares = np.stack([weight * (target - prediction) ** 2, weight * (target - baseline) ** 2])
    return float(_one_minus_ratio(squares.sum(axis=1)[None])[0])


def explained_variance_interval(
    prediction: Array,
    target: Array,
    weight: Array,
    resamples: Resamples,
    *,
    baseline: float | Array,
) -> tuple[float, float]:
    """95 % interval of `explained_variance`, by conversation.

    Both predictions are taken as they are: the interval says what other held-out conversations
    would have shown, not what another training run would have.
    """
    squares = np.stack(
        [weight * (target - prediction) ** 2, weight * (target - baseline) ** 2], axis=1
    )
    return percentile_interval(_one_minus_ratio(resamples.sums(squares)))


def _one_minus_ratio(sums_S2: Array) -> Array:
    return 1 - ratio(sums_S2[:, 0], sums_S2[:, 1])


def auc(prediction: Array, positive: Array, weight: Array | None = None) -> float:
    """Probability that a positive turn is scored above another (ties count half); NaN where one
    class is missing.

    With weights, turns are drawn with probabilities in their proportion.

    >>> auc(np.array([0.1, 0.4, 0.4]), np.array([False, False, True]))
    0.75
    """
    weight_N = np.ones(len(prediction)) if weight is None else weight
    return float(_weighted_auc(prediction, positive, weight_N[None])[0])


def auc_interval(
    prediction: Array, positive: Array, weight: Array, resamples: Resamples
) -> tuple[float, float]:
    """95 % interval of `auc`, by conversation."""
    blocks = [
        _weighted_auc(prediction, positive, weight * times[:, resamples.unit_N])
        for times in resamples.times(width=len(prediction))
    ]
    return percentile_interval(np.concatenate([np.empty(0), *blocks]))


def _weighted_auc(prediction: Array, positive: Array, weight_SN: Array) -> Array:
    """One AUC for each row of weights: Σ over predictions x, in order, of
    w(positives at x) · [w(others below x) + w(others at x) / 2]."""
    if len(prediction) == 0:
        return np.full(len(weight_SN), np.nan)
    order = np.argsort(prediction, kind="stable")
    ordered = prediction[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    sorted_SN = weight_SN[:, order]
    ours_SX = np.add.reduceat(np.where(positive[order], sorted_SN, 0.0), starts, axis=1)
    others_SX = np.add.reduceat(np.where(positive[order], 0.0, sorted_SN), starts, axis=1)
    won = np.sum(ours_SX * (np.cumsum(others_SX, axis=1) - others_SX / 2), axis=1)
    pairs = ours_SX.sum(axis=1) * others_SX.sum(axis=1)
    return ratio(won, pairs)


def correlation(
    first: Array, second: Array, weight: Array, resamples: Resamples
) -> tuple[float, float, float]:
    """Weighted correlation of two columns, and its 95 % interval by conversation; NaN where one of
    them does not vary."""
    mass = weight.sum()
    if not mass > 0 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return np.nan, np.nan, np.nan
    x, y = (column - np.sum(weight * column) / mass for column in (first, second))
    moments = np.stack([weight * each for each in (np.ones_like(x), x, y, x * x, y * y, x * y)], 1)
    low, high = percentile_interval(_correlation_of_sums(resamples.sums(moments)))
    return float(_correlation_of_sums(moments.sum(axis=0)[None])[0]), low, high


def _correlation_of_sums(sums_S6: Array) -> Array:
    """From Σw, Σwx, Σwy, Σwx², Σwy², Σwxy."""
    found = np.full(len(sums_S6), np.nan)
    some = sums_S6[:, 0] > 0
    _, x, y, xx, yy, xy = (sums_S6[some] / sums_S6[some, :1]).T
    variances = np.maximum(xx - x * x, 0) * np.maximum(yy - y * y, 0)
    covariance = xy - x * y
    # Rounding leaves a little variance where a resample has none.
    varies = variances > 1e-24 * np.maximum(xx * yy, np.finfo(float).tiny)
    values = np.full(len(x), np.nan)
    values[varies] = np.clip(covariance[varies] / np.sqrt(variances[varies]), -1, 1)
    found[some] = values
    return found
