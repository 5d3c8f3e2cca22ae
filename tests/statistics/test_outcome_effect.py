"""What is not there is seldom found: 2,000 A/A tests of each kind (benchmarks.decisions), here
fewer of those that look every day, whose error is far below the limit."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.decisions import (
    SCALE,
    clustered_test,
    clusters_ignored_test,
    daily_clustered_test,
    daily_test,
    independent_test,
    share,
)
from iterppo.statistics.outcome_effect import Outcomes, outcome_effect

Test = Callable[[np.random.Generator], bool]
NUM_TESTS = 2000


def daily(generator: np.random.Generator) -> bool:
    return daily_test(generator, scale=SCALE)


@pytest.mark.parametrize(
    ("test", "num_tests"),
    [
        pytest.param(independent_test, NUM_TESTS, id="independent"),
        pytest.param(clustered_test, NUM_TESTS, id="clusters"),
        pytest.param(daily, 400, id="sequential, daily looks"),
        pytest.param(daily_clustered_test, 400, id="sequential, clusters, daily looks"),
    ],
)
def test_tests_without_a_difference_seldom_find_one(test: Test, num_tests: int) -> None:
    assert share(test, num_tests=num_tests, seed=0) <= 0.055


def test_without_the_methods_the_same_tests_often_find_one() -> None:
    """So that the simulations can tell a sound method from a naive one."""
    assert share(clusters_ignored_test, num_tests=500, seed=0) > 0.12
    assert share(lambda g: daily_test(g, scale=None), num_tests=300, seed=0) > 0.18


def test_each_case_has_its_method() -> None:
    arm, base = np.repeat([1.0, 0.0], [30, 30]), np.repeat([1.0, 0.0], [20, 40])
    units = np.arange(60)

    def method(*, clusters: bool, is_adjusted: bool = False, scale: float | None = None) -> str:
        own = (Outcomes(arm, units), Outcomes(base, 60 + units))
        return outcome_effect(
            *(own if clusters else (Outcomes(arm), Outcomes(base))),
            is_adjusted=is_adjusted,
            scale=scale,
            level=0.95,
        ).method

    assert method(clusters=False) == "newcombe"
    assert method(clusters=True) == method(clusters=True, is_adjusted=True) == "cluster-robust"
    assert method(clusters=False, is_adjusted=True) == "welch"
    assert {method(clusters=c, scale=0.1) for c in (False, True)} == {"always-valid"}


def test_one_customer_in_an_arm_says_nothing() -> None:
    arm = Outcomes(np.ones(50), np.zeros(50))
    base = Outcomes(np.zeros(50), 1 + np.arange(50))

    once = outcome_effect(arm, base, is_adjusted=False, scale=None, level=0.95)
    daily_ = outcome_effect(arm, base, is_adjusted=False, scale=0.05, level=0.95)

    assert (once.difference, once.low, once.high, once.p_value) == (1.0, None, None, 1.0)
    assert (daily_.low, daily_.high, daily_.p_value) == (-1.0, 1.0, 1.0)


def test_a_sequential_interval_is_wider_than_one_for_one_look() -> None:
    arm, base = Outcomes(np.repeat([1.0, 0.0], 500)), Outcomes(np.repeat([1.0, 0.0], 500))
    widths = []
    for scale in (None, SCALE):
        effect = outcome_effect(arm, base, is_adjusted=False, scale=scale, level=0.95)
        assert effect.low is not None
        assert effect.high is not None
        widths.append(effect.high - effect.low)

    assert 1.5 < widths[1] / widths[0] < 2 * math.sqrt(2)
