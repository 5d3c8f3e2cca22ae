"""Monte Carlo returns: numbers by hand, the paper's definition, and what they reduce to."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.rl.returns import conversation_lengths, monte_carlo_returns, returns_of_turns

REWARDS = st.lists(st.floats(-10, 10), max_size=30)
CONVERSATIONS = st.lists(st.lists(st.floats(-10, 10), min_size=1, max_size=12), max_size=12)
GAMMAS = st.one_of(st.sampled_from([0.0, 1.0]), st.floats(0, 1))


def return_by_definition(rewards: list[float], turn: int, gamma: float) -> float:
    """G_i = Σ_j γ^j r_{i+j+1}, term by term; r_{i+1} is `rewards[i - 1]`."""
    return math.fsum(gamma**j * rewards[turn - 1 + j] for j in range(len(rewards) - turn + 1))


@pytest.mark.parametrize(
    ("rewards", "gamma", "expected"),
    [
        pytest.param([], 0.5, [], id="no turns"),
        pytest.param([1.0], 0.5, [1.0], id="one turn, reached"),
        pytest.param([0.0], 0.5, [0.0], id="one turn, not reached"),
        pytest.param([0.0, 0.0, 0.0, 1.0], 0.5, [0.125, 0.25, 0.5, 1.0], id="reached at the end"),
        pytest.param([0.0, 0.0, 0.0], 0.5, [0.0, 0.0, 0.0], id="never reached"),
        pytest.param([0.0, 0.0, 1.0], 0.0, [0.0, 0.0, 1.0], id="gamma 0 sees the next reward only"),
        pytest.param([0.0, 0.0, 1.0], 1.0, [1.0, 1.0, 1.0], id="gamma 1 forgets nothing"),
        # 4 + 0.5 · (−2) = 3, then 1 + 0.5 · 3 = 2.5
        pytest.param([1.0, 4.0, -2.0], 0.5, [2.5, 3.0, -2.0], id="a reward at every turn"),
        # 0.9² = 0.81
        pytest.param([0.0, 0.0, 1.0], 0.9, [0.81, 0.9, 1.0], id="gamma 0.9"),
    ],
)
def test_returns_are_those_worked_by_hand(
    rewards: list[float], gamma: float, expected: list[float]
) -> None:
    assert monte_carlo_returns(rewards, gamma=gamma) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.inf, math.nan])
def test_a_discount_outside_0_to_1_is_refused(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma") as raised:
        monte_carlo_returns([1.0], gamma=gamma)

    assert str(raised.value) == f"gamma is a discount in [0, 1], is {gamma}"


@given(rewards=REWARDS, gamma=GAMMAS)
def test_every_return_is_the_sum_that_defines_it(rewards: list[float], gamma: float) -> None:
    expected = [return_by_definition(rewards, turn, gamma) for turn in range(1, len(rewards) + 1)]

    assert monte_carlo_returns(rewards, gamma=gamma) == pytest.approx(expected, abs=1e-9)


@given(earlier=REWARDS, later=REWARDS, gamma=GAMMAS)
def test_a_return_does_not_depend_on_what_came_before(
    earlier: list[float], later: list[float], gamma: float
) -> None:
    whole = monte_carlo_returns([*earlier, *later], gamma=gamma)

    assert whole[len(earlier) :] == monte_carlo_returns(later, gamma=gamma)


@given(length=st.integers(1, 40), gamma=GAMMAS)
def test_an_outcome_at_the_end_is_discounted_once_per_turn(length: int, gamma: float) -> None:
    rewards = [0.0] * (length - 1) + [1.0]

    expected = [gamma ** (length - turn) for turn in range(1, length + 1)]
    assert monte_carlo_returns(rewards, gamma=gamma) == pytest.approx(expected)


# --- many conversations, laid end to end ---------------------------------------------------------


def laid_end_to_end(conversations: list[list[float]]) -> tuple[np.ndarray, np.ndarray]:
    """Rewards and turns."""
    rewards = [reward for rewards in conversations for reward in rewards]
    turns = [turn for rewards in conversations for turn in range(1, len(rewards) + 1)]
    return np.array(rewards, dtype=float), np.array(turns, dtype=np.int32)


@given(conversations=CONVERSATIONS, gamma=GAMMAS)
def test_returns_of_a_batch_are_those_of_its_conversations_to_the_last_bit(
    conversations: list[list[float]], gamma: float
) -> None:
    reward_T, turn_T = laid_end_to_end(conversations)

    found_T = returns_of_turns(reward_T, turn_T, gamma=gamma)

    expected = [monte_carlo_returns(rewards, gamma=gamma) for rewards in conversations]
    assert found_T.tolist() == [value for returns in expected for value in returns]


@pytest.mark.parametrize("gamma", [0.0, 1e-300, 0.5, 0.99, 1.0])
def test_a_long_conversation_among_short_ones_is_exact(gamma: float) -> None:
    # γ^2000 and 1 / γ^2000 are beyond what a number can hold.
    conversations = [[1.0], [0.0] * 1999 + [1.0], [0.5, 1.0], [0.0] * 2500]

    found_T = returns_of_turns(*laid_end_to_end(conversations), gamma=gamma)

    expected = [monte_carlo_returns(rewards, gamma=gamma) for rewards in conversations]
    assert found_T.tolist() == [value for returns in expected for value in returns]


def test_rewards_are_left_as_they_were_and_whole_numbers_are_discounted_too() -> None:
    reward_T, turn_T = np.array([0, 1, 1]), np.array([1, 2, 1])

    assert returns_of_turns(reward_T, turn_T, gamma=0.5).tolist() == [0.5, 1.0, 1.0]
    assert reward_T.tolist() == [0, 1, 1]


@given(lengths=st.lists(st.integers(1, 9), max_size=9))
def test_lengths_are_read_off_the_turns(lengths: list[int]) -> None:
    _, turn_T = laid_end_to_end([[0.0] * length for length in lengths])

    assert conversation_lengths(turn_T).tolist() == lengths


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param([2, 3], id="without a beginning"),
        pytest.param([1, 2, 4], id="with a gap"),
        pytest.param([1, 2, 2], id="with one twice"),
        pytest.param([1, 0, 1], id="from 0"),
    ],
)
def test_turns_that_do_not_count_are_refused(turns: list[int]) -> None:
    with pytest.raises(ValueError, match="do not count 1, 2, 3"):
        returns_of_turns(np.zeros(len(turns)), np.array(turns), gamma=0.5)


def test_rewards_and_turns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"reward \(3,\) and turn \(2,\) are not both \(T,\)"):
        returns_of_turns(np.zeros(3), np.array([1, 2]), gamma=0.5)


@pytest.mark.parametrize("gamma", [-0.1, 1.1, math.nan])
def test_a_discount_outside_0_to_1_is_refused_for_a_batch(gamma: float) -> None:
    with pytest.raises(ValueError, match="gamma is a discount"):
        returns_of_turns(np.zeros(1), np.array([1]), gamma=gamma)
