"""The difference of two means whose rows come in clusters: conversations of one customer are alike.

    y_i of arm a in cluster g    n_ga rows of arm a in cluster g,    N_a = Σ_g n_ga

A cluster may have rows in one arm (customers were randomised) or in both (conversations were).

Shapes: N rows of both arms, G clusters.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from iterppo.statistics.resampling import Array


@dataclass(frozen=True)
class MeanDifference:
    """Mean of arm 1 less that of arm 0, in the units of the values; NaN where it is not known."""

    difference: float
    standard_error: float
    degrees_of_freedom: float

    @property
    def p_value(self) -> float:
        """Of no difference, two-sided."""
        if math.isnan(self.standard_error):
            return math.nan
        if self.standard_error == 0:  # values that do not vary tell nothing of how they would
            return 1.0 if self.difference == 0 else math.nan
        t = abs(self.difference) / self.standard_error
        return float(2 * stats.t.sf(t, self.degrees_of_freedom))

    def interval(self, *, level: float) -> tuple[float, float]:
        """The difference ± t · standard error."""
        if math.isnan(self.standard_error) or self.standard_error == 0:
            return math.nan, math.nan
        half = stats.t.ppf(0.5 + level / 2, self.degrees_of_freedom) * self.standard_error
        return float(self.difference - half), float(self.difference + half)


def cluster_difference(value_N: Array, arm_N: Array, cluster_N: Array) -> MeanDifference:
    """Difference of two means with a standard error that holds within clusters.

        d = ȳ_1 − ȳ_0,    V = Σ_g (c_g1 − c_g0)²,
        c_ga = Σ_{i of a in g} (y_i − ȳ_a) / (N_a √(1 − n_ga/N_a))

    That is CR2 of Bell & McCaffrey (2002, Survey Methodology 28) for the regression on the arm,
    whose matrix square roots are scalars here. The plain sandwich is too small by what a cluster
    pulls its arm's mean towards itself; the division takes that out. V/σ² has a scaled χ²
    distribution, roughly: with Ω the covariance of the c_g1 − c_g0 where rows are independent with
    the variances s_a² of their arm, the degrees of freedom are (tr Ω)² / tr Ω² (Satterthwaite). Ω
    is a diagonal and matrices of rank one, so that its trace costs G, not G². Few clusters, or one
    large one, give few degrees of freedom and a wide interval.

    Where every row is a cluster of its own this is Welch's t test exactly.

    Args:
        value_N: y, any unit.
        arm_N: 1 or 0.
        cluster_N: Cluster of each row, any sortable values.

    Returns:
        NaN for the standard error where an arm has fewer than two clusters.

    >>> found = cluster_difference(np.array([3.0, 5.0, 1.0, 2.0]), np.array([1, 1, 0, 0]),
    ...                            np.arange(4))
    >>> found.difference, round(found.standard_error, 4), round(found.degrees_of_freedom, 4)
    (2.5, 1.118, 1.4706)
    """
    _, cluster = np.unique(cluster_N, return_inverse=True)
    num_clusters = int(cluster.max()) + 1 if len(cluster) else 0
    means, variances, shares, sums = [], [], [], []
    for arm in (0, 1):
        value, own = value_N[arm_N == arm].astype(float), cluster[arm_N == arm]
        count_G = np.bincount(own, minlength=num_clusters)
        if np.count_nonzero(count_G) < 2:
            mean = float(value.mean()) if len(value) else math.nan
            means.append(mean)
            continue
        mean = float(value.mean())
        residual = value - mean
        share_G = count_G / len(value)
        total_G = np.bincount(own, weights=residual, minlength=num_clusters)
        means.append(mean)
        variances.append(float(residual @ residual) / (len(value) - 1) / len(value))
        shares.append(share_G)
        sums.append(total_G / len(value) / np.sqrt(1 - share_G))
    difference = means[1] - means[0]
    if len(sums) < 2:
        return MeanDifference(difference, math.nan, math.nan)
    standard_error = float(np.linalg.norm(sums[1] - sums[0]))
    return MeanDifference(
        difference, standard_error, _degrees_of_freedom(variances, shares[0], shares[1])
    )


def _degrees_of_freedom(variances: list[float], share0_G: Array, share1_G: Array) -> float:
    """(tr Ω)² / tr Ω² with Ω = Σ_a v_a (diag(h_a) − off-diagonal of u_a u_aᵀ), u = h / √(1 − h).

    h_a is the share of each cluster in its arm, v_a = s_a² / N_a.
    """

    def off_diagonal(first_G: Array, second_G: Array) -> float:
        product_G = first_G * second_G
        return float(product_G.sum() ** 2 - (product_G**2).sum())

    u0_G, u1_G = (share_G / np.sqrt(1 - share_G) for share_G in (share0_G, share1_G))
    v0, v1 = variances
    trace_of_square = (
        v0**2 * (float(share0_G @ share0_G) + off_diagonal(u0_G, u0_G))
        + v1**2 * (float(share1_G @ share1_G) + off_diagonal(u1_G, u1_G))
        + 2 * v0 * v1 * (float(share0_G @ share1_G) + off_diagonal(u0_G, u1_G))
    )
    return (v0 + v1) ** 2 / trace_of_square if trace_of_square > 0 else math.nan
