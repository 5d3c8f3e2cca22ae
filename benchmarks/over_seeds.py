"""Means over seeds, with their intervals."""

from __future__ import annotations

import math

import numpy as np
from scipy import stats


def intervals(rate_SK: np.ndarray) -> dict[str, list[float]]:
    """Mean over seeds, and its interval by Student's t; of one seed there is none."""
    S = len(rate_SK)
    mean_K = rate_SK.mean(axis=0)
    ends = {"mean": mean_K}
    if S > 1:
        half_K = stats.t.ppf(0.975, S - 1) * rate_SK.std(axis=0, ddof=1) / math.sqrt(S)
        ends |= {"low": mean_K - half_K, "high": mean_K + half_K}
    return {name: [round(float(x), 4) for x in end_K] for name, end_K in ends.items()}


def interval(value_S: np.ndarray) -> dict[str, float]:
    """The same of one number a seed."""
    return {name: ends[0] for name, ends in intervals(value_S[:, None]).items()}
