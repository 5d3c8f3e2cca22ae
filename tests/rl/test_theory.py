"""The paper's theorems on random finite decision processes, and what they do not say."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from iterppo.rl.returns import monte_carlo_returns
from iterppo.rl.theory import (
    DecisionProcess,
    Direction,
    action_values,
    divergence,
    expected,
    greedy_policy,
    improvement_bound,
    is_single_turn_improvement,
    optimal_values,
    penalty,
    regularised_policy,
    slack,
    state_values,
    visitation,
)
from tests.rl.decision_processes import random_policy, random_process

Array = np.ndarray[Any, Any]

SEEDS = range(12)
DIRECTIONS: list[Direction] = ["new_old", "old_new"]
ROUNDING = 1e-10


class Case(NamedTuple):
    """A process, a policy, and what may go wrong on the way to the next one."""

    random: np.random.Generator
    process: DecisionProcess
    policy_SA: Array
    value_SA: Array
    """Q^π."""


def case(seed: int) -> Case:
    random = np.random.default_rng(seed)
    S, A = random.integers(2, 8), random.integers(2, 6)
    gamma = random.choice([0.0, 0.5, 0.9, 0.99])
    process = random_process(random, num_states=S, num_actions=A, gamma=gamma)
    policy_SA = random_policy(random, num_states=S, num_actions=A, evenness=random.uniform(0.2, 2))
    return Case(random, process, policy_SA, action_values(process, policy_SA))


# --- values ---


def test_values_of_a_chain_are_the_returns_of_its_only_conversation() -> None:
    gamma = 0.7
    outcome_SA, next_SAS = np.array([[0.0], [0.0], [1.0]]), np.zeros((3, 1, 3))
    next_SAS[0, 0, 1] = next_SAS[1, 0, 2] = 1
    found_SA = action_values(DecisionProcess(outcome_SA, next_SAS, gamma), np.ones((3, 1)))

    assert found_SA[:, 0].tolist() == pytest.approx(
        monte_carlo_returns([0.0, 0.0, 1.0], gamma=gamma)
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_values_are_the_discounted_outcomes_of_ever_more_turns(seed: int) -> None:
    _, process, policy_SA, value_SA = case(seed)
    # The probability of being in each state after t turns, and the outcome's on leaving it.
    num_states = len(policy_SA)
    there_SS, discount, total_S = np.eye(num_states), 1.0, np.zeros(num_states)
    step_SS = np.einsum("sa,sat->st", policy_SA, process.next_SAS)
    while discount * there_SS.sum() > 1e-13:
        total_S += discount * there_SS @ (policy_SA * process.outcome_SA).sum(axis=1)
        there_SS, discount = there_SS @ step_SS, discount * process.gamma

    assert np.allclose(state_values(process, policy_SA), total_S, atol=1e-10)
    assert np.allclose(expected(value_SA, policy_SA), total_S, atol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_change_of_value_is_the_advantage_over_the_states_that_the_new_policy_visits(
    seed: int,
) -> None:
    random, process, policy_SA, value_SA = case(seed)
    new_SA = random_policy(random, num_states=len(policy_SA), num_actions=policy_SA.shape[1])
    before_S, after_S = state_values(process, policy_SA), state_values(process, new_SA)
    advantage_S = expected(value_SA, new_SA) - before_S
    share = 1 - process.gamma

    by_new_S = visitation(process, new_SA) @ advantage_S / share
    assert np.allclose(after_S - before_S, by_new_S, atol=ROUNDING)
    if process.gamma >= 0.9:
        by_old_S = visitation(process, policy_SA) @ advantage_S / share
        assert not np.allclose(after_S - before_S, by_old_S, atol=1e-6), "as a log would have it"


@pytest.mark.parametrize("seed", SEEDS)
def test_discounted_visits_are_shares(seed: int) -> None:
    _, process, policy_SA, _ = case(seed)
    visits_SS = visitation(process, policy_SA)

    assert visits_SS.min() >= -ROUNDING
    assert visits_SS.sum(axis=1).max() <= 1 + ROUNDING
    endless = DecisionProcess(
        np.zeros_like(process.outcome_SA),
        process.next_SAS / process.next_SAS.sum(axis=2, keepdims=True),
        process.gamma,
    )
    assert np.allclose(visitation(endless, policy_SA).sum(axis=1), 1)


@pytest.mark.parametrize(
    ("outcome", "goes_on", "gamma", "said"),
    [
        pytest.param(0.5, 0.6, 0.9, "no probabilities", id="more than one"),
        pytest.param(-0.1, 0.6, 0.9, "no probabilities", id="negative"),
        pytest.param(0.5, 0.5, 1.0, "gamma", id="no discount"),
        pytest.param(0.5, 0.5, -0.1, "gamma", id="negative discount"),
    ],
)
def test_what_is_no_process_is_refused(
    outcome: float, goes_on: float, gamma: float, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        DecisionProcess(np.array([[outcome]]), np.array([[[goes_on]]]), gamma)


def test_shapes_that_do_not_fit_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and next \(2, 2, 2\)"):
        DecisionProcess(np.zeros((2, 3)), np.zeros((2, 2, 2)), 0.5)
    process = DecisionProcess(np.zeros((2, 3)), np.zeros((2, 3, 2)), 0.5)
    with pytest.raises(ValueError, match="sum to 1"):
        action_values(process, np.full((2, 3), 0.5))


# --- Theorem 1 ---


def improvements(found: Case) -> list[Array]:
    """Policies that are better in single turns, of several kinds; most by far are not greedy."""
    random, _, policy_SA, value_SA = found
    best_SA = greedy_policy(value_SA)
    some_S = random.random(len(policy_SA)) < 0.5
    drawn_SA = random_policy(random, num_states=len(policy_SA), num_actions=policy_SA.shape[1])
    better_S = expected(value_SA, drawn_SA) >= expected(value_SA, policy_SA)
    tilted_SA = policy_SA * np.exp(random.uniform(0, 5) * value_SA)
    return [
        best_SA,
        np.where(some_S[:, None], best_SA, policy_SA),
        0.95 * policy_SA + 0.05 * best_SA,
        np.where(better_S[:, None], drawn_SA, policy_SA),
        tilted_SA / tilted_SA.sum(axis=1, keepdims=True),
    ]


@pytest.mark.parametrize("seed", SEEDS)
def test_theorem_1_an_improvement_of_single_turns_improves_every_state(seed: int) -> None:
    found = case(seed)
    _, process, policy_SA, value_SA = found
    before_S = state_values(process, policy_SA)
    for new_SA in improvements(found):
        after_S = state_values(process, new_SA)
        gain_S = expected(value_SA, new_SA) - before_S

        assert gain_S.min() >= -ROUNDING
        assert (after_S - before_S).min() >= -ROUNDING
        # And by no less than the turn itself gains.
        assert (after_S - before_S - gain_S).min() >= -ROUNDING


def test_theorem_1_the_improvements_that_are_tried_are_many() -> None:
    gains = [
        expected(found.value_SA, new_SA) - expected(found.value_SA, found.policy_SA)
        for found in map(case, SEEDS)
        for new_SA in improvements(found)
    ]

    assert np.mean(np.concatenate(gains) > 1e-3) > 0.5


def test_theorem_1_is_about_q_and_not_about_the_next_outcome() -> None:
    # To push pays 0.3 at once and ends the talk; to ask leads to where an offer pays 0.8.
    outcome_SA = np.array([[0.3, 0.0], [0.8, 0.8]])
    next_SAS = np.zeros((2, 2, 2))
    next_SAS[0, 1, 1] = 1.0
    process = DecisionProcess(outcome_SA, next_SAS, 0.9)
    asks_SA, pushes_SA = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[1.0, 0.0], [1.0, 0.0]])

    assert is_single_turn_improvement(process.outcome_SA, asks_SA, pushes_SA)
    assert not is_single_turn_improvement(action_values(process, asks_SA), asks_SA, pushes_SA)
    assert state_values(process, pushes_SA)[0] < state_values(process, asks_SA)[0]


def test_improving_the_first_states_alone_is_not_enough() -> None:
    # From the first state the new policy takes the better way, and fails where it leads.
    next_SAS = np.zeros((2, 2, 2))
    next_SAS[0, 0, 1] = 1.0
    process = DecisionProcess(np.array([[0.0, 0.4], [0.9, 0.0]]), next_SAS, 0.9)
    policy_SA = np.array([[0.5, 0.5], [1.0, 0.0]])
    new_SA = np.array([[1.0, 0.0], [0.0, 1.0]])
    gain_S = expected(action_values(process, policy_SA), new_SA) - state_values(process, policy_SA)

    assert gain_S[0] > 0, "an improvement on average over P_0, which is the first state"
    assert not is_single_turn_improvement(action_values(process, policy_SA), policy_SA, new_SA)
    assert state_values(process, new_SA)[0] < state_values(process, policy_SA)[0]


# --- regularised objectives ---


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("seed", SEEDS)
def test_no_policy_does_better_than_the_regularised_optimum(
    seed: int, direction: Direction
) -> None:
    random, _, policy_SA, value_SA = case(seed)
    beta = float(np.exp(random.uniform(-5, 1)))
    S, A = policy_SA.shape
    best_SA = regularised_policy(value_SA, policy_SA, beta=beta, direction=direction)

    def objective(mu_SA: Array) -> Array:
        return expected(value_SA, mu_SA) - beta * penalty(policy_SA, mu_SA, direction=direction)

    assert np.allclose(best_SA.sum(axis=1), 1)
    assert best_SA.min() > 0
    others = [random_policy(random, num_states=S, num_actions=A) for _ in range(10)]
    near = [0.99 * best_SA + 0.01 * other_SA for other_SA in others]
    for other_SA in [*others, *near, policy_SA]:
        assert (objective(best_SA) - objective(other_SA)).min() >= -ROUNDING
        assert np.allclose(
            slack(value_SA, policy_SA, other_SA, beta=beta, direction=direction),
            objective(best_SA) - objective(other_SA),
            atol=ROUNDING,
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_an_optimum_under_ppos_penalty_gains_both_divergences(seed: int) -> None:
    _, _, policy_SA, value_SA = case(seed)
    new_SA = regularised_policy(value_SA, policy_SA, beta=0.3, direction="new_old")
    gain_S = expected(value_SA, new_SA) - expected(value_SA, policy_SA)

    both_S = divergence(new_SA, policy_SA) + divergence(policy_SA, new_SA)
    assert np.allclose(gain_S, 0.3 * both_S, atol=ROUNDING)


def test_divergences_by_hand() -> None:
    first_SA, second_SA = np.array([[0.25, 0.75], [1.0, 0.0]]), np.array([[0.5, 0.5], [0.5, 0.5]])
    nats = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)

    assert divergence(first_SA, second_SA).tolist() == pytest.approx([nats, np.log(2)])
    assert divergence(second_SA, first_SA)[1] == np.inf
    assert penalty(second_SA, first_SA, direction="new_old").tolist() == pytest.approx(
        [nats, np.log(2)]
    )


@pytest.mark.parametrize(
    ("beta", "policy_SA"),
    [
        pytest.param(0.0, np.array([[0.5, 0.5]]), id="no penalty"),
        pytest.param(0.1, np.array([[1.0, 0.0]]), id="an impossible action"),
    ],
)
def test_an_objective_without_a_single_optimum_is_refused(beta: float, policy_SA: Array) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        regularised_policy(np.ones((1, 2)), policy_SA, beta=beta, direction="new_old")


# --- Theorem 2 ---


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("epsilon", [0.0, 0.01, 0.3], ids=["exact Q", "small ε", "large ε"])
@pytest.mark.parametrize("optimised", [1.0, 0.9, 0.3], ids=["optimum", "small δ", "large δ"])
def test_theorem_2_holds(optimised: float, epsilon: float, direction: Direction) -> None:
    for seed in SEEDS:
        random, process, policy_SA, value_SA = case(seed)
        beta = float(np.exp(random.uniform(-5, 0)))
        error_SA = random.uniform(-1, 1, value_SA.shape)
        estimate_SA = value_SA + epsilon * error_SA / np.abs(error_SA).max()
        S, A = policy_SA.shape
        best_SA = regularised_policy(estimate_SA, policy_SA, beta=beta, direction=direction)
        drawn_SA = random_policy(random, num_states=S, num_actions=A)
        new_SA = optimised * best_SA + (1 - optimised) * drawn_SA
        bound_S = improvement_bound(
            process,
            policy_SA,
            new_SA,
            beta=beta,
            direction=direction,
            slack_S=slack(estimate_SA, policy_SA, new_SA, beta=beta, direction=direction),
            epsilon=epsilon,
        )

        gain_S = state_values(process, new_SA) - state_values(process, policy_SA)
        assert (gain_S - bound_S).min() >= -1e-9
        if epsilon == 0 and optimised == 1:
            assert gain_S.min() >= -ROUNDING
            assert bound_S.max() > 0, "it promises something"


def worst_case(direction: Direction) -> dict[str, Any]:
    """Q̂ cannot tell two actions apart, of which the old policy takes the one that is better by 2 ε
    and the new one the other. The state is met again and again."""
    epsilon, rare, beta = 0.1, 1e-3, 0.01
    process = DecisionProcess(
        np.array([[0.2 + epsilon, 0.2 - epsilon]]), np.full((1, 2, 1), 0.7), 0.9
    )
    policy_SA, new_SA = np.array([[1 - rare, rare]]), np.array([[rare, 1 - rare]])
    value_SA = action_values(process, policy_SA)
    estimate_SA = np.full((1, 2), value_SA.mean())
    assert np.abs(estimate_SA - value_SA).max() == pytest.approx(epsilon)
    return {
        "process": process,
        "policy_SA": policy_SA,
        "new_SA": new_SA,
        "beta": beta,
        "direction": direction,
        "slack_S": slack(estimate_SA, policy_SA, new_SA, beta=beta, direction=direction),
        "epsilon": epsilon,
    }


def loss(given: dict[str, Any]) -> float:
    """V^π'(s_0) − V^π(s_0)."""
    process, before_SA, after_SA = given["process"], given["policy_SA"], given["new_SA"]
    return float((state_values(process, after_SA) - state_values(process, before_SA))[0])


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_theorem_2_is_tight(direction: Direction) -> None:
    given = worst_case(direction)
    (bound,) = improvement_bound(**given)

    assert loss(given) < -0.4
    assert bound <= loss(given) <= 0.99 * bound


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize(
    "mistake",
    [
        pytest.param({"epsilon": 0.5 * 0.1}, id="ε counted once"),
        pytest.param({"slack_S": np.zeros(1)}, id="δ left out"),
        pytest.param({"beta": 0.02}, id="a larger β than was optimised with"),
    ],
)
def test_theorem_2_needs_each_of_its_constants(
    mistake: dict[str, Any], direction: Direction
) -> None:
    given = worst_case(direction)
    (wrong,) = improvement_bound(**{**given, **mistake})

    assert loss(given) < wrong


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_theorem_2_needs_the_horizon_and_the_visits(direction: Direction) -> None:
    given = worst_case(direction)
    (bound,) = improvement_bound(**given)

    # Without 1/(1 − γ) it promises too much. Without d^π' it is ten turns' worth: not tight.
    assert loss(given) < bound * (1 - 0.9)
    visited = visitation(given["process"], given["new_SA"])[0, 0]
    assert bound / visited < 2 * loss(given)


def test_theorem_2_as_its_last_line_is_printed_fails_for_the_papers_objective() -> None:
    # Objective with KL(π‖π'), bound with KL(π'‖π). The best action was all but never taken.
    process = DecisionProcess(np.array([[0.0, 1.0]]), np.zeros((1, 2, 1)), 0.5)
    policy_SA = np.array([[0.999, 0.001]])
    value_SA = action_values(process, policy_SA)
    new_SA = regularised_policy(value_SA, policy_SA, beta=0.9, direction="old_new")
    gain = (state_values(process, new_SA) - state_values(process, policy_SA))[0]
    ours, printed = (
        improvement_bound(
            process,
            policy_SA,
            new_SA,
            beta=0.9,
            direction=direction,
            slack_S=np.zeros(1),
            epsilon=0.0,
        )[0]
        for direction in DIRECTIONS[::-1]
    )

    assert ours <= gain < printed


def test_theorem_2_needs_the_direction_that_ppo_penalises_where_ppo_stops_early() -> None:
    # Q̂ is the same everywhere, and the policy drifted: what it lost is β KL(π'‖π), no more.
    process = DecisionProcess(np.full((1, 2), 0.5), np.zeros((1, 2, 1)), 0.5)
    policy_SA, new_SA = np.array([[0.5, 0.5]]), np.array([[0.001, 0.999]])
    value_SA = action_values(process, policy_SA)
    slack_S = slack(value_SA, policy_SA, new_SA, beta=1.0, direction="new_old")
    right, wrong = (
        improvement_bound(
            process,
            policy_SA,
            new_SA,
            beta=1.0,
            direction=direction,
            slack_S=slack_S,
            epsilon=0.0,
        )[0]
        for direction in DIRECTIONS
    )

    assert right == pytest.approx(0, abs=1e-12)
    assert wrong > 1, "although nothing was gained"


# --- policy iteration ---


@pytest.mark.parametrize("seed", SEEDS)
def test_value_iteration_finds_what_no_policy_exceeds(seed: int) -> None:
    random, process, policy_SA, _ = case(seed)
    best_S = optimal_values(process, tolerance=1e-10)
    S, A = policy_SA.shape

    for _ in range(20):
        other_SA = random_policy(random, num_states=S, num_actions=A, evenness=0.2)
        assert (best_S - state_values(process, other_SA)).min() >= -1e-9
    greedy_SA = greedy_policy(process.outcome_SA + process.gamma * process.next_SAS @ best_S)
    assert np.allclose(state_values(process, greedy_SA), best_S, atol=1e-7)
