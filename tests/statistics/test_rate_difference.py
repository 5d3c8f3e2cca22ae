"""The p-value says what Newcombe's interval says."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from iterppo.statistics.intervals import newcombe_interval
from iterppo.statistics.rate_difference import newcombe_p_value

counts = st.integers(1, 200).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts, counts)
def test_the_interval_at_that_level_ends_at_zero(
    one: tuple[int, int], base: tuple[int, int]
) -> None:
    p_value = newcombe_p_value(*one, *base)

    if p_value == 1:
        assert one[0] * base[1] == base[0] * one[1]
    elif p_value > 0:
        low, high = newcombe_interval(*one, *base, level=1 - p_value)
        assert min(abs(low), abs(high)) < 1e-6


@given(counts, counts)
def test_the_arms_may_change_places(one: tuple[int, int], base: tuple[int, int]) -> None:
    assert newcombe_p_value(*one, *base) == pytest.approx(newcombe_p_value(*base, *one), abs=1e-9)


def test_in_large_arms_it_is_the_chi_square_test() -> None:
    table = [[2150, 7850], [2000, 8000]]
    expected = stats.chi2_contingency(table, correction=False).pvalue

    assert newcombe_p_value(2150, 10_000, 2000, 10_000) == pytest.approx(expected, rel=0.01)


def test_all_against_none_is_beyond_doubt() -> None:
    assert newcombe_p_value(500, 500, 0, 500) == 0.0
