"""Advantages of turns, from one reward a turn: RLOO, GRPO, and where PPO is paid.

Conversations of one prompt differ in their number of turns, and that is where estimators differ.
What follows from γ = 1 within a turn: all tokens of a turn have its advantage.

Shapes: K turns of B conversations laid end to end, num_turns_B of each; `per_prompt` neighbours
share a prompt. Padded: B conversations, T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def turn_returns(reward_K: Array, num_turns_B: Array, *, gamma: float) -> Array:
    """G_k = Σ_{s≥k} γ^(s−k) r_s within each conversation.

    >>> turn_returns(np.array([1.0, 2.0, 4.0]), np.array([2, 1]), gamma=0.5)
    array([2., 2., 4.])
    """
    padded_BK, is_turn_BK = _padded(reward_K, num_turns_B)
    return _returns(padded_BK, gamma)[is_turn_BK]


def leave_one_out_turn_advantages(
    reward_K: Array, num_turns_B: Array, *, per_prompt: int, gamma: float
) -> Array:
    """RLOO of turns: the baseline is what the *others* of the prompt were still to be paid.

        A_{i,k} = G_{i,k} − 1/(n−1) Σ_{j≠i} G_{j,k},    G_{j,k} = 0 for k > K_j

    The baseline of a turn depends on its number and on other conversations, never on what its own
    said, so the gradient's expectation is that without a baseline, whatever the K_i. With one turn
    each it is `leave_one_out_advantages`.

    Args:
        reward_K: Of each turn.
        num_turns_B: Turns of each conversation.
        per_prompt: n.
        gamma: Discount per turn, in [0, 1].

    Returns:
        One advantage a turn, in the units of the reward.

    Raises:
        ValueError: If the shapes do not fit.

    >>> leave_one_out_turn_advantages(np.array([1.0, 1.0, 4.0]), np.array([2, 1]), per_prompt=2,
    ...                               gamma=1.0)
    array([-2.,  1.,  2.])
    """
    padded_BK, is_turn_BK = _padded(reward_K, num_turns_B)
    return_PNK = _by_prompt(_returns(padded_BK, gamma), per_prompt)
    others_PNK = (return_PNK.sum(axis=1, keepdims=True) - return_PNK) / (per_prompt - 1)
    return (return_PNK - others_PNK).reshape(is_turn_BK.shape)[is_turn_BK]


def released_turn_advantages(reward_K: Array, num_turns_B: Array, *, per_prompt: int) -> Array:
    """RLOO of turns as ITPO's code has it, before its whitening.

        a_{i,k} = n/(n−1) r_{i,k} − 1/(n−1) Σ_{j=1..n} r̄_j,    A_{i,k} = Σ_{s≥k} a_{i,s}

    r̄_j is the mean reward of a turn of j. With one turn each it is the usual leave-one-out. With
    more it is, written out,

        A_{i,k} = G_{i,k} + 1/(n−1) Σ_{s≥k} (r_{i,s} − r̄_i) − (K_i − k + 1)/(n−1) Σ_{j≠i} r̄_j

    so that what is taken from G depends on what the conversation itself did at k: on how it was
    paid afterwards, and on how long it went on, K_i. The longer of two equally good conversations
    is charged more, and the expected gradient is another one than that of the rewards.
    `leave_one_out_turn_advantages` has neither term.

    The same function is PRIME's of tokens, for rewards and counts of tokens.

    Args:
        reward_K: Of each turn.
        num_turns_B: Turns of each conversation; at least 1.
        per_prompt: n.

    Returns:
        One advantage a turn, in the units of the reward.

    Raises:
        ValueError: If the shapes do not fit, or a conversation has no turn.

    >>> released_turn_advantages(np.array([1.0, 1.0, 4.0]), np.array([2, 1]), per_prompt=2)
    array([-6., -3.,  3.])
    """
    if (np.asarray(num_turns_B) < 1).any():
        raise ValueError("a conversation without a turn has no mean reward")
    padded_BK, is_turn_BK = _padded(reward_K, num_turns_B)
    mean_PN1 = _by_prompt(padded_BK.sum(axis=1, keepdims=True), per_prompt)
    mean_PN1 = mean_PN1 / np.reshape(num_turns_B, mean_PN1.shape)
    charge_P11 = mean_PN1.sum(axis=1, keepdims=True) / (per_prompt - 1)
    own_PNK = _by_prompt(padded_BK, per_prompt) * (per_prompt / (per_prompt - 1))
    each_BK = (own_PNK - charge_P11).reshape(is_turn_BK.shape)
    return _returns(np.where(is_turn_BK, each_BK, 0.0), 1.0)[is_turn_BK]


def group_relative_turn_advantages(
    reward_K: Array, num_turns_B: Array, *, per_prompt: int
) -> Array:
    """GRPO with a reward a step (Shao et al., 2024, section 4.1.3).

        r̃_{i,k} = (r_{i,k} − mean) / (sd + 1e-4),    A_{i,k} = Σ_{s≥k} r̃_{i,s}

    Mean and standard deviation are those of all turns of the prompt's conversations. With one turn
    each it is `group_relative_advantages`. A group whose turns are all paid the same has nothing to
    tell: 0. As in `released_turn_advantages`, what is subtracted grows with the number of turns
    that are left.

    Args:
        reward_K: Of each turn.
        num_turns_B: Turns of each conversation.
        per_prompt: n.

    Returns:
        One advantage a turn, in standard deviations.

    Raises:
        ValueError: If the shapes do not fit.

    >>> group_relative_turn_advantages(np.array([1.0, 0.0, 2.0]), np.array([2, 1]),
    ...                                per_prompt=2).round(3)
    array([-1., -1.,  1.])
    """
    padded_BK, is_turn_BK = _padded(reward_K, num_turns_B)
    reward_PNK = _by_prompt(padded_BK, per_prompt)
    is_turn_PNK = _by_prompt(is_turn_BK, per_prompt)
    standard_PNK = np.zeros_like(reward_PNK)
    for reward_NK, is_turn_NK, standard_NK in zip(
        reward_PNK, is_turn_PNK, standard_PNK, strict=True
    ):
        group = reward_NK[is_turn_NK]
        if len(group) > 1:
            spread = group.std(ddof=1) + 1e-4
            standard_NK[is_turn_NK] = (group - group.mean()) / spread
    return _returns(standard_PNK.reshape(is_turn_BK.shape), 1.0)[is_turn_BK]


def place_at_turn_ends(reward_K: Array, num_tokens_K: Array, mask_BT: Array) -> Array:
    """Each turn's reward on its last token: what GAE with a critic takes (PPO).

    Args:
        reward_K: Of each turn.
        num_tokens_K: Tokens of each turn.
        mask_BT: Which tokens the assistant wrote; row by row they are those of the turns, in order.

    Returns:
        Rewards of shape (B, T), 0 but on the last token of a turn.

    Raises:
        ValueError: If the turns have more or fewer tokens than the mask, or one without tokens has
            a reward.

    >>> place_at_turn_ends(np.array([5.0, 7.0]), np.array([2, 1]), np.array([[0, 1, 1, 0, 1]]))
    array([[0., 0., 5., 0., 7.]])
    """
    real_BT = np.asarray(mask_BT, dtype=bool)
    if int(np.sum(num_tokens_K)) != int(real_BT.sum()):
        raise ValueError(
            f"turns of {int(np.sum(num_tokens_K))} tokens, a mask of {int(real_BT.sum())}"
        )
    speaks_K = np.asarray(num_tokens_K) > 0
    if np.any(reward_K[~speaks_K] != 0):
        raise ValueError("a turn without tokens has a reward")
    reward_T = np.zeros(int(real_BT.sum()))
    reward_T[np.cumsum(num_tokens_K)[speaks_K] - 1] = reward_K[speaks_K]
    reward_BT = np.zeros(real_BT.shape)
    reward_BT[real_BT] = reward_T
    return reward_BT


def _padded(value_K: Array, num_turns_B: Array) -> tuple[Array, Array]:
    """Turns as (B, most turns), 0 beyond a conversation's end, and which of them there are."""
    if int(np.sum(num_turns_B)) != len(value_K):
        raise ValueError(f"conversations of {int(np.sum(num_turns_B))} turns, {len(value_K)} turns")
    most = int(np.max(num_turns_B, initial=0))
    is_turn_BK = np.arange(most) < np.asarray(num_turns_B)[:, None]
    padded_BK = np.zeros(is_turn_BK.shape)
    padded_BK[is_turn_BK] = value_K
    return padded_BK, is_turn_BK


def _returns(reward_BK: Array, gamma: float) -> Array:
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is a discount in [0, 1], is {gamma}")
    return_BK = reward_BK.copy()
    for k in range(reward_BK.shape[1] - 2, -1, -1):
        return_BK[:, k] += gamma * return_BK[:, k + 1]
    return return_BK


def _by_prompt(value_BK: Array, per_prompt: int) -> Array:
    if per_prompt < 2 or len(value_BK) % per_prompt:
        raise ValueError(
            f"{len(value_BK)} conversations are not groups of {per_prompt}, two at least"
        )
    return value_BK.reshape(-1, per_prompt, value_BK.shape[1])
