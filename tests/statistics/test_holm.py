"""Holm's correction, by hand and by its property."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iterppo.statistics.holm import holm

p_values = st.lists(st.floats(0, 1), max_size=6)


def test_the_example_of_four_arms_by_hand() -> None:
    assert holm([0.01, 0.02, 0.03, 0.005]) == pytest.approx([0.03, 0.04, 0.04, 0.02])


@pytest.mark.parametrize("given_", [[], [0.3]], ids=["none", "one"])
def test_fewer_than_two_are_left_alone(given_: list[float]) -> None:
    assert holm(given_) == given_


@given(p_values)
def test_it_is_the_closed_test_of_bonferroni(values: list[float]) -> None:
    """A hypothesis falls where Bonferroni rejects every intersection that it belongs to."""
    found = holm(values)

    for k in range(len(values)):
        others = [j for j in range(len(values)) if j != k]
        sets = (
            (k, *more)
            for size in range(len(values))
            for more in itertools.combinations(others, size)
        )
        worst = max(min(1.0, len(each) * min(values[j] for j in each)) for each in sets)
        assert found[k] == pytest.approx(worst)


def test_true_hypotheses_are_seldom_rejected_together() -> None:
    """Three arms against one base, all alike: the tests depend on each other through the base."""
    generator = np.random.default_rng(0)
    rejected = 0
    from_base = generator.normal(size=(2000, 1))
    z = (generator.normal(size=(2000, 3)) - from_base) / np.sqrt(2)
    for row in 2 * stats.norm.sf(np.abs(z)):
        rejected += min(holm(row.tolist())) <= 0.05

    assert rejected / 2000 <= 0.055
