"""Confidence intervals: published numbers, symmetries, and how often they cover the truth."""

import functools
import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.statistics.intervals import cluster_bootstrap, newcombe_interval, wilson_interval

TRIALS_AND_SUCCESSES = st.integers(1, 500).flatmap(
    lambda n: st.tuples(st.integers(0, n), st.just(n))
)


# --- one proportion ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_published_intervals(
    successes: int, trials: int, expected: tuple[float, float]
) -> None:
    """Newcombe (1998), Two-sided confidence intervals for the single proportion, method 3."""
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=0.00005)


def test_a_wider_level_gives_a_wider_interval() -> None:
    # By hand, z = 2.5758: (0.8 + 0.33175 ± 2.5758 √(0.016 + 0.016587)) / 1.66349
    assert wilson_interval(8, 10, level=0.99) == pytest.approx((0.4008, 0.9599), abs=0.0001)


@pytest.mark.parametrize(
    ("successes", "trials", "said"),
    [
        (0, 0, "0 successes in 0 trials"),
        (3, 2, "3 successes in 2 trials"),
        (-1, 2, "-1 successes in 2 trials"),
    ],
)
def test_what_is_no_proportion_is_refused(successes: int, trials: int, said: str) -> None:
    with pytest.raises(ValueError, match="successes") as raised:
        wilson_interval(successes, trials)

    assert str(raised.value) == said


@given(counted=TRIALS_AND_SUCCESSES)
def test_wilson_holds_the_proportion_and_stays_within_0_and_1(counted: tuple[int, int]) -> None:
    low, high = wilson_interval(*counted)

    assert 0 <= low <= counted[0] / counted[1] <= high <= 1
    assert low < high


@given(counted=TRIALS_AND_SUCCESSES)
def test_failures_have_the_mirrored_interval(counted: tuple[int, int]) -> None:
    successes, trials = counted
    low, high = wilson_interval(trials - successes, trials)

    assert (1 - high, 1 - low) == pytest.approx(wilson_interval(successes, trials), abs=1e-12)


@pytest.mark.parametrize("rate", [0.05, 0.3, 0.5, 0.97])
def test_wilson_covers_the_true_rate_as_often_as_it_promises(rate: float) -> None:
    draws = np.random.default_rng(0).binomial(60, rate, size=20_000)
    intervals = {k: wilson_interval(k, 60) for k in set(draws.tolist())}

    covered = np.mean([low <= rate <= high for low, high in (intervals[k] for k in draws.tolist())])

    # No interval of a count covers exactly 95 %; at n = 60 Wilson's is within 2.5 points of it.
    assert covered == pytest.approx(0.95, abs=0.025)


# --- two proportions -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counted", "expected"),
    [
        ((56, 70, 48, 80), (0.0524, 0.3339)),
        ((9, 10, 3, 10), (0.1705, 0.8090)),
        ((6, 7, 2, 7), (0.0582, 0.8062)),
        ((5, 56, 0, 29), (-0.0381, 0.1926)),
        ((0, 10, 0, 20), (-0.1611, 0.2775)),
        ((0, 10, 0, 10), (-0.2775, 0.2775)),
        ((10, 10, 0, 20), (0.6791, 1.0)),
        ((10, 10, 0, 10), (0.6075, 1.0)),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_newcombe_gives_the_published_intervals(
    counted: tuple[int, int, int, int], expected: tuple[float, float]
) -> None:
    """Newcombe (1998), Interval estimation for the difference of proportions, method 10."""
    assert newcombe_interval(*counted) == pytest.approx(expected, abs=0.00005)


@pytest.mark.parametrize("counted", [(0, 0, 1, 2), (1, 2, 0, 0), (3, 2, 1, 2)])
def test_a_difference_of_what_is_no_proportion_is_refused(
    counted: tuple[int, int, int, int],
) -> None:
    with pytest.raises(ValueError, match=r"^\d successes in \d trials$"):
        newcombe_interval(*counted)


@given(first=TRIALS_AND_SUCCESSES, second=TRIALS_AND_SUCCESSES)
def test_the_difference_the_other_way_round_is_mirrored(
    first: tuple[int, int], second: tuple[int, int]
) -> None:
    low, high = newcombe_interval(*first, *second)
    difference = first[0] / first[1] - second[0] / second[1]

    assert newcombe_interval(*second, *first) == pytest.approx((-high, -low), abs=1e-12)
    assert -1 <= low <= difference <= high <= 1


@pytest.mark.parametrize(("rate", "base"), [(0.3, 0.3), (0.6, 0.4), (0.95, 0.8)])
def test_newcombe_covers_the_true_difference_as_often_as_it_promises(
    rate: float, base: float
) -> None:
    generator = np.random.default_rng(1)
    pairs = zip(
        generator.binomial(60, rate, size=20_000).tolist(),
        generator.binomial(80, base, size=20_000).tolist(),
        strict=True,
    )
    interval = functools.cache(lambda k, m: newcombe_interval(k, 60, m, 80))

    covered = np.mean(
        [low <= rate - base <= high for low, high in (interval(k, m) for k, m in pairs)]
    )

    assert covered == pytest.approx(0.95, abs=0.015)


# --- the bootstrap -------------------------------------------------------------------------------


def mean_of(values: Any) -> Any:
    return lambda rows: float(np.mean(values[rows]))


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def test_copies_within_a_cluster_do_not_narrow_the_interval() -> None:
    """100 conversations of 25 equal turns know no more than 100 turns: √25 times the width."""
    values = np.repeat(np.random.default_rng(0).normal(size=100), 25)
    clusters = np.repeat(np.arange(100), 25)

    by_row = cluster_bootstrap(range(2500), mean_of(values), samples=2000, seed=0)
    by_cluster = cluster_bootstrap(clusters, mean_of(values), samples=2000, seed=0)

    assert width(by_cluster) / width(by_row) == pytest.approx(5, rel=0.15)


def test_rows_of_their_own_have_the_interval_of_the_normal_theory() -> None:
    values = np.random.default_rng(0).normal(size=400)
    low, high = cluster_bootstrap(range(400), mean_of(values), samples=4000, seed=0)
    half = 1.96 * values.std() / 20

    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.015)


def test_all_rows_of_a_cluster_are_drawn_together_and_as_many_clusters_as_there_are() -> None:
    clusters = ["b", "a", "b", "c", "a", "b"]
    rows_of = {"a": [1, 4], "b": [0, 2, 5], "c": [3]}
    seen = []

    def look(rows: Any) -> float:
        seen.append(Counter(rows.tolist()))
        return 0.0

    cluster_bootstrap(clusters, look, samples=50, seed=0)

    for times in seen:
        drawn = {name: {times[row] for row in rows} for name, rows in rows_of.items()}
        assert all(len(number) == 1 for number in drawn.values())
        assert sum(number.pop() for number in drawn.values()) == 3
    assert len({tuple(sorted(times.items())) for times in seen}) > 5


def test_the_same_seed_gives_the_same_interval_and_another_another() -> None:
    values = np.random.default_rng(0).normal(size=50)
    intervals = [
        cluster_bootstrap(range(50), mean_of(values), samples=100, seed=seed) for seed in (0, 0, 1)
    ]

    assert intervals[0] == intervals[1] != intervals[2]


def test_a_lower_level_gives_a_narrower_interval() -> None:
    values = np.random.default_rng(0).normal(size=50)
    wide, narrow = (
        cluster_bootstrap(range(50), mean_of(values), samples=500, seed=0, level=level)
        for level in (0.95, 0.5)
    )

    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_samples_without_a_value_are_left_out() -> None:
    values = iter([1.0, math.nan, 2.0, math.inf, 3.0] * 20)

    low, high = cluster_bootstrap(range(5), lambda rows: next(values), samples=100, seed=0)

    assert 1 <= low < high <= 3


def test_without_any_value_there_is_no_interval() -> None:
    low, high = cluster_bootstrap(range(5), lambda rows: math.nan, samples=10, seed=0)

    assert math.isnan(low)
    assert math.isnan(high)
