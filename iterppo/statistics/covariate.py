"""Less noise through what was known before the first suggestion (CUPED)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iterppo.statistics.resampling import Array


class Adjusted(NamedTuple):
    """Values without what the covariate explains."""

    value_N: Array
    theta: float
    variance_explained: float
    """Share of the variance within arms that is gone."""


def adjust(value_N: Array, covariate_N: Array, arm_N: Array) -> Adjusted:
    """Take out of y what a covariate x from before the experiment predicts.

        y' = y − θ (x − x̄),    θ = Σ (x − x̄_a)(y − ȳ_a) / Σ (x − x̄_a)²

    Sums run within arms, so θ holds nothing of the effect; x̄ is the mean over all arms. An x that
    the arm cannot have changed has the same mean in every arm, so that y' has the effect of y and
    the share 1 − ρ² of its variance (Deng, Xu, Kohavi & Walker, 2013, WSDM).

    Args:
        value_N: y, any unit.
        covariate_N: x, any unit; NaN where it is not known, which then counts as the mean.
        arm_N: Number of the arm.

    >>> y, x = np.array([1.0, 3.0, 2.0, 4.0]), np.array([0.0, 1.0, 0.0, 1.0])
    >>> adjust(y, x, np.array([0, 0, 1, 1])).value_N.tolist()
    [2.0, 2.0, 3.0, 3.0]
    """
    known = np.isfinite(covariate_N)
    x = np.where(known, covariate_N, 0.0)
    mean = x[known].mean() if known.any() else 0.0
    within_x, within_y = np.zeros(len(x)), np.zeros(len(x))
    for arm in np.unique(arm_N):
        own = known & (arm_N == arm)
        if own.any():
            within_x[own] = x[own] - x[own].mean()
            within_y[own] = value_N[own] - value_N[own].mean()
    variance = float(within_x @ within_x)
    if variance <= 1e-24:
        return Adjusted(value_N.astype(float), 0.0, 0.0)
    theta = float(within_x @ within_y) / variance
    total = sum(
        float(np.sum((value_N[arm_N == arm] - value_N[arm_N == arm].mean()) ** 2))
        for arm in np.unique(arm_N)
    )
    explained = theta**2 * variance / total if total > 0 else 0.0
    return Adjusted(value_N - theta * np.where(known, x - mean, 0.0), theta, explained)
