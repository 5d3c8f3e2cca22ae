"""What a Q̂ makes of the action: several actions of the policy at each of some states.

Shapes: S states, K actions sampled at each, R resamples of conversations. An action that was not
sampled is NaN.
"""

from __future__ import annotations

import numpy as np

from iterppo.statistics.intervals import percentile_interval
from iterppo.statistics.resampling import Array, Resamples, ratio

Estimate = tuple[float, float, float]  # the number, and the ends of its 95 % interval
_NONE: Estimate = (np.nan, np.nan, np.nan)


def action_share(q_SK: Array, resamples: Resamples) -> Estimate:
    """Share of Q̂'s variance that the action makes at a fixed state.

        W / (W + B),    W = mean_s v_s,    B = Var_s(m_s) − mean_s (v_s / K_s)

    m_s and v_s are mean and unbiased variance (divisor K_s − 1) of Q̂ over the actions at s, and
    Var_s has the divisor S − 1. m_s itself varies by v_s / K_s through the choice of the actions;
    B is what is left without that, an unbiased estimate of the variance between states (one-way
    analysis of variance), cut at 0. So the share does not depend on K but for its precision.
    States with fewer than 2 actions are left out.

    Near 0, Q̂ is a model of the state: every action gets the same reward and PPO learns nothing.

    >>> q_SK = np.array([[0.0, 2.0], [4.0, 6.0]])  # v = 2, 2; m = 1, 5; W = 2, B = 8 - 1
    >>> round(action_share(q_SK, Resamples.of([0, 1], samples=0, seed=0))[0], 6)
    0.222222
    """
    q_SK, resamples = _with_two_actions(q_SK, resamples)
    if len(q_SK) < 2:
        return _NONE
    q_SK = q_SK - np.nanmin(q_SK)
    least_S1 = np.nanmin(q_SK, axis=1, keepdims=True)  # equal values then vary by exactly nothing
    mean_S = least_S1[:, 0] + np.nanmean(q_SK - least_S1, axis=1)
    within_S = np.nanvar(q_SK - least_S1, axis=1, ddof=1)
    counted_S = np.sum(np.isfinite(q_SK), axis=1)
    columns = np.stack(
        [np.ones_like(mean_S), mean_S, mean_S**2, within_S, within_S / counted_S], axis=1
    )
    found = _share_of_sums(columns.sum(axis=0)[None])
    return float(found[0]), *percentile_interval(_share_of_sums(resamples.sums(columns)))


def _share_of_sums(sums_R5: Array) -> Array:
    found = np.full(len(sums_R5), np.nan)
    some = sums_R5[:, 0] > 1
    num = sums_R5[some, 0]
    mean, square, within, of_means = (sums_R5[some, column] / num for column in range(1, 5))
    between = np.maximum((square - mean**2) * num / (num - 1) - of_means, 0)
    found[some] = ratio(within, within + between)
    return found


def length_sensitivity(
    q_SK: Array, length_SK: Array, resamples: Resamples
) -> tuple[Estimate, Estimate]:
    """How Q̂ moves with the length of the action at a fixed state: the correlation, and the slope
    in Q̂ per 10 tokens.

    Both columns are taken less their mean at the state, so that states which call for long answers
    do not count: with q̃ and l̃, Σ q̃ l̃ / √(Σ q̃² Σ l̃²) and 10 Σ q̃ l̃ / Σ l̃².
    """
    length_SK = np.where(np.isfinite(q_SK), length_SK, np.nan)
    length_SK, _ = _with_two_actions(length_SK, resamples)
    q_SK, resamples = _with_two_actions(q_SK, resamples)
    if len(q_SK) == 0:
        return _NONE, _NONE
    q, length = (_demeaned(each) for each in (q_SK, length_SK))
    columns = np.stack([np.nansum(x, axis=1) for x in (q * q, length * length, q * length)], axis=1)
    whole, drawn = columns.sum(axis=0)[None], resamples.sums(columns)
    by_tokens = (
        (ratio(each[:, 2], np.sqrt(each[:, 0] * each[:, 1])), 10 * ratio(each[:, 2], each[:, 1]))
        for each in (whole, drawn)
    )
    (correlation, slope), (correlation_R, slope_R) = by_tokens
    return (
        (float(correlation[0]), *percentile_interval(correlation_R)),
        (float(slope[0]), *percentile_interval(slope_R)),
    )


def _with_two_actions(values_SK: Array, resamples: Resamples) -> tuple[Array, Resamples]:
    rows = np.flatnonzero(np.sum(np.isfinite(values_SK), axis=1) >= 2)
    return values_SK[rows], resamples.rows(rows)


def _demeaned(values_SK: Array) -> Array:
    shifted = values_SK - np.nanmin(values_SK, axis=1, keepdims=True)  # equal ones: exactly 0
    centred: Array = shifted - np.nanmean(shifted, axis=1, keepdims=True)
    return centred
