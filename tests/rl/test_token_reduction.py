"""Single-turn optimisation of tokens is policy improvement on messages, and reaches V*."""

from typing import Any

import numpy as np
import pytest

from iterppo.rl.theory import (
    DecisionProcess,
    action_values,
    divergence,
    expected,
    greedy_policy,
    optimal_values,
    regularised_policy,
    state_values,
)
from iterppo.rl.token_reduction import (
    END,
    TokenTree,
    optimal_tokens,
    regularised_tokens,
    string_policy,
    token_policy,
)
from tests.rl.decision_processes import random_policy, random_process

Array = np.ndarray[Any, Any]

SEEDS = range(4)
TREES = [
    pytest.param(TokenTree(num_tokens=2, length=1), id="abstain or not"),
    pytest.param(TokenTree(num_tokens=3, length=3), id="three tokens"),
    pytest.param(TokenTree(num_tokens=5, length=2), id="five words"),
    pytest.param(TokenTree(num_tokens=2, length=6), id="one word, many times"),
]


def process_of(seed: int, tree: TokenTree, gamma: float = 0.9) -> DecisionProcess:
    random = np.random.default_rng(seed)
    return random_process(random, num_states=5, num_actions=len(tree.strings), gamma=gamma)


def tokens_of(seed: int, tree: TokenTree) -> Array:
    """A random policy on tokens."""
    random = np.random.default_rng(seed)
    P, W = tree.child_PW.shape
    return random_policy(random, num_states=5 * P, num_actions=W).reshape(5, P, W)


# --- strings ---


def test_the_strings_of_two_words_and_an_end_by_hand() -> None:
    found = TokenTree(num_tokens=3, length=2).strings

    assert found == [(0,), (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2)]


@pytest.mark.parametrize("tree", TREES)
def test_every_string_occurs_once_and_ends_once(tree: TokenTree) -> None:
    P, W = tree.child_PW.shape
    length = max(len(string) for string in tree.strings)

    assert len(set(tree.strings)) == len(tree.strings)
    assert len(tree.strings) == sum((W - 1) ** n for n in range(length)) + (W - 1) ** length
    assert sorted(tree.child_PW.flatten().tolist()) == list(range(1, P + len(tree.strings)))
    for string in tree.strings:
        assert END not in string[:-1]
        assert string[-1] == END or len(string) == length


@pytest.mark.parametrize(("num_tokens", "length"), [(1, 3), (2, 0)])
def test_a_vocabulary_without_a_choice_is_refused(num_tokens: int, length: int) -> None:
    with pytest.raises(ValueError, match="nothing to choose"):
        TokenTree(num_tokens=num_tokens, length=length)


@pytest.mark.parametrize("tree", TREES)
def test_the_probability_of_a_string_is_the_product_of_its_tokens(tree: TokenTree) -> None:
    token_SPW = tokens_of(0, tree)
    policy_SA = string_policy(tree, token_SPW)

    assert np.allclose(policy_SA.sum(axis=1), 1)
    for number, string in enumerate(tree.strings):
        node, expected_S = 0, np.ones(5)
        for token in string:
            expected_S = expected_S * token_SPW[:, node, token]
            node = tree.child_PW[node, token]
        assert node == tree.num_prefixes + number
        assert np.allclose(policy_SA[:, number], expected_S, rtol=1e-12)


@pytest.mark.parametrize("tree", TREES)
def test_tokens_and_strings_are_one_policy(tree: TokenTree) -> None:
    token_SPW = tokens_of(1, tree)

    assert np.allclose(token_policy(tree, string_policy(tree, token_SPW)), token_SPW)


def test_after_a_prefix_that_never_occurs_any_token_will_do() -> None:
    tree = TokenTree(num_tokens=2, length=2)

    assert token_policy(tree, np.array([[1.0, 0, 0]]))[0].tolist() == [[1, 0], [0.5, 0.5]]


def test_values_of_other_strings_are_refused() -> None:
    with pytest.raises(ValueError, match="A = 3"):
        optimal_tokens(TokenTree(num_tokens=2, length=2), np.zeros((1, 4)))


# --- the optimum of a turn ---


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("seed", SEEDS)
def test_the_best_tokens_write_the_best_message(seed: int, tree: TokenTree) -> None:
    value_SA = np.random.default_rng(seed).random((5, len(tree.strings)))

    assert np.array_equal(
        string_policy(tree, optimal_tokens(tree, value_SA)), greedy_policy(value_SA)
    )


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("beta", [0.02, 0.3, 5.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_paying_for_every_tokens_kl_is_paying_for_the_messages(
    seed: int, beta: float, tree: TokenTree
) -> None:
    value_SA = np.random.default_rng(seed).random((5, len(tree.strings)))
    reference_SPW = tokens_of(seed, tree)
    new_SA = string_policy(tree, regularised_tokens(tree, value_SA, reference_SPW, beta=beta))
    policy_SA = string_policy(tree, reference_SPW)

    assert np.allclose(
        new_SA,
        regularised_policy(value_SA, policy_SA, beta=beta, direction="new_old"),
        atol=1e-12,
        rtol=1e-9,
    )


def test_a_message_divergence_is_that_of_its_tokens_where_the_new_policy_writes_them() -> None:
    tree = TokenTree(num_tokens=3, length=3)
    old_SPW, new_SPW = tokens_of(0, tree), tokens_of(1, tree)
    reached_SN = np.zeros((5, tree.num_prefixes + len(tree.strings)))
    reached_SN[:, 0] = 1
    total_S = np.zeros(5)
    for prefix in range(tree.num_prefixes):
        here_S = reached_SN[:, prefix]
        total_S += here_S * divergence(new_SPW[:, prefix], old_SPW[:, prefix])
        reached_SN[:, tree.child_PW[prefix]] = here_S[:, None] * new_SPW[:, prefix]

    assert np.allclose(
        total_S, divergence(string_policy(tree, new_SPW), string_policy(tree, old_SPW))
    )


@pytest.mark.parametrize("beta", [0.0, -1.0])
def test_a_turn_without_a_penalty_has_no_regularised_optimum(beta: float) -> None:
    tree = TokenTree(num_tokens=2, length=1)
    with pytest.raises(ValueError, match="must be positive"):
        regularised_tokens(tree, np.ones((1, 2)), np.full((1, 1, 2), 0.5), beta=beta)


# --- the loop ---


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("gamma", [0.0, 0.5, 0.97])
@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_of_single_turn_optimisation_reach_the_optimum(
    seed: int, gamma: float, tree: TokenTree
) -> None:
    process = process_of(seed, tree, gamma)
    best_S = optimal_values(process, tolerance=1e-11)
    token_SPW = tokens_of(seed, tree)
    value_S = state_values(process, string_policy(tree, token_SPW))
    assert (best_S - value_S).max() > 1e-3, "there is something to improve"
    for _ in range(20):
        q_SA = action_values(process, string_policy(tree, token_SPW))
        token_SPW = optimal_tokens(tree, q_SA)
        better_S = state_values(process, string_policy(tree, token_SPW))
        assert (better_S - value_S).min() >= -1e-10, "no round makes any state worse"
        converged = (better_S - value_S).max() < 1e-12
        value_S = better_S
        if converged:
            break

    assert converged
    assert np.allclose(value_S, best_S, atol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_rounds_under_a_kl_penalty_reach_the_optimum_more_slowly(seed: int) -> None:
    # Each round is regularised towards the one before, so what is reached is not.
    tree, beta, rounds = TokenTree(num_tokens=3, length=2), 0.1, 400
    process = process_of(seed, tree)
    best_S = optimal_values(process, tolerance=1e-11)
    token_SPW = np.full((5, *tree.child_PW.shape), 1 / 3)
    value_S = state_values(process, string_policy(tree, token_SPW))
    for _ in range(rounds):
        q_SA = action_values(process, string_policy(tree, token_SPW))
        token_SPW = np.maximum(regularised_tokens(tree, q_SA, token_SPW, beta=beta), 1e-300)
        better_S = state_values(process, string_policy(tree, token_SPW))
        assert (better_S - value_S).min() >= -1e-10
        value_S = better_S

    assert np.allclose(value_S, best_S, atol=2e-3)


def test_a_penalty_towards_the_first_policy_for_ever_stops_short_of_the_optimum() -> None:
    tree = TokenTree(num_tokens=3, length=2)
    process = process_of(0, tree)
    first_SPW = token_SPW = tokens_of(0, tree)
    for _ in range(400):
        q_SA = action_values(process, string_policy(tree, token_SPW))
        token_SPW = regularised_tokens(tree, q_SA, first_SPW, beta=0.1)
    policy_SA = string_policy(tree, token_SPW)
    best_S = optimal_values(process, tolerance=1e-11)

    assert (best_S - state_values(process, policy_SA)).min() > 1e-3
    assert np.all(
        expected(action_values(process, policy_SA), policy_SA)
        > state_values(process, string_policy(tree, first_SPW))
    )
