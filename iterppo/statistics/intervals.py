"""Confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> tuple[float, float]:
    """Score interval of a proportion (Wilson, 1927); right also near 0 and 1, where ± 2 standard
    errors are not.

        (p + z²/2n ± z √(p(1−p)/n + z²/4n²)) / (1 + z²/n)

    Raises:
        ValueError: If not 0 <= successes <= trials, or trials is 0.

    >>> [round(x, 4) for x in wilson_interval(8, 10)]
    [0.4902, 0.9433]
    """
    if not 0 <= successes <= trials or trials == 0:
        raise ValueError(f"{successes} successes in {trials} trials")
    z = NormalDist().inv_cdf(0.5 + level / 2)
    p, n = successes / trials, trials
    centre = p + z * z / (2 * n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    low, high = (centre - half) / (1 + z * z / n), (centre + half) / (1 + z * z / n)
    return (0.0 if successes == 0 else low), (1.0 if successes == trials else high)


def newcombe_interval(
    successes: int, trials: int, base_successes: int, base_trials: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the difference of two proportions from their Wilson intervals (Newcombe, 1998,
    method 10).

    >>> [round(x, 4) for x in newcombe_interval(56, 70, 48, 80)]
    [0.0524, 0.3339]
    """
    low, high = wilson_interval(successes, trials, level=level)
    base_low, base_high = wilson_interval(base_successes, base_trials, level=level)
    p, q = successes / trials, base_successes / base_trials
    difference = p - q
    return (
        difference - math.hypot(p - low, base_high - q),
        difference + math.hypot(high - p, q - base_low),
    )


def cluster_bootstrap(
    clusters: Sequence[Any],
    statistic: Callable[[np.ndarray[Any, Any]], float],
    *,
    samples: int,
    seed: int,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile interval of a statistic when rows of one cluster (conversation) are not
    independent.

    Clusters are drawn with replacement, all rows of a drawn cluster together.

    Args:
        clusters: Cluster of each row.
        statistic: From row indices (with repetitions) to a number; a sample where it is not finite
            is left out.
        samples: Number of resamples.
        seed: Of the resampling.
        level: Of the interval.

    Returns:
        Lower and upper end; NaN for both where no resample gave a finite number.
    """
    generator = np.random.default_rng(seed)
    _, inverse = np.unique(np.asarray(clusters), return_inverse=True)
    order = np.argsort(inverse, kind="stable")
    members = np.split(order, np.cumsum(np.bincount(inverse))[:-1])
    values: list[float] = []
    for _ in range(samples):
        drawn = generator.integers(len(members), size=len(members))
        values.append(statistic(np.concatenate([members[number] for number in drawn])))
    return percentile_interval(np.asarray(values), level=level)


def percentile_interval(
    values: np.ndarray[Any, Any], *, level: float = 0.95
) -> tuple[float, float]:
    """The middle `level` of a statistic's resamples, those that are not finite left out; NaN for
    both ends where none is finite.

    >>> percentile_interval(np.array([0.0, 1.0, 2.0, 3.0, 4.0, np.nan]), level=0.5)
    (1.0, 3.0)
    """
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return math.nan, math.nan
    tail = (1 - level) / 2
    low, high = np.quantile(finite, [tail, 1 - tail])
    return float(low), float(high)
