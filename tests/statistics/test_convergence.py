"""Whether Q still changes: numbers by hand, and resamples against rows written out."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.statistics.convergence import convergence
from iterppo.statistics.resampling import Resamples

SlowInterval = Callable[[Resamples, Callable[[Any], float]], tuple[float, float]]


def slow_spearman(before: np.ndarray, after: np.ndarray) -> float:
    """By the definition: Pearson's correlation of mean ranks, each found by counting."""

    def ranks(values: np.ndarray) -> np.ndarray:
        return np.array([(values < v).sum() + ((values == v).sum() + 1) / 2 for v in values])

    if len(set(before)) == 1 or len(set(after)) == 1:
        return math.nan
    return float(np.corrcoef(ranks(before), ranks(after))[0, 1])


def test_numbers_worked_by_hand() -> None:
    # Changes 0.1, −0.2, 0, 0.4; ranks 1 2 3 4 become 2 1 3 4: 1 − 6 · (1 + 1) / (4 · 15) = 0.8.
    found = convergence(
        ["a", "a", "b", "b"], [0.1, 0.2, 0.3, 0.4], [0.2, 0.0, 0.3, 0.8], tolerance=0.02
    )

    assert found.rmse.value == pytest.approx(math.sqrt((0.01 + 0.04 + 0.16) / 4))
    assert found.max_norm.value == pytest.approx(0.4)
    assert found.mean_change.value == pytest.approx(0.075)
    assert found.rank_correlation.value == pytest.approx(0.8)
    assert (found.num_turns, found.num_conversations) == (4, 2)
    # A resample holds a twice, b twice, or both: of 1000, each often enough for both quantiles.
    assert found.rmse[1:] == pytest.approx((math.sqrt(0.025), math.sqrt(0.08)))
    assert found.max_norm[1:] == pytest.approx((0.2, 0.4))
    assert found.mean_change[1:] == pytest.approx((-0.05, 0.2))
    assert found.rank_correlation[1:] == pytest.approx((-1.0, 1.0))


def test_equal_values_share_their_mean_rank() -> None:
    # Ranks 1.5 1.5 3 against 1 2 3: covariance 1.5, variances 1.5 and 2.
    found = convergence(["a", "b", "c"], [0.1, 0.1, 0.3], [0.1, 0.2, 0.3], tolerance=1.0)

    assert found.rank_correlation.value == pytest.approx(1.5 / math.sqrt(1.5 * 2))


def test_intervals_are_those_of_resamples_written_out(slow_interval: SlowInterval) -> None:
    generator = np.random.default_rng(4)
    names = [f"c{number}" for number in generator.integers(7, size=40)]
    before = generator.integers(6, size=40) / 6  # many are equal
    after = before + 0.3 * generator.normal(size=40).round(1)
    change = after - before
    found = convergence(names, before, after, tolerance=0.1, samples=200, seed=3)
    resamples = Resamples.of(names, samples=200, seed=3)

    for number, statistic in (
        (found.rmse, lambda rows: math.sqrt(np.mean(change[rows] ** 2))),
        (found.max_norm, lambda rows: float(np.abs(change[rows]).max())),
        (found.mean_change, lambda rows: float(change[rows].mean())),
        (found.rank_correlation, lambda rows: slow_spearman(before[rows], after[rows])),
    ):
        assert number.value == pytest.approx(statistic(np.arange(40)))
        assert number[1:] == pytest.approx(slow_interval(resamples, statistic))
        assert number.low < number.high


def test_no_change_has_converged_at_any_tolerance() -> None:
    found = convergence(["a", "a", "b"], [0.1, 0.5, 0.2], [0.1, 0.5, 0.2], tolerance=0.0)

    assert found.converged
    assert found.rmse == found.max_norm == found.mean_change == (0.0, 0.0, 0.0)
    assert found.rank_correlation == pytest.approx((1.0, 1.0, 1.0))


@pytest.mark.parametrize(
    ("tolerance", "converged"),
    [
        pytest.param(0.051, False, id="above the estimate, within the interval"),
        pytest.param(0.101, True, id="above the interval"),
    ],
)
def test_the_upper_end_of_the_rmse_decides(tolerance: float, converged: bool) -> None:
    # One conversation of four changes by 0.1: RMSE 0.05, and up to 0.1 where it is drawn often.
    names = ["a", "b", "c", "d"]
    found = convergence(names, [0.5] * 4, [0.6, 0.5, 0.5, 0.5], tolerance=tolerance)

    assert found.rmse.value == pytest.approx(0.05)
    assert 0.051 < found.rmse.high <= 0.1 + 1e-9
    assert found.converged is converged


def test_one_odd_turn_among_many_decides_nothing_however_large_the_max_norm() -> None:
    names = [str(number // 2) for number in range(2000)]
    before = np.linspace(0, 1, 2000)
    after = before.copy()
    after[7] += 0.4

    found = convergence(names, before, after, tolerance=0.02)

    assert found.max_norm.value == pytest.approx(0.4)
    assert found.converged


def test_a_constant_q_has_no_rank_correlation() -> None:
    found = convergence(["a", "b"], [0.5, 0.5], [0.4, 0.6], tolerance=0.02)

    assert found.told()["rank_correlation"] is None
    assert found.told()["rank_correlation_low"] is None
    assert found.told()["rmse"] == pytest.approx(0.1)


@pytest.mark.parametrize("value", [math.nan, math.inf], ids=["no number", "infinite"])
def test_a_value_that_is_not_finite_has_not_converged(value: float) -> None:
    found = convergence(["a", "b"], [0.5, value], [0.5, value], tolerance=1e9)

    assert not found.converged
    assert found.told()["rmse_high"] is None
    assert found.told()["max_norm"] is None


@pytest.mark.parametrize(
    ("names", "before", "after"),
    [
        pytest.param(["a"], [0.1], [0.1, 0.2], id="of different lengths"),
        pytest.param(["a", "b"], [0.1], [0.1], id="of fewer turns than conversations"),
        pytest.param([], [], [], id="of nothing"),
    ],
)
def test_values_must_be_of_the_same_turns(
    names: list[str], before: list[float], after: list[float]
) -> None:
    with pytest.raises(ValueError, match="conversations of turns, and values of shapes"):
        convergence(names, before, after, tolerance=0.1)


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(-8, 8), st.integers(-8, 8)),
        min_size=1,
        max_size=30,
    ),
    st.randoms(use_true_random=False),
)
def test_neither_the_order_of_turns_nor_a_shift_of_both_matters(
    turns: list[tuple[int, int, int]], random: Any
) -> None:
    def numbers(rows: list[tuple[int, int, int]], shift: float) -> dict[str, Any]:
        names, before, after = zip(*rows, strict=True)
        return convergence(
            [str(name) for name in names],
            [value / 8 + shift for value in before],
            [value / 8 + shift for value in after],
            tolerance=0.5,
            samples=20,
        ).told()

    shuffled = random.sample(turns, len(turns))

    assert numbers(shuffled, 3.0) == pytest.approx(numbers(turns, 0.0), abs=1e-12)
