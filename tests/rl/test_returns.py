"""Monte Carlo returns: numbers by hand, the paper's definition, and what they reduce to."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.rl.returns import monte_carlo_returns

REWARDS = st.lists(st.floats(-10, 10), max_size=30)
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
