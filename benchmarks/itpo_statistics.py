"""What `benchmarks.itpo` counts: hits, ranks, slopes, and intervals over seeds.

Shapes: K turns of B conversations laid end to end, N units (turns or tokens), C checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import spearmanr
from scipy.stats import t as student

Array = np.ndarray[Any, Any]
TIE = 1e-9


class Estimate(NamedTuple):
    """A number of one run."""

    value: float
    standard_error: float


def hits(score_K: Array, truth_K: Array, num_turns_B: Array) -> Array:
    """Whether the turn of the highest score is the truly best one, of each conversation.

    Scores that tie are drawn from at random, and the chance of a hit is what counts: a method that
    scores all turns alike gets what guessing gets. NaN where no turn is better than another, or
    there is only one.

    >>> hits(np.array([3.0, 1.0, 0.0, 0.0]), np.array([0.2, 0.1, 0.0, 0.5]), np.array([2, 2]))
    array([1. , 0.5])
    """
    found = []
    edges = np.cumsum(num_turns_B)[:-1]
    for score, truth in zip(np.split(score_K, edges), np.split(truth_K, edges), strict=True):
        if len(truth) < 2 or np.ptp(truth) <= TIE:
            found.append(math.nan)
            continue
        named = score >= score.max() - TIE
        right = truth >= truth.max() - TIE
        found.append(float((named & right).sum() / named.sum()))
    return np.array(found)


def mean_of(values: Array) -> Estimate:
    """Mean over conversations, those without a number left out."""
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return Estimate(float(known.mean()) if len(known) else math.nan, math.nan)
    return Estimate(float(known.mean()), float(known.std(ddof=1) / math.sqrt(len(known))))


def spearman_with_last(value_CN: Sequence[Array]) -> Array:
    """Rank correlation of each checkpoint but the last with the last, over all units.

    >>> spearman_with_last([np.array([3.0, 2.0, 1.0]), np.array([1.0, 2.0, 9.0])])
    array([-1.])
    """
    return np.array([float(spearmanr(value_N, value_CN[-1])[0]) for value_N in value_CN[:-1]])


def slope(x_B: Array, y_B: Array) -> float:
    """Of y on x, by least squares; NaN where x does not vary.

    >>> slope(np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0]))
    2.0
    """
    centred_B = x_B - x_B.mean()
    square = float(centred_B @ centred_B)
    return float(centred_B @ y_B) / square if square > 0 else math.nan


def bootstrapped(
    statistic: Callable[[Array], float], num_conversations: int, *, samples: int, seed: int
) -> Estimate:
    """A statistic of conversations (given as indices, with repetitions), and its standard error."""
    generator = np.random.default_rng(seed)
    drawn = [
        statistic(generator.integers(num_conversations, size=num_conversations))
        for _ in range(samples)
    ]
    value = statistic(np.arange(num_conversations))
    return Estimate(value, float(np.nanstd(drawn, ddof=1)))


def units_of(conversations: Array, size_B: Array) -> Array:
    """Indices of the units of these conversations, in their order.

    >>> units_of(np.array([1, 0, 1]), np.array([1, 2])).tolist()
    [1, 2, 0, 1, 2]
    """
    starts_B = np.cumsum(size_B) - size_B
    return np.concatenate([np.arange(starts_B[c], starts_B[c] + size_B[c]) for c in conversations])


def over_seeds(estimates: Sequence[Estimate]) -> tuple[float, tuple[float, float]]:
    """Mean and 95 % interval: Student's over three seeds or more, which sees how much seeds differ;
    over fewer, from the runs' own standard errors, which does not.

    >>> over_seeds([Estimate(1.0, 0.0), Estimate(2.0, 0.0), Estimate(3.0, 0.0)])[0]
    2.0
    """
    values = np.array([estimate.value for estimate in estimates])
    mean, number = float(values.mean()), len(values)
    if number >= 3:
        half = float(student.ppf(0.975, number - 1)) * float(values.std(ddof=1)) / math.sqrt(number)
    else:
        half = 1.96 * math.sqrt(sum(e.standard_error**2 for e in estimates)) / number
    return mean, (mean - half, mean + half)
