"""Monte Carlo returns: of one conversation, and of many laid end to end.

Index t of T rewards is r_{t+2} in the paper's count from 1: what is received on leaving state
s_{t+1}. Shapes: T turns, of one conversation or of many; N conversations.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def monte_carlo_returns(rewards: Sequence[float], *, gamma: float) -> list[float]:
    """Discounted sum of all later rewards, at every turn of a conversation that ended.

        G_i = Σ_{j=0}^{T-i} γ^j r_{i+j+1},    computed backwards as G_i = r_{i+1} + γ G_{i+1},
        G_{T+1} = 0

    γ = 1 is the undiscounted sum, γ = 0 the next reward. The reward r_{T+1} of the last transition
    is part of the sum: the paper's state reward R(s_{T+1}) = o_{T+1} would vanish in the absorbing
    state (Jiang et al., 2025, section 3.1).

    This is what is meant; `returns_of_turns` is what is run.

    Args:
        rewards: r_{i+1} for i = 1 … T.
        gamma: Discount per turn, in [0, 1].

    Returns:
        G_1 … G_T, in units of the reward.

    Raises:
        ValueError: If gamma is outside [0, 1].

    >>> monte_carlo_returns([0.0, 0.0, 1.0], gamma=0.5)
    [0.25, 0.5, 1.0]
    """
    _check_gamma(gamma)
    returns: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return returns[::-1]


def returns_of_turns(reward_T: Array, turn_T: Array, *, gamma: float) -> Array:
    """`monte_carlo_returns` of every conversation of a batch, to the last bit.

    The recursion G_i = r_{i+1} + γ G_{i+1} runs backwards from the last turns of all conversations
    at once. By length, longest first, those that still have a turn left are the first few. Powers
    of γ, which reach infinity when they are divided by, occur nowhere: γ = 0 and a conversation of
    thousands of turns are no special cases.

    Args:
        reward_T: r_{i+1} of every turn, conversations laid end to end.
        turn_T: i of every turn; a conversation begins where it is 1.
        gamma: Discount per turn, in [0, 1].

    Returns:
        G_i of every turn, in units of the reward.

    Raises:
        ValueError: If gamma is outside [0, 1], the shapes differ, or turns do not count 1, 2, 3, …

    >>> returns_of_turns(np.array([0.0, 1.0, 0.0, 0.0, 1.0]), np.array([1, 2, 1, 2, 3]), gamma=0.5)
    array([0.5 , 1.  , 0.25, 0.5 , 1.  ])
    """
    _check_gamma(gamma)
    if reward_T.shape != turn_T.shape:
        raise ValueError(f"reward {reward_T.shape} and turn {turn_T.shape} are not both (T,)")
    length_N = conversation_lengths(turn_T)
    order_N = np.argsort(-length_N, kind="stable")
    place_N = np.cumsum(length_N)[order_N] - 1  # of the last turns, longest conversation first
    shortest_first_N = length_N[order_N][::-1]
    return_T = reward_T.astype(np.float64)
    for num_done in range(1, int(length_N.max(initial=0))):
        num_left = len(length_N) - int(np.searchsorted(shortest_first_N, num_done, side="right"))
        place_N = place_N[:num_left] - 1
        return_T[place_N] += gamma * return_T[place_N + 1]
    return return_T


def conversation_lengths(turn_T: Array) -> Array:
    """Number of turns of each conversation of a batch.

    Raises:
        ValueError: If turns do not count 1, 2, 3, … in every conversation.

    >>> conversation_lengths(np.array([1, 2, 1, 1, 2, 3]))
    array([2, 1, 3])
    """
    (start_N,) = np.nonzero(turn_T == 1)
    length_N = np.diff(start_N, append=len(turn_T))
    begun_T = np.arange(len(turn_T)) - (turn_T - 1)  # where the conversation of each turn began
    if not np.array_equal(begun_T, np.repeat(start_N, length_N)):
        raise ValueError("the turns of a conversation do not count 1, 2, 3, …")
    return length_N


def _check_gamma(gamma: float) -> None:
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is a discount in [0, 1], is {gamma}")
