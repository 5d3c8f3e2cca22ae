"""Monte Carlo returns of a conversation.

Index t of a list of T rewards is r_{t+2} in the paper's count from 1: what is received on leaving
state s_{t+1}.
"""

from collections.abc import Sequence


def monte_carlo_returns(rewards: Sequence[float], *, gamma: float) -> list[float]:
    """Discounted sum of all later rewards, at every turn of a conversation that ended.

        G_i = Σ_{j=0}^{T-i} γ^j r_{i+j+1},    computed backwards as G_i = r_{i+1} + γ G_{i+1},
        G_{T+1} = 0

    γ = 1 is the undiscounted sum, γ = 0 the next reward. The reward r_{T+1} of the last transition
    is part of the sum: the paper's state reward R(s_{T+1}) = o_{T+1} would vanish in the absorbing
    state (Jiang et al., 2025, section 3.1).

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
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is a discount in [0, 1], is {gamma}")
    returns: list[float] = []
    following = 0.0
    for reward in reversed(rewards):
        following = reward + gamma * following
        returns.append(following)
    return returns[::-1]
