"""Whether a Q̂ of x is worth x: calibration curve and error, overall and by group.

Shapes: N turns, S resamples of conversations, B bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from iterppo.statistics.intervals import percentile_interval
from iterppo.statistics.resampling import Array, Resamples, ratio

NUM_BINS = 10
LEAST_TURNS = 30  # of a group that is reported, and of a bin within a group


def prediction_bins(prediction: Array, *, num_bins: int) -> Array:
    """Bin of each turn, from 0, of equal size by prediction.

    Equal predictions share a bin, so the order of the turns does not matter and a constant is one
    bin.

    >>> prediction_bins(np.array([0.3, 0.1, 0.9, 0.1]), num_bins=2).tolist()
    [1, 0, 1, 0]
    """
    _, inverse, counts = np.unique(prediction, return_inverse=True, return_counts=True)
    middle_rank = (np.cumsum(counts) - counts / 2)[inverse]
    bins: Array = (middle_rank * num_bins / max(1, len(prediction))).astype(int)
    return bins


def calibration_error(
    prediction: Array, target: Array, weight: Array, *, num_bins: int = NUM_BINS
) -> float:
    """Expected calibration error: mean |mean prediction − mean return| over bins of equal size by
    prediction, each counting by its weight; in units of the return.

    >>> ones = np.ones(4)
    >>> round(calibration_error(np.array([0.1, 0.3, 0.7, 0.9]), np.array([0, 0, 0, 1]), ones,
    ...                         num_bins=2), 6)
    0.25
    """
    bins = prediction_bins(prediction, num_bins=num_bins)
    gap, mass = (
        np.bincount(bins, weights=column, minlength=num_bins)
        for column in (weight * (prediction - target), weight)
    )
    return float(np.abs(gap).sum() / mass.sum()) if mass.sum() > 0 else math.nan


@dataclass(frozen=True)
class Calibration:
    """Calibration error with its interval, what chance alone would show, and the curve."""

    error: float
    low: float
    high: float
    by_chance: float
    by_chance_high: float
    curve: list[dict[str, float | int]]


def calibration(
    prediction: Array,
    target: Array,
    weight: Array,
    resamples: Resamples,
    *,
    num_bins: int = NUM_BINS,
) -> Calibration:
    """Calibration error and curve, with 95 % intervals by conversation.

    The error is a mean of absolute gaps, so that noise in a bin only ever adds to it, and a
    resample's error is above ECE as ECE is above the truth. Two things follow. The ends of its
    interval are 2·ECE − the 97.5 % quantile of the resamples (cut at 0), which takes that excess
    out, and the 97.5 % quantile itself, which is then on the safe side. And what a perfectly
    calibrated Q̂ would show with as many conversations is given beside it: `by_chance`, the mean
    over resamples of Σ_b w_b |gap*_b − gap_b| / Σ_b w_b, and `by_chance_high`, their 97.5 %
    quantile.

    Bins stay where they are in the data; a resample changes what lies in them.
    """
    bins = prediction_bins(prediction, num_bins=num_bins)
    columns = np.stack([weight, weight * prediction, weight * target], axis=1)
    whole_B3 = np.stack([np.bincount(bins, weights=c, minlength=num_bins) for c in columns.T], 1)
    drawn_SB3 = resamples.grouped_sums(columns, bins, num_groups=num_bins)
    error = calibration_error(prediction, target, weight, num_bins=num_bins)
    low = high = math.nan
    chance = np.empty(0)
    mass_S = drawn_SB3[:, :, 0].sum(axis=1)
    drawn_SB3, mass_S = drawn_SB3[mass_S > 0], mass_S[mass_S > 0]
    if len(mass_S) and whole_B3[:, 0].sum() > 0:
        total_gap_SB = drawn_SB3[:, :, 1] - drawn_SB3[:, :, 2]
        gap_B = ratio(whole_B3[:, 1] - whole_B3[:, 2], whole_B3[:, 0])
        centred_SB = total_gap_SB - drawn_SB3[:, :, 0] * np.nan_to_num(gap_B)
        chance = np.abs(centred_SB).sum(axis=1) / mass_S
        _, drawn_high = percentile_interval(np.abs(total_gap_SB).sum(axis=1) / mass_S)
        low, high = max(0.0, 2 * error - drawn_high), max(error, drawn_high)
    curve: list[dict[str, float | int]] = []
    for number in range(num_bins):
        mass, q, g = whole_B3[number].tolist()
        if not mass > 0:
            continue
        means_S = ratio(drawn_SB3[:, number, 2], drawn_SB3[:, number, 0])
        return_low, return_high = percentile_interval(means_S)
        curve.append(
            {
                "q_mean": q / mass,
                "return_mean": g / mass,
                "return_mean_low": return_low,
                "return_mean_high": return_high,
                "weight": mass,
                "num_turns": int(np.sum(bins == number)),
                "num_conversations": len(np.unique(resamples.conversation_N[bins == number])),
            }
        )
    return Calibration(
        error=error,
        low=low,
        high=high,
        by_chance=float(chance.mean()) if len(chance) else math.nan,
        by_chance_high=float(np.quantile(chance, 0.975)) if len(chance) else math.nan,
        curve=curve,
    )


def calibration_by_group(
    label_N: Sequence[str],
    prediction: Array,
    target: Array,
    weight: Array,
    resamples: Resamples,
) -> dict[str, Any]:
    """Calibration of each group of turns, in the order of their labels.

    A group has at most 10 bins and at least 30 turns in each: in bins of three turns chance would
    be all that one sees. Groups of fewer than 30 turns are left out, and counted.
    """
    labels = np.asarray(label_N, dtype=object)
    groups, left_out = [], []
    for label in sorted(set(labels.tolist())):
        rows = np.flatnonzero(labels == label)
        if len(rows) < LEAST_TURNS:
            left_out.append(len(rows))
            continue
        q, g, w = prediction[rows], target[rows], weight[rows]
        found = calibration(
            q,
            g,
            w,
            resamples.rows(rows),
            num_bins=max(1, min(NUM_BINS, len(rows) // LEAST_TURNS)),
        )
        groups.append(
            {
                "label": label,
                "num_turns": len(rows),
                "num_conversations": len(np.unique(resamples.conversation_N[rows])),
                "q_mean": float(np.average(q, weights=w)),
                "return_mean": float(np.average(g, weights=w)),
                "calibration_error": found.error,
                "calibration_error_low": found.low,
                "calibration_error_high": found.high,
                "calibration_error_by_chance": found.by_chance,
                "calibration_error_by_chance_high": found.by_chance_high,
            }
        )
    return {
        "groups": groups,
        "num_groups_left_out": len(left_out),
        "num_turns_left_out": sum(left_out),
    }
