"""Whether the arms are as large as the assignment meant them to be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEAST_P_VALUE = 0.001


def sample_ratio_p_value(counts: Sequence[int], expected: Sequence[float]) -> float:
    """Chance of sizes at least as far from the plan as these, were they assigned by it: Pearson's
    χ² test.

    A sample-ratio mismatch says that units were lost, counted twice or assigned by something else
    than chance, and whatever did that is seldom blind to the outcome (Fabijan et al., 2019, KDD).
    It is looked for at p < 0.001, since a sound experiment must pass every time.

    Args:
        counts: Units in each arm.
        expected: Their planned sizes, up to a factor.

    >>> sample_ratio_p_value([500, 500], [1, 1])
    1.0
    >>> round(sample_ratio_p_value([600, 500], [1, 1]), 5)
    0.00257
    """
    if sum(counts) == 0 or len(counts) < 2:
        return 1.0
    share = np.asarray(expected, dtype=float) / sum(expected)
    return float(stats.chisquare(counts, share * sum(counts)).pvalue)
