"""Whether a difference is the same in all segments."""

from __future__ import annotations

import numpy as np
from scipy import stats

from iterppo.statistics.resampling import Array


def heterogeneity_p_value(difference_S: Array, variance_S: Array) -> float:
    """Cochran's (1954) test that one difference holds in all of S segments.

        Q = Σ (d_s − d̄)² / V_s,    d̄ = Σ d_s/V_s / Σ 1/V_s,    Q ~ χ²(S − 1)

    Returns:
        Its p-value; 1 for fewer than two segments.

    >>> round(heterogeneity_p_value(np.array([0.0, 0.2]), np.array([0.005, 0.005])), 4)
    0.0455
    """
    if len(difference_S) < 2:
        return 1.0
    weight_S = 1 / variance_S
    mean = float(weight_S @ difference_S / weight_S.sum())
    scatter = np.sum(weight_S * (difference_S - mean) ** 2)
    return float(stats.chi2.sf(scatter, len(difference_S) - 1))
