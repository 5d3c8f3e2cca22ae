"""Ratios of sums in two arms, and their difference, by resampling whole conversations.

    R_a = Σ_i above_i / Σ_i below_i over the conversations i of arm a

A mean over conversations is such a ratio (below = 1, or 0 where the value is not known), and so is
a share of turns.

Where a measure is known of few units, or is the same in all of them, no interval is given:
resamples of one conversation, or of a hundred failures, are all alike, and what they say looks
certain.

Shapes: N conversations, F measures, S resamples.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from iterppo.statistics import FEWEST_CONVERSATIONS
from iterppo.statistics.intervals import percentile_interval
from iterppo.statistics.resampling import Array, Resamples, ratio

SAMPLES = 1000
SEED = 0


class Sample(NamedTuple):
    """One arm."""

    above_NF: Array
    below_NF: Array
    unit_N: Array
    """What is drawn as a whole: the conversation, or its cluster."""


class Estimate(NamedTuple):
    """A number and the ends of its interval; NaN where there is none."""

    value: float
    low: float
    high: float


def ratios(sample: Sample, *, level: float) -> list[Estimate]:
    """The measures of one arm, (F)."""
    return _estimates(_whole(sample), _drawn(sample, seed=SEED), _enough(sample), level=level)


def ratio_differences(sample: Sample, base: Sample, *, level: float) -> list[Estimate]:
    """The measures of one arm less those of another, (F), with percentile intervals.

    Units in both arms are drawn in both at once, else each arm is drawn by itself.
    """
    if np.isin(sample.unit_N, base.unit_N).any():
        units = np.concatenate([sample.unit_N, base.unit_N])
        columns = (sample.above_NF, sample.below_NF, base.above_NF, base.below_NF)
        rows = np.zeros((len(units), sum(each.shape[1] for each in columns)))
        num, width = len(sample.unit_N), columns[0].shape[1]
        rows[:num, : 2 * width] = np.hstack(columns[:2])
        rows[num:, 2 * width :] = np.hstack(columns[2:])
        sums = Resamples.of(units, samples=SAMPLES, seed=SEED).sums(rows)
        one, other = _ratio(sums[:, : 2 * width]), _ratio(sums[:, 2 * width :])
    else:
        one, other = _drawn(sample, seed=SEED), _drawn(base, seed=SEED + 1)
    enough_F = _enough(sample) & _enough(base)
    return _estimates(_whole(sample) - _whole(base), one - other, enough_F, level=level)


def _estimates(whole_F: Array, drawn_SF: Array, enough_F: Array, *, level: float) -> list[Estimate]:
    return [
        Estimate(
            float(value),
            *(percentile_interval(drawn_S, level=level) if enough else (math.nan, math.nan)),
        )
        for value, drawn_S, enough in zip(whole_F, drawn_SF.T, enough_F, strict=True)
    ]


def _enough(sample: Sample) -> Array:
    """Whether so many units as a bootstrap asks for have the measure, and not all the same, (F)."""
    found = []
    for above_N, below_N in zip(sample.above_NF.T, sample.below_NF.T, strict=True):
        known_N = below_N > 0
        units = set(sample.unit_N[known_N].tolist())
        values = set((above_N[known_N] / below_N[known_N]).tolist())
        found.append(len(units) >= FEWEST_CONVERSATIONS and len(values) > 1)
    return np.asarray(found)


def _whole(sample: Sample) -> Array:
    sums = np.hstack([sample.above_NF, sample.below_NF]).sum(axis=0)
    whole: Array = _ratio(sums[None])[0]
    return whole


def _drawn(sample: Sample, *, seed: int) -> Array:
    rows = np.hstack([sample.above_NF, sample.below_NF])
    return _ratio(Resamples.of(sample.unit_N, samples=SAMPLES, seed=seed).sums(rows))


def _ratio(sums_SF: Array) -> Array:
    """Of the first half of the columns to the second."""
    above, below = np.split(sums_SF, 2, axis=1)
    return ratio(above.ravel(), below.ravel()).reshape(above.shape)
