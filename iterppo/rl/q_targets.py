"""Targets that Q is regressed on besides Monte Carlo returns: λ-returns, SARSA, and FQE.

All three are one recursion on what a target network thinks of the next state, V⁻(s_{i+1}):

    SARSA, λ-returns   V⁻(s_{i+1}) = Q⁻(s_{i+1}, a_{i+1}),            the action that was logged
    FQE                V⁻(s_{i+1}) = 1/K Σ_k Q⁻(s_{i+1}, a^k),  a^k ~ π,  the policy to evaluate

Shapes: T turns of many conversations laid end to end; S next states, K sampled actions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def lambda_returns(
    rewards: Sequence[float],
    next_values: Sequence[float],
    is_last: Sequence[bool],
    is_known: Sequence[bool],
    *,
    gamma: float,
    lambda_: float,
) -> list[float]:
    """λ-return of every turn.

        G^λ_i = r_{i+1} + γ ((1 − λ) V⁻(s_{i+1}) + λ G^λ_{i+1}),    G^λ after the end = 0

    λ = 0 is the one-step target of SARSA and FQE, λ = 1 the Monte Carlo return of a conversation
    that ended. Where the log does not show what a transition led to, its target is NaN; the turn
    before it, which led to a state that is there to be seen, has V⁻ in the place of G^λ. So a
    censored conversation is learned from up to where it was cut, and needs no weight: which of its
    transitions were seen does not depend on what they led to. Where V⁻ is NaN (a state too long to
    be rendered), G^λ takes its place.

    Args:
        rewards: r_{i+1}.
        next_values: V⁻(s_{i+1}); not read on a last turn.
        is_last: Whether the turn is its conversation's last.
        is_known: Whether the log shows what the turn led to: the next customer message, the
            outcome, or that nothing came.
        gamma: Discount per turn, in [0, 1].
        lambda_: In [0, 1].

    Returns:
        T targets in units of the reward.

    Raises:
        ValueError: If gamma or lambda is outside [0, 1], or the lengths differ.

    >>> lambda_returns([0, 0, 1], [0.25, 0.5, 0], [False, False, True], [True] * 3,
    ...                gamma=1.0, lambda_=0.5)
    [0.5, 0.75, 1.0]
    """
    if not (0 <= gamma <= 1 and 0 <= lambda_ <= 1):
        raise ValueError(f"gamma and lambda are in [0, 1], are {gamma} and {lambda_}")
    targets = [math.nan] * len(rewards)
    following = math.nan
    turns = list(zip(rewards, next_values, is_last, is_known, strict=True))
    for t in range(len(turns) - 1, -1, -1):
        reward, value, last, known = turns[t]
        if last:
            value = following = 0.0
        if math.isnan(following):
            after = value
        elif math.isnan(value):
            after = following
        else:
            after = (1 - lambda_) * value + lambda_ * following
        following = targets[t] = reward + gamma * after if known else math.nan
    return targets


def poisson_counts(uniforms: Sequence[float], *, most: int = 8) -> list[int]:
    """Numbers of times that conversations are drawn in a bootstrap resample, from uniform numbers.

    Drawing n of n with replacement takes each about Poisson(1) times (Oza & Russell, 2001); from a
    hash of the conversation's id, the resample does not depend on the order of the log.

    >>> poisson_counts([0.1, 0.5, 0.9, 0.99])
    [0, 1, 2, 4]
    """
    bounds, mass, total = [], math.exp(-1), 0.0
    for count in range(most):
        total += mass
        bounds.append(total)
        mass /= count + 1
    return [sum(uniform >= bound for bound in bounds) for uniform in uniforms]
