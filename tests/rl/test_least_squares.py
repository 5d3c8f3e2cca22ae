"""Heads in closed form: hand-worked numbers, exact solutions, and the regressions they replace."""

from typing import Any

import numpy as np
import pytest

from iterppo.rl.least_squares import Errors, Moments
from iterppo.rl.theory import action_values, state_values
from tests.rl.decision_processes import random_policy, random_process

Array = np.ndarray[Any, Any]


def moments(
    phi: Array, after: Array, psi: Array, reward: Array, weight: Array | None = None
) -> Moments:
    weight = np.ones((len(phi), 1)) if weight is None else weight
    made = Moments.empty(groups=weight.shape[1], value=phi.shape[1], regression=psi.shape[1])
    made.add(phi, after, psi, reward, weight)
    return made


def test_a_chain_of_two_turns_by_hand() -> None:
    # s0 leads to s1, s1 to the outcome; γ = .5. V(s1) = 1, V(s0) = .5.
    phi, after = np.eye(2), np.array([[0, 0.5], [0, 0]])
    # One feature for both pairs, which regresses on targets of .5 and 1.
    value, regression = moments(phi, after, np.ones((2, 1)), np.array([0.0, 1.0])).solve(0.0)

    assert value == pytest.approx([0.5, 1.0])
    assert regression == pytest.approx([0.75])


@pytest.mark.parametrize("seed", range(5))
def test_tabular_features_find_the_exact_values(seed: int) -> None:
    random = np.random.default_rng(seed)
    S, A = 4, 3
    process = random_process(random, num_states=S, num_actions=A, gamma=0.9)
    policy_SA = random_policy(random, num_states=S, num_actions=A)
    weight_SA = random.uniform(0.5, 2, (S, A))  # however often a pair was seen
    next_SAS = process.gamma * process.next_SAS
    pairs = np.eye(S * A)

    # Of another policy than the log's: next pairs are those of the policy to evaluate.
    after = np.einsum("sat,tb->satb", next_SAS, policy_SA).reshape(S * A, S * A)
    q, _ = moments(
        pairs, after, pairs[:, :1], process.outcome_SA.ravel(), weight_SA.reshape(-1, 1)
    ).solve(0.0)
    # Of the policy that made the log: a pair is seen as often as it acts so.
    v, q_of_log = moments(
        np.repeat(np.eye(S), A, axis=0),
        next_SAS.reshape(S * A, S),
        pairs,
        process.outcome_SA.ravel(),
        policy_SA.reshape(-1, 1),
    ).solve(0.0)

    exact = action_values(process, policy_SA)
    assert q.reshape(S, A) == pytest.approx(exact)
    assert v == pytest.approx(state_values(process, policy_SA))
    assert q_of_log.reshape(S, A) == pytest.approx(exact)


@pytest.mark.parametrize("ridge", [0.5, 30.0])
def test_the_solution_is_where_fitted_regressions_end(ridge: float) -> None:
    """The slow reference: regress on targets that the regression before made, until they stay."""
    random = np.random.default_rng(1)
    N, D, E = 200, 5, 4
    phi, psi = random.normal(size=(N, D)), random.normal(size=(N, E))
    after, reward = 0.4 * random.normal(size=(N, D)), random.normal(size=N)
    weight = random.poisson(1.0, size=N).astype(float)
    value, regression = moments(phi, after, psi, reward, weight[:, None]).solve(ridge)

    def regress(features: Array, wanted: Array) -> Array:
        second = features.T @ (features * weight[:, None])
        rho = ridge * np.trace(second) / (weight.sum() * features.shape[1])
        pulled = second + rho * np.eye(features.shape[1])
        return np.asarray(np.linalg.solve(pulled, features.T @ (weight * wanted)))

    x = np.zeros(D)
    for _ in range(500):
        x = regress(phi, reward + after @ x)

    assert value == pytest.approx(x)
    assert regression == pytest.approx(regress(psi, reward + after @ x))


def test_batches_and_groups_add_up() -> None:
    random = np.random.default_rng(2)
    phi, after, psi = (random.normal(size=(60, 3)) for _ in range(3))
    reward, weight = random.normal(size=60), random.poisson(1.0, size=(60, 2)).astype(float)
    whole = moments(phi, after, psi, reward, weight)
    parts = Moments.empty(groups=2, value=3, regression=3)
    for start in range(0, 60, 25):
        part = slice(start, start + 25)
        parts.add(phi[part], after[part], psi[part], reward[part], weight[part])
    times = weight[:, 1].astype(int)
    drawn = moments(*(np.repeat(each, times, axis=0) for each in (phi, after, psi, reward)))

    for group in range(2):
        for each, other in zip(
            whole.solve(1.0, group=group), parts.solve(1.0, group=group), strict=True
        ):
            assert each == pytest.approx(other)
    assert whole.solve(1.0, group=1)[0] == pytest.approx(drawn.solve(1.0)[0])
    assert whole.of([0, 1]).solve(1.0)[1] == pytest.approx(
        moments(phi, after, psi, reward, weight.sum(axis=1, keepdims=True)).solve(1.0)[1]
    )


def test_the_ridge_does_not_depend_on_the_scale_of_the_features() -> None:
    random = np.random.default_rng(3)
    phi, after, psi = (random.normal(size=(40, 3)) for _ in range(3))
    reward = random.normal(size=40)
    value, regression = moments(phi, 0.3 * after, psi, reward).solve(7.0)
    larger = moments(10 * phi, 10 * 0.3 * after, 100 * psi, reward).solve(7.0)

    assert larger[0] * 10 == pytest.approx(value)
    assert larger[1] * 100 == pytest.approx(regression)
    assert np.abs(moments(phi, after, psi, reward).solve(1e12)[0]).max() < 1e-9


def test_no_solution_says_so() -> None:
    same = np.ones((5, 2))  # two features that are one

    with pytest.raises(ValueError, match="larger ridge"):
        moments(same, 0 * same, same, np.ones(5)).solve(0.0)


def test_errors_are_those_of_the_predictions() -> None:
    random = np.random.default_rng(4)
    psi, wanted = random.normal(size=(50, 3)), random.normal(size=50)
    weight = random.uniform(size=(50, 2))
    errors = Errors.empty(groups=2, features=3)
    errors.add(psi[:20], wanted[:20], weight[:20])
    errors.add(psi[20:], wanted[20:], weight[20:])
    head = random.normal(size=3)

    for group in range(2):
        expected = (weight[:, group] * (psi @ head - wanted) ** 2).sum()
        assert errors.squared(head, group=group) == pytest.approx(expected)
    both = errors.of([0, 1])
    least = both.least(0.0)
    root = np.sqrt(weight.sum(axis=1))
    found, *_ = np.linalg.lstsq(psi * root[:, None], wanted * root, rcond=None)
    assert least == pytest.approx(found)
    assert both.squared(least) < both.squared(head)
    assert np.abs(both.least(1e12)).max() < 1e-9


def test_transitions_of_other_policies_say_what_actions_lead_to_and_not_what_states_are_worth() -> (
    None
):
    generator = np.random.default_rng(3)
    phi, after, psi = generator.normal(size=(3, 40, 3))
    reward, weight = generator.normal(size=40), np.ones((40, 1))
    both = Moments.empty(groups=1, value=3, regression=3)
    own, other = slice(0, 25), slice(25, 40)
    both.add(phi[own], after[own], psi[own], reward[own], weight[own])
    both.add(phi[other], after[other], psi[other], reward[other], weight[other], value=False)
    value, regression = both.solve(2.0)

    alone, _ = moments(phi[own], after[own], psi[own], reward[own], weight[own]).solve(2.0)
    assert value == pytest.approx(alone)
    second = psi.T @ psi
    second += 2.0 * np.trace(second) / (40 * 3) * np.eye(3)
    assert regression == pytest.approx(np.linalg.solve(second, psi.T @ (reward + after @ alone)))
