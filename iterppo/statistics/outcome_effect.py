"""How much an arm's outcome rate differs from the base's, by the method that the data ask for.

| conversations | for one look | for any number of looks |
|---|---|---|
| independent | Newcombe's interval | normal mixture, variance of two rates |
| in clusters, or adjusted | t of `cluster_difference` | normal mixture, its variance |

Shapes: N conversations that ended.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from iterppo.statistics.always_valid import (
    LEAST_DEGREES_OF_FREEDOM,
    always_valid,
    rate_variance,
)
from iterppo.statistics.cluster_difference import cluster_difference
from iterppo.statistics.intervals import newcombe_interval
from iterppo.statistics.rate_difference import newcombe_p_value
from iterppo.statistics.resampling import Array


class Outcomes(NamedTuple):
    """One arm."""

    value_N: Array
    """1 or 0, or what is left of them after an adjustment."""
    cluster_N: Array | None = None
    """None: every conversation is independent of all others."""


@dataclass(frozen=True)
class Effect:
    """Difference of two outcome rates."""

    difference: float
    low: float | None
    """Of the interval; None where there are too few clusters for one."""
    high: float | None
    p_value: float
    method: str

    def told(self) -> dict[str, Any]:
        """As columns of the arm."""
        return {
            "difference": self.difference,
            "difference_low": self.low,
            "difference_high": self.high,
            "p_value": self.p_value,
            "method": self.method,
        }


def outcome_effect(
    arm: Outcomes, base: Outcomes, *, is_adjusted: bool, scale: float | None, level: float
) -> Effect:
    """Rate of the arm less that of the base.

    Args:
        arm: With at least one conversation.
        base: As arm; with clusters if it has them.
        is_adjusted: Values are no longer 0 or 1.
        scale: τ of `always_valid`, a difference of rates; None: for one look.
        level: Of the interval.

    >>> effect = outcome_effect(Outcomes(np.repeat([1, 0], [56, 14])),
    ...                         Outcomes(np.repeat([1, 0], [48, 32])),
    ...                         is_adjusted=False, scale=None, level=0.95)
    >>> round(effect.difference, 4), round(effect.low, 4), round(effect.high, 4)
    (0.2, 0.0524, 0.3339)
    """
    if arm.cluster_N is None and not is_adjusted:
        counts = (
            *(int(arm.value_N.sum()), len(arm.value_N)),
            *(int(base.value_N.sum()), len(base.value_N)),
        )
        difference = counts[0] / counts[1] - counts[2] / counts[3]
        if scale is not None:
            return _sequential(difference, float(rate_variance(*counts)), scale, level)
        low, high = newcombe_interval(*counts, level=level)
        return Effect(difference, low, high, newcombe_p_value(*counts), "newcombe")
    num, num_base = len(arm.value_N), len(base.value_N)
    if arm.cluster_N is None or base.cluster_N is None:
        clusters, method = np.arange(num + num_base), "welch"
    else:
        clusters, method = np.concatenate([arm.cluster_N, base.cluster_N]), "cluster-robust"
    found = cluster_difference(
        np.concatenate([arm.value_N, base.value_N]), np.repeat([1, 0], [num, num_base]), clusters
    )
    if scale is not None:
        variance = found.standard_error**2
        known = found.degrees_of_freedom >= LEAST_DEGREES_OF_FREEDOM and variance > 0
        return _sequential(found.difference, variance if known else math.inf, scale, level)
    low, high = found.interval(level=level)
    if math.isnan(low):
        return Effect(found.difference, None, None, 1.0, method)
    return Effect(found.difference, low, high, found.p_value, method)


def _sequential(difference: float, variance: float, scale: float, level: float) -> Effect:
    found = always_valid(difference, variance, scale=scale, level=level)
    # Two rates differ by at most 1, and JSON has no infinity.
    low, high = max(-1.0, float(found.low)), min(1.0, float(found.high))
    return Effect(difference, low, high, float(found.p_value), "always-valid")
