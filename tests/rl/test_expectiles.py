"""Q̂ that looks ahead: hand-worked numbers, scipy's expectiles, and what it lies between."""

from typing import Any

import numpy as np
import pytest
from scipy.stats import expectile

from iterppo.rl.expectiles import Seen, look_ahead
from iterppo.rl.least_squares import Moments
from iterppo.rl.theory import action_values
from tests.rl.decision_processes import random_policy, random_process

Array = np.ndarray[Any, Any]


def solved(
    phi: Array, after: Array, psi: Array, reward: Array, weight: Array, *, tau: float
) -> tuple[Array, Array]:
    """Of one log that is the policy's own, without a ridge."""
    moments = Moments.empty(groups=1, value=phi.shape[1], regression=psi.shape[1])
    moments.add(phi, after, psi, reward, weight[:, None])
    return look_ahead(moments, Seen(phi, psi), weight, tau=tau, ridge=0.0)


@pytest.mark.parametrize("tau", [0.5, 0.7, 0.9])
def test_two_turns_by_hand(tau: float) -> None:
    # One suggestion leads to a state in which one of two has the outcome, and each was said half
    # of the time: the τ-expectile of 0 and 1 is τ. γ = .5.
    phi, psi = np.eye(2)[[0, 1, 1]], np.eye(3)
    after = np.array([[0, 0.5], [0, 0], [0, 0]])
    value, q = solved(phi, after, psi, np.array([0.0, 0.0, 1.0]), np.array([2.0, 1, 1]), tau=tau)

    assert value == pytest.approx([0.5 * tau, tau], abs=1e-6)
    assert q == pytest.approx([0.5 * tau, 0, 1], abs=1e-6)


@pytest.mark.parametrize("tau", [0.6, 0.8, 0.95])
def test_a_value_is_the_expectile_of_what_was_said(tau: float) -> None:
    random = np.random.default_rng(3)
    q = random.normal(size=40)
    weight = random.uniform(0.5, 2, size=40)
    one = np.ones((40, 1))
    value, _ = solved(one, 0 * one, np.eye(40), q, weight, tau=tau)

    assert value == pytest.approx([expectile(q, alpha=tau, weights=weight)], rel=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_from_the_policy_that_made_the_log_to_the_best_one(seed: int) -> None:
    random = np.random.default_rng(seed)
    S, A = 4, 3
    process = random_process(random, num_states=S, num_actions=A, gamma=0.8)
    policy_SA = random_policy(random, num_states=S, num_actions=A)
    best_SA = action_values(process, policy_SA)
    for _ in range(50):  # policy iteration
        best_SA = action_values(process, np.eye(A)[best_SA.argmax(axis=1)])

    def q(tau: float) -> Array:
        _, found = solved(
            np.repeat(np.eye(S), A, axis=0),
            process.gamma * process.next_SAS.reshape(S * A, S),
            np.eye(S * A),
            process.outcome_SA.ravel(),
            policy_SA.ravel(),
            tau=tau,
        )
        return found.reshape(S, A)

    assert q(0.5) == pytest.approx(action_values(process, policy_SA), abs=1e-5)
    assert q(0.9999) == pytest.approx(best_SA, rel=0.01)
    rising = [q(tau) for tau in (0.5, 0.7, 0.9)]
    assert (np.diff(rising, axis=0) > 0).all()


def test_weights_are_so_many_copies() -> None:
    random = np.random.default_rng(0)
    N, D, E = 30, 3, 4
    phi, psi = random.normal(size=(N, D)), random.normal(size=(N, E))
    after, reward = 0.2 * random.normal(size=(N, D)), random.normal(size=N)
    copies = random.integers(0, 3, size=N)
    each = np.repeat(np.arange(N), copies)
    weighted = solved(phi, after, psi, reward, copies.astype(float), tau=0.8)
    copied = solved(phi[each], after[each], psi[each], reward[each], np.ones(len(each)), tau=0.8)

    for one, other in zip(weighted, copied, strict=True):
        assert one == pytest.approx(other)


def test_what_does_not_settle_is_refused() -> None:
    # A state that leads to itself, without end.
    one = np.ones((2, 1))
    with pytest.raises(ValueError, match="do not settle; take a larger ridge"):
        solved(one, 1.5 * one, one, np.array([0.0, 1.0]), np.ones(2), tau=0.8)
