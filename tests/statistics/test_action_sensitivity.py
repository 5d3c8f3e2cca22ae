"""What the action makes of Q̂: by hand, on known variances, and against plain loops."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.statistics.action_sensitivity import action_share, length_sensitivity
from iterppo.statistics.resampling import Resamples


def own(num_states: int, *, samples: int = 100) -> Resamples:
    """Each state a conversation of its own."""
    return Resamples.of(np.arange(num_states), samples=samples, seed=0)


def sampled_q(
    share: float, *, num_states: int = 100, num_actions: int = 4, seed: int = 0
) -> np.ndarray:
    """Q̂ with variance 1, of which `share` comes from the action."""
    generator = np.random.default_rng(seed)
    state = np.sqrt(1 - share) * generator.normal(size=(num_states, 1))
    return 5 + state + np.sqrt(share) * generator.normal(size=(num_states, num_actions))


def test_the_share_is_that_worked_by_hand() -> None:
    # v = 2, 8, 0; m = 1, 2, 6: W = 10/3, Var(m) = 7, B = 7 − (1 + 4 + 0)/3 = 16/3.
    q = np.array([[0.0, 2.0], [0.0, 4.0], [6.0, 6.0]])

    assert action_share(q, own(3))[0] == pytest.approx((10 / 3) / (10 / 3 + 16 / 3))


def test_a_missing_action_changes_the_divisors() -> None:
    # v = 1 (of 3), 8 (of 2); m = 1, 2; B = 1/2 − (1/3 + 4)/2 < 0, cut: all comes from the action.
    q = np.array([[0.0, 1.0, 2.0], [0.0, 4.0, np.nan], [9.0, np.nan, np.nan]])

    assert action_share(q, own(3))[0] == 1
    # m = 1, 12 instead: Var(m) = 121/2, W = 9/2.
    q[1] += 10
    assert action_share(q, own(3))[0] == pytest.approx(4.5 / (4.5 + 60.5 - 13 / 6))


@pytest.mark.parametrize(
    ("q", "expected"),
    [
        (np.repeat([[1.0], [2.0]], 3, axis=1), 0.0),
        (np.repeat([[0.1], [0.1]], 3, axis=1), np.nan),
        (np.array([[1.0, 2.0]]), np.nan),
        (np.array([[1.0], [2.0]]), np.nan),
        (np.empty((0, 4)), np.nan),
    ],
    ids=["state alone", "constant", "one state", "one action", "no state"],
)
def test_the_share_at_its_ends(q: np.ndarray, expected: float) -> None:
    assert action_share(q, own(len(q)))[0] == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("num_actions", [2, 8])
def test_the_share_does_not_depend_on_how_many_actions_are_sampled(num_actions: int) -> None:
    found = [
        action_share(sampled_q(0.2, num_actions=num_actions, seed=seed), own(100, samples=0))[0]
        for seed in range(200)
    ]

    # The mean of 200: standard error 0.004 for two actions. Without the correction 2 give 0.22.
    assert np.mean(found) == pytest.approx(0.2, abs=0.012)


def test_the_interval_of_the_share_holds_the_true_one() -> None:
    covered = 0
    for seed in range(200):
        _, low, high = action_share(sampled_q(0.3, seed=seed), own(100, samples=200))
        covered += low <= 0.3 <= high

    # 95 % are promised; fewer than 179 of 200 would have a probability of 0.1 %.
    assert covered >= 179


def test_intervals_are_those_of_conversations_written_out(slow_interval: Any) -> None:
    generator = np.random.default_rng(0)
    q = sampled_q(0.3, num_states=30)
    length = generator.integers(1, 40, size=q.shape).astype(float)
    resamples = Resamples.of(generator.integers(12, size=30), samples=40, seed=0)

    def share(rows: Any) -> float:
        within = np.mean([np.var(q[s], ddof=1) for s in rows])
        between = np.var([np.mean(q[s]) for s in rows], ddof=1) - within / 4
        return float(within / (within + max(between, 0)))

    def pooled(rows: Any) -> tuple[list[float], list[float]]:
        x = [value - length[s].mean() for s in rows for value in length[s]]
        y = [value - q[s].mean() for s in rows for value in q[s]]
        return x, y

    assert action_share(q, resamples)[1:] == pytest.approx(slow_interval(resamples, share))
    correlation, slope = length_sensitivity(q, length, resamples)
    assert correlation[1:] == pytest.approx(
        slow_interval(resamples, lambda rows: float(np.corrcoef(*pooled(rows))[0, 1]))
    )
    assert slope[1:] == pytest.approx(
        slow_interval(resamples, lambda rows: 10 * float(np.polyfit(*pooled(rows), 1)[0]))
    )


def test_sensitivity_to_length_is_that_worked_by_hand() -> None:
    # Less the means: q ±0.1, ±0.2; length ±5, ∓10. Σql = 2(0.5 − 2), Σq² = 0.1, Σl² = 250.
    q, length = np.array([[0.6, 0.4], [0.9, 0.5]]), np.array([[20.0, 10.0], [30.0, 50.0]])

    correlation, slope = length_sensitivity(q, length, own(2))

    assert correlation[0] == pytest.approx(-3 / 5)
    assert slope[0] == pytest.approx(10 * -3 / 250)


@given(
    lengths=st.lists(st.integers(1, 50), min_size=8, max_size=8).filter(
        lambda x: x[:4] != x[:1] * 4 or x[4:] != x[4:5] * 4
    ),
    per_token=st.sampled_from([-0.02, 0.001, 0.3]),
)
def test_a_price_per_token_is_found_whatever_the_states_are_worth(
    lengths: list[int], per_token: float
) -> None:
    length = np.array(lengths, dtype=float).reshape(2, 4)
    q = per_token * length + np.array([[7.0], [-3.0]])

    correlation, slope = length_sensitivity(q, length, own(2))

    assert slope[0] == pytest.approx(10 * per_token)
    assert correlation[0] == pytest.approx(np.sign(per_token))


def test_actions_of_one_length_say_nothing_about_length() -> None:
    q = sampled_q(0.5, num_states=10)

    correlation, slope = length_sensitivity(q, np.full(q.shape, 7.0), own(10))

    assert np.isnan([*correlation, *slope]).all()


def test_a_q_that_ignores_the_action_has_no_correlation_but_a_slope_of_nothing() -> None:
    q, length = np.full((10, 3), 0.1), np.tile([1.0, 5.0, 9.0], (10, 1))

    correlation, slope = length_sensitivity(q, length, own(10))

    assert np.isnan(correlation[0])
    assert slope == (0, 0, 0)
