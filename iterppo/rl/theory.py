"""The theorems behind the loop, on finite decision processes, exactly (Jiang et al., 2025).

    π -> Q^π (solved) -> π' that is better in single turns -> V^π' ≥ V^π, by at least a bound

What the stages approximate with language models is exact here, so the tests can hold the claims
that the loop stands on to their word. All arrays are float64.

Shapes: S states in which the conversation goes on, A actions, or S × S from row to column. The
state ⊥ in which the conversation is over is left out: nothing is decided in it and nothing is paid.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Array = np.ndarray[Any, Any]

Direction = Literal["new_old", "old_new"]
"""Which divergence keeps the new policy π' near the old π: KL(π'‖π), which is what PPO with a
penalty on its own tokens pays, or KL(π‖π'), which is what the paper's objective has."""


@dataclass(frozen=True)
class DecisionProcess:
    """Conversations of one assistant with a sparse outcome.

    The reward r_{i+1} = o_{i+1} is credited to the transition out of (s_i, a_i), and the
    conversation ends with it. As a reward of the state, the paper's R(s_i) = o_i, it would vanish:
    the outcome turns s_{i+1} into ⊥, where outcomes are 0. What the business makes of a suggestion
    is part of the transition: P(s'|s, a) = Σ_m P(m|s, a) P(s'|s, a, m), equation 2.

    Args:
        outcome_SA: P(o_{i+1} = 1 | s, a).
        next_SAS: P(s_{i+1} | s, a) for each s_{i+1} ≠ ⊥. With the outcome's they sum to at most 1;
            the rest is the probability that somebody stops responding.
        gamma: Discount per turn, in [0, 1).

    Raises:
        ValueError: If the shapes do not fit, these are no probabilities, or gamma is not in [0, 1).
    """

    outcome_SA: Array
    next_SAS: Array
    gamma: float

    def __post_init__(self) -> None:
        S, A = self.outcome_SA.shape
        if self.next_SAS.shape != (S, A, S):
            raise ValueError(
                f"outcome {self.outcome_SA.shape} and next {self.next_SAS.shape} are not (S, A) "
                "and (S, A, S)"
            )
        total_SA = self.outcome_SA + self.next_SAS.sum(axis=2)
        if min(self.outcome_SA.min(), self.next_SAS.min()) < 0 or total_SA.max() > 1 + 1e-12:
            raise ValueError("the ways to leave a state and action are no probabilities")
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma is a discount in [0, 1), is {self.gamma}")


def action_values(process: DecisionProcess, policy_SA: Array) -> Array:
    """Q^π, by solving Bellman's equation.

        V = r_π + γ P_π V,    Q^π(s, a) = P(o = 1|s, a) + γ Σ_s' P(s'|s, a) V(s')

    Args:
        process: The conversations.
        policy_SA: π(a|s); its rows sum to 1.

    Returns:
        Expected discounted returns of shape (S, A), in units of the outcome.

    >>> chain = DecisionProcess(np.array([[0.0], [1.0]]), np.array([[[0, 1.0]], [[0, 0]]]), 0.5)
    >>> action_values(chain, np.ones((2, 1)))
    array([[0.5],
           [1. ]])
    """
    _check_policy(policy_SA, process.outcome_SA.shape)
    outcome_S = (policy_SA * process.outcome_SA).sum(axis=1)
    value_S = np.linalg.solve(_resolvent_inverse(process, policy_SA), outcome_S)
    return _look_ahead(process, value_S)


def state_values(process: DecisionProcess, policy_SA: Array) -> Array:
    """V^π(s) = E_{a∼π} Q^π(s, a), of shape (S,).

    >>> chain = DecisionProcess(np.array([[0.0], [1.0]]), np.array([[[0, 1.0]], [[0, 0]]]), 0.5)
    >>> state_values(chain, np.ones((2, 1)))
    array([0.5, 1. ])
    """
    return expected(action_values(process, policy_SA), policy_SA)


def visitation(process: DecisionProcess, policy_SA: Array) -> Array:
    """Discounted visits d^π_{s0}(s) = (1 − γ) Σ_t γ^t P(s_t = s | s_0, π), equation 3.

    Returns:
        One row for each initial state s_0, of shape (S, S). A row sums to at most 1; what it lacks
        is ⊥'s share.

    >>> chain = DecisionProcess(np.array([[0.0], [1.0]]), np.array([[[0, 1.0]], [[0, 0]]]), 0.5)
    >>> visitation(chain, np.ones((2, 1)))
    array([[0.5 , 0.25],
           [0.  , 0.5 ]])
    """
    _check_policy(policy_SA, process.outcome_SA.shape)
    return (1 - process.gamma) * np.linalg.inv(_resolvent_inverse(process, policy_SA))


def optimal_values(process: DecisionProcess, *, tolerance: float) -> Array:
    """V*, by value iteration: V ← max_a [P(o = 1|s, a) + γ Σ_s' P(s'|s, a) V(s')].

    Args:
        process: The conversations.
        tolerance: Largest error of a value that is returned, in units of the outcome.

    Returns:
        Of shape (S,).

    >>> bandit = DecisionProcess(np.array([[0.2, 0.6]]), np.zeros((1, 2, 1)), 0.9)
    >>> optimal_values(bandit, tolerance=1e-9)
    array([0.6])
    """
    value_S = np.zeros(len(process.outcome_SA))
    while True:
        better_S = _look_ahead(process, value_S).max(axis=1)
        # A contraction with factor γ: what is left is at most γ / (1 − γ) times the last change.
        left = process.gamma / (1 - process.gamma) * np.abs(better_S - value_S).max()
        value_S = better_S
        if left <= tolerance:
            return value_S


def greedy_policy(value_SA: Array) -> Array:
    """All probability on the first of the best actions.

    >>> greedy_policy(np.array([[0.1, 0.3, 0.3]]))
    array([[0., 1., 0.]])
    """
    return np.eye(value_SA.shape[1])[value_SA.argmax(axis=1)]


def expected(value_SA: Array, policy_SA: Array) -> Array:
    """E_{a∼π(·|s)} of a table of values, of shape (S,): what a single turn is worth.

    >>> expected(np.array([[0.0, 1.0]]), np.array([[0.25, 0.75]]))
    array([0.75])
    """
    return np.asarray((value_SA * policy_SA).sum(axis=1))


def is_single_turn_improvement(value_SA: Array, policy_SA: Array, new_SA: Array) -> bool:
    """Theorem 1's condition: E_{a∼π'} Q^π(s, a) ≥ E_{a∼π} Q^π(s, a) in every state.

    It must hold in every state, not on average over the first states P_0: V^π' − V^π is an average
    over the states that π' visits, d^π', and those of a log were visited by π.

    >>> is_single_turn_improvement(np.array([[0, 1.0]]), np.array([[1, 0.0]]), np.array([[0, 1.0]]))
    True
    """
    return bool(np.all(expected(value_SA, new_SA) >= expected(value_SA, policy_SA)))


def divergence(first_SA: Array, second_SA: Array) -> Array:
    """KL(first‖second) = Σ_a first log(first / second) in every state, in nats; 0 log 0 = 0.

    >>> divergence(np.array([[1.0, 0.0]]), np.array([[0.5, 0.5]]))
    array([0.69314718])
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        nats_SA = first_SA * (np.log(first_SA) - np.log(second_SA))
    return np.asarray(np.where(first_SA > 0, nats_SA, 0.0).sum(axis=1))


def penalty(policy_SA: Array, new_SA: Array, *, direction: Direction) -> Array:
    """The divergence between old and new policy that an objective penalises, in nats, (S,).

    >>> penalty(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]), direction="new_old")
    array([0.69314718])
    """
    if direction == "new_old":
        return divergence(new_SA, policy_SA)
    return divergence(policy_SA, new_SA)


def regularised_policy(
    value_SA: Array, policy_SA: Array, *, beta: float, direction: Direction
) -> Array:
    """argmax_μ L_s(μ) in every state, with L_s(μ) = E_{a∼μ} Q̂(s, a) − β · penalty(π, μ).

        KL(μ‖π):  μ(a) = π(a) exp(Q̂(a) / β) / Z
        KL(π‖μ):  μ(a) = β π(a) / (λ − Q̂(a)), with the λ > max Q̂ for which they sum to 1

    Args:
        value_SA: Q̂.
        policy_SA: The old policy π(a|s), positive everywhere, as a language model's is.
        beta: Weight of the penalty, in units of Q per nat; positive.
        direction: Which divergence is penalised.

    Returns:
        The new policy, of shape (S, A).

    Raises:
        ValueError: If beta or a probability is not positive.

    >>> half = np.array([[0.5, 0.5]])
    >>> regularised_policy(np.array([[0.0, np.log(3)]]), half, beta=1.0, direction="new_old")
    array([[0.25, 0.75]])
    """
    _check_policy(policy_SA, value_SA.shape)
    if beta <= 0 or policy_SA.min() <= 0:
        raise ValueError(f"beta = {beta} and every probability of the old policy must be positive")
    behind_SA = value_SA.max(axis=1, keepdims=True) - value_SA
    if direction == "new_old":
        weight_SA = policy_SA * np.exp(-behind_SA / beta)
    else:
        # Bisection for μ = λ − max Q̂: at the lower end one term alone is 1, at the upper all
        # together are at most 1.
        low_S1 = (beta * policy_SA - behind_SA).max(axis=1, keepdims=True)
        high_S1 = np.full_like(low_S1, beta)
        for _ in range(120):
            middle_S1 = (low_S1 + high_S1) / 2
            too_much_S1 = (beta * policy_SA / (middle_S1 + behind_SA)).sum(1, keepdims=True) > 1
            low_S1 = np.where(too_much_S1, middle_S1, low_S1)
            high_S1 = np.where(too_much_S1, high_S1, middle_S1)
        weight_SA = policy_SA / (high_S1 + behind_SA)
    return np.asarray(weight_SA / weight_SA.sum(axis=1, keepdims=True))


def slack(
    value_SA: Array, policy_SA: Array, new_SA: Array, *, beta: float, direction: Direction
) -> Array:
    """δ_s = sup_μ L_s(μ) − L_s(π'): how far the optimisation stayed behind, in every state.

    Args: as of `regularised_policy`; new_SA is the policy π' that was found.

    Returns:
        Of shape (S,), in units of Q, 0 at the optimum up to rounding.

    >>> half = np.array([[0.5, 0.5]])
    >>> slack(np.array([[0.3, 0.3]]), half, half, beta=0.1, direction="old_new")
    array([0.])
    """

    def objective(candidate_SA: Array) -> Array:
        paid_S = expected(value_SA, candidate_SA)
        return paid_S - beta * penalty(policy_SA, candidate_SA, direction=direction)

    best_SA = regularised_policy(value_SA, policy_SA, beta=beta, direction=direction)
    return np.maximum(objective(best_SA) - objective(new_SA), 0.0)


def improvement_bound(
    process: DecisionProcess,
    policy_SA: Array,
    new_SA: Array,
    *,
    beta: float,
    direction: Direction,
    slack_S: Array,
    epsilon: float,
) -> Array:
    """Theorem 2: what V^π'(s_0) − V^π(s_0) is at least, for each initial state.

        V^π'(s_0) − V^π(s_0) ≥ 1/(1 − γ) E_{s∼d^π'_{s0}} [β · penalty(π, π')(s) − δ_s − 2 ε_Q]

    ε_Q counts twice, once for the mean under π' and once for that under π.

    The penalty is the one of the objective that π' was found with. The paper's objective and its
    inequalities (5) and (6) have KL(π‖π'), its last line KL(π'‖π): the proof holds for either, and
    for a mixture of the two it does not. This package's PPO pays log π' − log π for every token
    that it writes, so its penalty is KL(π'‖π), "new_old".

    The mean is over d^π', the states that the *new* policy visits, though the theorem's objective
    averages over P_0. In ⊥ nothing is decided, so its share of d^π' counts with 0.

    It is no gate: ε_Q is a maximum over all states and actions, which no log shows.

    Args:
        process: The conversations.
        policy_SA: π.
        new_SA: π'.
        beta: Weight of the penalty, in units of Q per nat.
        direction: Which divergence is penalised.
        slack_S: δ_s, in units of Q.
        epsilon: ε_Q = max |Q̂ − Q^π|.

    Returns:
        Of shape (S,), in units of the outcome.

    >>> bandit = DecisionProcess(np.array([[0.2, 0.6]]), np.zeros((1, 2, 1)), 0.9)
    >>> half = np.array([[0.5, 0.5]])
    >>> improvement_bound(bandit, half, half, beta=1.0, direction="new_old",
    ...                   slack_S=np.array([0.1]), epsilon=0.05)
    array([-0.2])
    """
    at_least_S = beta * penalty(policy_SA, new_SA, direction=direction) - slack_S - 2 * epsilon
    return np.asarray(visitation(process, new_SA) @ at_least_S / (1 - process.gamma))


def _look_ahead(process: DecisionProcess, value_S: Array) -> Array:
    return np.asarray(process.outcome_SA + process.gamma * process.next_SAS @ value_S)


def _resolvent_inverse(process: DecisionProcess, policy_SA: Array) -> Array:
    """I − γ P_π."""
    next_SS = np.einsum("sa,sat->st", policy_SA, process.next_SAS)
    return np.eye(len(next_SS)) - process.gamma * next_SS


def _check_policy(policy_SA: Array, shape: tuple[int, ...]) -> None:
    if policy_SA.shape != shape or not np.allclose(policy_SA.sum(axis=1), 1, rtol=0, atol=1e-9):
        raise ValueError(f"policy {policy_SA.shape} is not {shape} with rows that sum to 1")
