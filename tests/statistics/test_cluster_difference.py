"""The cluster-robust difference is Bell and McCaffrey's, and Welch's where nothing is clustered."""

import math
from typing import Any

import numpy as np
import pytest
from scipy import linalg, stats

from iterppo.statistics.cluster_difference import cluster_difference

Array = np.ndarray[Any, Any]


def by_matrices(value_N: Array, arm_N: Array, cluster_N: Array) -> tuple[float, float]:
    """Standard error and degrees of freedom of CR2, written with the matrices of the paper."""
    design = np.stack([arm_N == 0, arm_N == 1], axis=1).astype(float)
    bread = np.linalg.inv(design.T @ design)
    hat = design @ bread @ design.T
    residual = value_N - hat @ value_N
    contrast = np.array([-1.0, 1.0])
    variance = 0.0
    makers = []
    for cluster in np.unique(cluster_N):
        rows = np.flatnonzero(cluster_N == cluster)
        # A cluster that fills its arm but for others has a pseudo-inverse; none does here.
        adjustment = linalg.fractional_matrix_power(
            np.eye(len(rows)) - hat[np.ix_(rows, rows)], -0.5
        )
        weights = contrast @ bread @ design[rows].T @ adjustment.real
        variance += float(weights @ residual[rows]) ** 2
        makers.append(weights @ (np.eye(len(value_N)) - hat)[rows])
    rows_GN = np.stack(makers)
    of_arm = [float(np.var(value_N[arm_N == arm], ddof=1)) for arm in (0, 1)]
    omega = rows_GN @ np.diag([of_arm[int(arm)] for arm in arm_N]) @ rows_GN.T
    return math.sqrt(variance), float(np.trace(omega) ** 2 / np.trace(omega @ omega))


@pytest.mark.parametrize("split_clusters", [False, True], ids=["customers", "conversations"])
def test_it_is_the_cr2_of_the_paper(split_clusters: bool) -> None:
    generator = np.random.default_rng(3)
    cluster_N = np.repeat(np.arange(9), [1, 5, 2, 3, 4, 1, 6, 2, 3])
    arm_N = generator.integers(2, size=len(cluster_N)) if split_clusters else cluster_N % 2
    value_N = generator.random(len(cluster_N)) + cluster_N / 9 + arm_N

    found = cluster_difference(value_N, arm_N, cluster_N)

    error, df = by_matrices(value_N, arm_N, cluster_N)
    assert found.difference == pytest.approx(
        value_N[arm_N == 1].mean() - value_N[arm_N == 0].mean()
    )
    assert found.standard_error == pytest.approx(error)
    assert found.degrees_of_freedom == pytest.approx(df)


def test_single_rows_as_clusters_are_welchs_test() -> None:
    generator = np.random.default_rng(0)
    one, other = generator.normal(0.3, 2, size=30), generator.normal(0, 1, size=12)

    found = cluster_difference(
        np.concatenate([one, other]), np.repeat([1, 0], [30, 12]), np.arange(42)
    )

    welch = stats.ttest_ind(one, other, equal_var=False)
    interval = welch.confidence_interval(0.9)
    assert found.p_value == pytest.approx(welch.pvalue)
    assert found.degrees_of_freedom == pytest.approx(welch.df)
    assert found.interval(level=0.9) == pytest.approx((interval.low, interval.high))


def test_equal_clusters_are_the_t_test_of_their_means() -> None:
    generator = np.random.default_rng(1)
    value_CT = generator.random((10, 4)) + generator.random((10, 1))

    found = cluster_difference(value_CT.ravel(), np.repeat([1, 0], 20), np.repeat(np.arange(10), 4))

    means = value_CT.mean(axis=1)
    assert found.standard_error == pytest.approx(
        math.sqrt(np.var(means[:5], ddof=1) / 5 + np.var(means[5:], ddof=1) / 5)
    )


def test_the_names_of_clusters_do_not_matter_nor_the_order_of_rows() -> None:
    generator = np.random.default_rng(2)
    cluster_N = generator.integers(6, size=40)
    arm_N, value_N = cluster_N % 2, generator.random(40)
    order = generator.permutation(40)
    names = np.array(["f", "a", "zz", "b", "", "c"], dtype=object)

    found = cluster_difference(value_N, arm_N, cluster_N)

    other = cluster_difference(value_N[order], arm_N[order], names[cluster_N][order])
    assert other.standard_error == pytest.approx(found.standard_error)
    assert other.degrees_of_freedom == pytest.approx(found.degrees_of_freedom)


def test_one_cluster_in_an_arm_gives_no_interval() -> None:
    found = cluster_difference(
        np.array([1.0, 2.0, 3.0, 5.0]), np.array([1, 1, 0, 0]), np.array([0, 0, 1, 2])
    )

    assert found.difference == -2.5
    assert math.isnan(found.p_value)
    assert all(math.isnan(end) for end in found.interval(level=0.95))


@pytest.mark.parametrize(
    ("values", "p_value"),
    [([1.0, 1, 1, 1], 1.0), ([1.0, 1, 0, 0], math.nan)],
    ids=["same", "apart"],
)
def test_values_that_do_not_vary_give_no_interval(values: list[float], p_value: float) -> None:
    found = cluster_difference(np.array(values), np.array([1, 1, 0, 0]), np.arange(4))

    assert found.p_value == pytest.approx(p_value, nan_ok=True)
    assert all(math.isnan(end) for end in found.interval(level=0.95))
