"""How good a Q̂ is: numbers by hand, identities, and slow references."""

import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.statistics.regression import (
    auc,
    auc_interval,
    correlation,
    explained_variance,
    explained_variance_interval,
)
from iterppo.statistics.resampling import Resamples

ONES = np.ones(4)
SCORES = st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 1.0, -3.0])
SCORED = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=25)


# --- explained variance --------------------------------------------------------------------------


def test_explained_variance_is_that_worked_by_hand() -> None:
    prediction, target = np.array([0.0, 0.5, 1.0, 1.0]), np.array([0.0, 1.0, 0.0, 1.0])

    # Squared errors 0, 1/4, 1, 0 against 1/4 four times: 1 − 1.25 / 1
    assert explained_variance(prediction, target, ONES, baseline=0.5) == pytest.approx(-0.25)
    # Weighted 3, 1, 0, 1: errors 1/4 against 5/4
    weight = np.array([3.0, 1.0, 0.0, 1.0])
    assert explained_variance(prediction, target, weight, baseline=0.5) == pytest.approx(0.8)


@given(target=st.lists(st.floats(-5, 5), min_size=1), constant=st.floats(6, 7))
def test_the_constant_explains_nothing_and_the_truth_all(
    target: list[float], constant: float
) -> None:
    g, w = np.array(target), np.linspace(1, 2, len(target))

    assert explained_variance(np.full_like(g, constant), g, w, baseline=constant) == 0
    assert explained_variance(g, g, w, baseline=constant) == 1


def test_worse_than_the_constant_is_below_zero() -> None:
    target = np.array([0.0, 1.0, 0.0, 1.0])

    assert explained_variance(1 - target, target, ONES, baseline=0.5) == -3


def test_where_the_constant_is_perfect_nothing_is_left_to_explain() -> None:
    assert math.isnan(explained_variance(ONES * 0.2, ONES, ONES, baseline=1.0))


# --- AUC -----------------------------------------------------------------------------------------


def slow_auc(prediction: list[float], positive: list[bool]) -> float:
    """Every pair of a positive and a negative, one by one."""
    wins = [
        1.0 if p > n else 0.5 if p == n else 0.0
        for (p, yes), (n, no) in product(zip(prediction, positive, strict=True), repeat=2)
        if yes and not no
    ]
    return sum(wins) / len(wins) if wins else math.nan


@pytest.mark.parametrize(
    ("prediction", "positive", "expected"),
    [
        ([0.1, 0.2, 0.3], [False, True, True], 1.0),
        ([0.3, 0.2, 0.1], [False, True, True], 0.0),
        ([0.5, 0.5, 0.5], [False, True, True], 0.5),
        # (2 beats 1, loses to 3), (2 ties 2): (1 + 0 + 1/2) / 3
        ([2.0, 1.0, 3.0, 2.0], [True, False, False, False], 0.5),
    ],
    ids=["perfect", "wrong way round", "all tied", "by hand"],
)
def test_auc_is_that_worked_by_hand(
    prediction: list[float], positive: list[bool], expected: float
) -> None:
    assert auc(np.array(prediction), np.array(positive)) == expected


@given(scored=SCORED)
def test_auc_is_the_share_of_pairs_in_order_ties_counting_half(
    scored: list[tuple[float, bool]],
) -> None:
    prediction, positive = (list(column) for column in zip(*scored, strict=True))

    found = auc(np.array(prediction), np.array(positive))

    assert found == pytest.approx(slow_auc(prediction, positive), nan_ok=True)
    assert auc(np.array(prediction) * 2 + 1, np.array(positive)) == pytest.approx(
        found, nan_ok=True
    )


@pytest.mark.parametrize("positive", [True, False])
def test_auc_of_one_class_is_no_number(positive: bool) -> None:
    assert math.isnan(auc(np.arange(3.0), np.full(3, positive)))


def test_a_weighted_auc_is_that_of_turns_written_out() -> None:
    prediction, positive = np.array([0.2, 0.5, 0.5, 0.9]), np.array([False, True, False, True])
    times = np.array([3, 1, 2, 2])

    assert auc(prediction, positive, times.astype(float)) == pytest.approx(
        auc(np.repeat(prediction, times), np.repeat(positive, times))
    )


# --- correlation ---------------------------------------------------------------------------------


def test_correlation_is_that_worked_by_hand() -> None:
    x, y, w = np.array([0.0, 2.0, 9.0]), np.array([1.0, 3.0, 9.0]), np.array([1.0, 1.0, 0.0])

    found = correlation(x, y, w, Resamples.of([0, 1, 2], samples=0, seed=0))

    assert found[0] == pytest.approx(1)
    found = correlation(x, y, ONES[:3], Resamples.of([0, 1, 2], samples=0, seed=0))
    assert found[0] == pytest.approx(np.corrcoef(x, y)[0, 1])


@pytest.mark.parametrize(
    ("x", "y"),
    [(ONES * 0.1, np.arange(4.0)), (np.arange(4.0), ONES * 0.1), (ONES[:0], ONES[:0])],
    ids=["first constant", "second constant", "empty"],
)
def test_what_does_not_vary_is_not_correlated(x: np.ndarray, y: np.ndarray) -> None:
    resamples = Resamples.of(np.arange(len(x)), samples=10, seed=0)

    assert np.isnan(correlation(x, y, ONES[: len(x)], resamples)).all()


# --- intervals -----------------------------------------------------------------------------------


def test_intervals_are_those_of_conversations_written_out(slow_interval: Any) -> None:
    generator = np.random.default_rng(0)
    ids, q = generator.integers(30, size=120), generator.normal(size=120).round(1)
    g, w = generator.integers(2, size=120) + 0.0, generator.uniform(1, 2, size=120)
    v = generator.normal(scale=0.5, size=120)
    resamples = Resamples.of(ids, samples=80, seed=0)

    def explained(rows: Any) -> float:
        return explained_variance(q[rows], g[rows], w[rows], baseline=v[rows])

    def correlated(rows: Any) -> float:
        covariance = np.cov(q[rows], g[rows], aweights=w[rows])
        return float(covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1]))

    assert explained_variance_interval(q, g, w, resamples, baseline=v) == pytest.approx(
        slow_interval(resamples, explained)
    )
    assert auc_interval(q, g > 0, w, resamples) == pytest.approx(
        slow_interval(resamples, lambda rows: auc(q[rows], g[rows] > 0, w[rows]))
    )
    value, low, high = correlation(q, g, w, resamples)
    assert (low, high) == pytest.approx(slow_interval(resamples, correlated))
    assert value == pytest.approx(correlated(np.arange(120)))


def test_the_interval_of_the_explained_variance_holds_the_true_one() -> None:
    """80 conversations of 4 turns that share their luck: G = a + e, Q̂ = a, Var a = Var e."""
    covered = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        a = generator.normal(size=(80, 4)).ravel()
        g = a + np.repeat(generator.normal(size=80), 4)
        resamples = Resamples.of(np.repeat(np.arange(80), 4), samples=200, seed=0)
        low, high = explained_variance_interval(a, g, np.ones(320), resamples, baseline=0.0)
        covered += low <= 0.5 <= high

    # 95 % are promised; fewer than 179 of 200 would have a probability of 0.1 %.
    assert covered >= 179
