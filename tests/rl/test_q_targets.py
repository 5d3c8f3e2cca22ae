"""Targets of td-lambda, sarsa and fqe, against hand-worked numbers and the definition."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.rl.q_targets import lambda_returns, poisson_counts
from iterppo.rl.returns import monte_carlo_returns


def one_conversation(rewards: list[float], values: list[float], **settings: Any) -> list[float]:
    number = len(rewards)
    usual: dict[str, Any] = {
        "is_last": [n == number - 1 for n in range(number)],
        "is_known": [True] * number,
        "gamma": 0.5,
        "lambda_": 0.0,
    }
    return lambda_returns(rewards, values, **{**usual, **settings})


def test_one_step_is_the_reward_and_the_discounted_next_value() -> None:
    assert one_conversation([0, 0, 1], [0.2, 0.6, 9.0]) == [0.1, 0.3, 1.0]


def test_lambda_mixes_the_next_value_and_the_next_target() -> None:
    # G_3 = 1, G_2 = .5 (.75 · .6 + .25 · 1), G_1 = .5 (.75 · .2 + .25 · G_2)
    second = 0.5 * (0.75 * 0.6 + 0.25 * 1)
    expected = [0.5 * (0.75 * 0.2 + 0.25 * second), second, 1.0]

    assert one_conversation([0, 0, 1], [0.2, 0.6, 9.0], lambda_=0.25) == pytest.approx(expected)


@given(
    st.lists(st.floats(-2, 2), min_size=1, max_size=8),
    st.floats(0, 1),
    st.lists(st.floats(-2, 2), min_size=8, max_size=8),
)
def test_lambda_of_one_is_the_monte_carlo_return(
    rewards: list[float], gamma: float, values: list[float]
) -> None:
    found = one_conversation(rewards, values[: len(rewards)], gamma=gamma, lambda_=1.0)

    assert found == pytest.approx(monte_carlo_returns(rewards, gamma=gamma), abs=1e-12)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.floats(-2, 2)), min_size=1, max_size=7),
    st.floats(0, 1),
    st.floats(0, 0.95),
)
def test_it_is_the_weighted_sum_of_n_step_returns(
    turns: list[tuple[float, float]], gamma: float, lambda_: float
) -> None:
    # The definition: (1 − λ) Σ_n λ^(n−1) G^(n), the full return taking all that is left.
    rewards, values = [list(column) for column in zip(*turns, strict=True)]
    number = len(turns)

    def n_step(t: int, n: int) -> float:
        paid = sum(gamma**k * rewards[t + k] for k in range(min(n, number - t)))
        return paid + (gamma**n * values[t + n - 1] if t + n < number else 0.0)

    found = one_conversation(rewards, values, gamma=gamma, lambda_=lambda_)
    for t in range(number):
        left = number - t
        expected = sum((1 - lambda_) * lambda_ ** (n - 1) * n_step(t, n) for n in range(1, left))
        expected += lambda_ ** (left - 1) * n_step(t, left)
        assert found[t] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("lambda_", [0.0, 0.5, 1.0])
def test_a_censored_conversation_is_learned_from_up_to_where_it_was_cut(lambda_: float) -> None:
    found = one_conversation(
        [0, 0, 0], [0.2, 0.6, 9.0], is_known=[True, True, False], lambda_=lambda_
    )

    assert math.isnan(found[2])
    assert found[1] == pytest.approx(0.5 * 0.6)
    assert found[0] == pytest.approx(0.5 * ((1 - lambda_) * 0.2 + lambda_ * 0.3))


def test_where_a_state_has_no_value_the_target_goes_on_to_the_next() -> None:
    assert one_conversation([0, 0, 1], [math.nan, 0.6, 9.0]) == [0.5 * 0.3, 0.3, 1.0]


def test_conversations_do_not_touch_each_other() -> None:
    both = lambda_returns(
        [0, 1, 0, 0],
        [0.5, 7.0, 0.25, 7.0],
        [False, True, False, True],
        [True] * 4,
        gamma=0.5,
        lambda_=0.5,
    )

    assert both[:2] == one_conversation([0, 1], [0.5, 7.0], lambda_=0.5)
    assert both[2:] == one_conversation([0, 0], [0.25, 7.0], lambda_=0.5)


def test_repeated_sweeps_reach_the_value_of_a_known_chain() -> None:
    # Five states in a row, a reward of 1 at the end with probability .3 in the last, γ = .9: what
    # is learned of the end travels one turn back with each sweep.
    mean, gamma, number = 0.3, 0.9, 5
    values = [0.0] * number
    for _ in range(number):
        values = one_conversation([0.0] * (number - 1) + [mean], [*values[1:], 0.0], gamma=gamma)
    assert values == pytest.approx([gamma ** (number - 1 - t) * mean for t in range(number)])


@pytest.mark.parametrize("bad", [{"gamma": 1.1}, {"gamma": -0.1}, {"lambda_": 1.5}])
def test_a_share_outside_of_0_to_1_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="gamma and lambda"):
        one_conversation([0.0], [0.0], **bad)


def test_counts_of_a_resample_are_poisson() -> None:
    number = 100_000
    counts = poisson_counts([(n + 0.5) / number for n in range(number)])

    for count in range(4):
        share = math.exp(-1) / math.factorial(count)
        assert counts.count(count) / number == pytest.approx(share, abs=1e-4)
    assert sum(counts) / number == pytest.approx(1.0, abs=1e-3)
