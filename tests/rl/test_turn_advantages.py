"""Advantages of turns: by definition, by what they reduce to, and by the gradient they expect."""

import itertools

import numpy as np
import pytest
import torch

from iterppo.rl.advantages import generalised_advantages
from iterppo.rl.group_advantages import group_relative_advantages, leave_one_out_advantages
from iterppo.rl.turn_advantages import (
    group_relative_turn_advantages,
    leave_one_out_turn_advantages,
    place_at_turn_ends,
    released_turn_advantages,
    turn_returns,
)

NUM_TURNS_B = np.array([3, 1, 2, 2, 4, 1])
REWARD_K = np.array([1.0, 0.0, 2.0, 3.0, -1.0, 1.0, 0.5, 0.5, 1.0, 1.0, 1.0, 1.0, 0.25])


def by_conversation(values: np.ndarray) -> list[list[float]]:
    return [each.tolist() for each in np.split(values, np.cumsum(NUM_TURNS_B)[:-1])]


def test_leave_one_out_is_the_return_less_the_mean_of_the_others_at_the_same_turn() -> None:
    found = by_conversation(
        leave_one_out_turn_advantages(REWARD_K, NUM_TURNS_B, per_prompt=3, gamma=0.9)
    )

    returns = by_conversation(turn_returns(REWARD_K, NUM_TURNS_B, gamma=0.9))
    for i, own in enumerate(returns):
        others = [returns[j] for j in range(i // 3 * 3, i // 3 * 3 + 3) if j != i]
        for k, value in enumerate(own):
            baseline = sum(other[k] if k < len(other) else 0.0 for other in others) / 2
            assert found[i][k] == pytest.approx(value - baseline)


def test_the_released_formula_is_as_it_is_written() -> None:
    found = by_conversation(released_turn_advantages(REWARD_K, NUM_TURNS_B, per_prompt=3))

    rewards = by_conversation(REWARD_K)
    for i, own in enumerate(rewards):
        group = rewards[i // 3 * 3 : i // 3 * 3 + 3]
        charge = sum(sum(each) / len(each) for each in group) / 2
        for k in range(len(own)):
            expected = sum(3 / 2 * reward - charge for reward in own[k:])
            assert found[i][k] == pytest.approx(expected)


def test_the_longer_of_two_equally_good_conversations_is_charged_more_by_the_released_one() -> None:
    # Both are paid 1 in all, the first in two turns. By hand: 2 r − (1/2 + 1) per turn.
    reward_K, num_turns_B = np.array([0.5, 0.5, 1.0]), np.array([2, 1])

    released = released_turn_advantages(reward_K, num_turns_B, per_prompt=2)
    unbiased = leave_one_out_turn_advantages(reward_K, num_turns_B, per_prompt=2, gamma=1.0)

    assert released.tolist() == [-1.0, -0.5, 0.5]
    assert unbiased.tolist() == [0.0, 0.5, 0.0]


def test_grpo_is_standardised_over_the_turns_of_the_group_and_summed_from_behind() -> None:
    found = by_conversation(group_relative_turn_advantages(REWARD_K, NUM_TURNS_B, per_prompt=3))

    rewards = by_conversation(REWARD_K)
    for i, own in enumerate(rewards):
        group = np.concatenate(rewards[i // 3 * 3 : i // 3 * 3 + 3])
        for k in range(len(own)):
            standard = (np.array(own[k:]) - group.mean()) / (group.std(ddof=1) + 1e-4)
            assert found[i][k] == pytest.approx(standard.sum())


def test_with_one_turn_each_they_are_the_advantages_of_completions() -> None:
    score_B = torch.rand(8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one_B = np.ones(8, dtype=np.int64)
    expected = leave_one_out_advantages(score_B, per_prompt=4).numpy()

    unbiased = leave_one_out_turn_advantages(score_B.numpy(), one_B, per_prompt=4, gamma=1.0)
    assert unbiased == pytest.approx(expected)
    assert released_turn_advantages(score_B.numpy(), one_B, per_prompt=4) == pytest.approx(expected)
    assert group_relative_turn_advantages(score_B.numpy(), one_B, per_prompt=4) == pytest.approx(
        group_relative_advantages(score_B, per_prompt=4).numpy()
    )


def test_equal_conversations_have_nothing_to_tell() -> None:
    reward_K, num_turns_B = np.tile([0.2, 0.8], 3), np.array([2, 2, 2])

    found = leave_one_out_turn_advantages(reward_K, num_turns_B, per_prompt=3, gamma=1.0)
    assert found == pytest.approx(np.zeros(6))
    same_K = np.full(6, 0.5)
    assert group_relative_turn_advantages(same_K, num_turns_B, per_prompt=3).tolist() == [0] * 6


def expected_gradient(advantages: object) -> tuple[float, float]:
    """Of two rollouts of a small conversation, summed over all pairs that there are.

    At turn 1 the assistant ends the conversation (probability p, reward 0.6) or asks first; at turn
    2 it says the right thing (probability q, reward 1) or the wrong one (0). Asking pays 0.3.
    """
    assert callable(advantages)
    p, q = 0.4, 0.7
    ways = [
        (p, [0.6], [(0, 1 / p)]),
        ((1 - p) * q, [0.3, 1.0], [(0, -1 / (1 - p)), (1, 1 / q)]),
        ((1 - p) * (1 - q), [0.3, 0.0], [(0, -1 / (1 - p)), (1, -1 / (1 - q))]),
    ]
    total = [0.0, 0.0]
    for first, second in itertools.product(ways, repeat=2):
        rewards = np.array(first[1] + second[1])
        found = advantages(rewards, np.array([len(first[1]), len(second[1])]))
        start = 0
        for _, paid, scores in (first, second):
            for k, (parameter, score) in enumerate(scores):
                total[parameter] += first[0] * second[0] * score * found[start + k] / 2
            start += len(paid)
    return total[0], total[1]


def test_only_the_unbiased_one_expects_the_gradient_of_what_is_paid() -> None:
    # V = 0.6 p + (1 − p)(0.3 + q): ∂V/∂p = 0.6 − 0.3 − q, ∂V/∂q = 1 − p.
    truth = (0.6 - 0.3 - 0.7, 0.6)

    plain = expected_gradient(lambda r, n: turn_returns(r, n, gamma=1.0))
    unbiased = expected_gradient(
        lambda r, n: leave_one_out_turn_advantages(r, n, per_prompt=2, gamma=1.0)
    )
    released = expected_gradient(lambda r, n: released_turn_advantages(r, n, per_prompt=2))

    assert plain == pytest.approx(truth)
    assert unbiased == pytest.approx(truth)
    # It charges the asking way a turn more, so that ending at once looks better than it is.
    assert released[0] > truth[0] + 0.1


def test_a_reward_stands_on_the_last_token_of_its_turn() -> None:
    mask_BT = np.array([[0, 1, 1, 0, 1, 0], [1, 0, 0, 1, 1, 1]])

    found = place_at_turn_ends(
        np.array([1.0, 2.0, 3.0, 0.0, 4.0]), np.array([2, 1, 1, 0, 3]), mask_BT
    )

    assert found.tolist() == [[0, 0, 1, 0, 2, 0], [3, 0, 0, 0, 0, 4]]


def test_ppo_without_a_critic_sees_the_returns_of_the_turns() -> None:
    mask_BT = np.array([[0, 1, 1, 0, 1, 0], [1, 0, 0, 1, 1, 1]])
    reward_K, num_tokens_K = np.array([1.0, 2.0, 3.0, 4.0]), np.array([2, 1, 1, 3])
    reward_BT = torch.from_numpy(place_at_turn_ends(reward_K, num_tokens_K, mask_BT))

    advantage_BT, _ = generalised_advantages(
        reward_BT,
        torch.zeros(2, 7, dtype=torch.float64),
        torch.from_numpy(mask_BT),
        terminated_B=torch.tensor([True, True]),
        gamma=1.0,
        lambda_=1.0,
    )

    returns_T = np.repeat(turn_returns(reward_K, np.array([2, 2]), gamma=1.0), num_tokens_K)
    assert advantage_BT.numpy()[mask_BT.astype(bool)].tolist() == returns_T.tolist()


@pytest.mark.parametrize("per_prompt", [1, 4])
def test_conversations_that_are_no_groups_are_refused(per_prompt: int) -> None:
    with pytest.raises(ValueError, match="groups"):
        released_turn_advantages(REWARD_K, NUM_TURNS_B, per_prompt=per_prompt)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="conversations of 3 turns, 2 turns"):
        turn_returns(np.zeros(2), np.array([3]), gamma=1.0)
    with pytest.raises(ValueError, match="a discount"):
        turn_returns(np.zeros(2), np.array([2]), gamma=1.5)
    with pytest.raises(ValueError, match="no mean reward"):
        released_turn_advantages(np.zeros(2), np.array([2, 0]), per_prompt=2)
    with pytest.raises(ValueError, match="turns of 2 tokens, a mask of 1"):
        place_at_turn_ends(np.zeros(1), np.array([2]), np.array([[1, 0]]))
    with pytest.raises(ValueError, match="without tokens has a reward"):
        place_at_turn_ends(np.array([1.0, 1.0]), np.array([1, 0]), np.array([[1]]))
