"""Cochran's test."""

import numpy as np
import pytest
from scipy import stats

from iterppo.statistics.heterogeneity import heterogeneity_p_value


def test_two_segments_are_the_z_test_of_their_difference() -> None:
    p_value = heterogeneity_p_value(np.array([0.1, -0.05]), np.array([0.002, 0.004]))

    assert p_value == pytest.approx(2 * stats.norm.sf(0.15 / np.sqrt(0.006)))


def test_equal_effects_have_uniform_p_values() -> None:
    generator = np.random.default_rng(0)
    variance = np.array([0.01, 0.02, 0.005, 0.1])
    found = [
        heterogeneity_p_value(0.3 + generator.normal(size=4) * np.sqrt(variance), variance)
        for _ in range(2000)
    ]

    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_one_segment_is_alike() -> None:
    assert heterogeneity_p_value(np.array([0.4]), np.array([0.01])) == 1.0
