"""Sizes of arms against their plan."""

import math

import pytest
from scipy import stats

from iterppo.statistics.sample_ratio import sample_ratio_p_value


def test_two_arms_are_judged_by_how_many_standard_deviations_they_are_apart() -> None:
    expected = 2 * stats.norm.sf(62 / math.sqrt(2000 * 0.5 * 0.5))

    assert sample_ratio_p_value([1062, 938], [1, 1]) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("counts", "expected", "holds"),
    [
        ([9000, 1000], [9, 1], True),
        ([9000, 1000], [0.9, 0.1], True),
        ([9000, 1000], [1, 1], False),
        ([1000, 1010, 990], [1, 1, 1], True),
        ([1000, 1010, 700], [1, 1, 1], False),
    ],
    ids=["as planned", "shares", "planned as equal", "three", "one of three lost some"],
)
def test_a_plan_has_any_ratio(counts: list[int], expected: list[float], holds: bool) -> None:
    assert (sample_ratio_p_value(counts, expected) >= 0.001) == holds


@pytest.mark.parametrize("counts", [[0, 0], [7]], ids=["nothing yet", "one arm"])
def test_nothing_contradicts_where_there_is_nothing_to_compare(counts: list[int]) -> None:
    assert sample_ratio_p_value(counts, [1] * len(counts)) == 1.0
