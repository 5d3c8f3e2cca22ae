"""Who is paid what: the methods of `benchmarks.itpo`, and their advantages.

    method -> rewards of turns or tokens, or advantages as they are -> one advantage a token

Shapes: N tokens of the assistant in K turns of B conversations, laid end to end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from benchmarks.itpo_dialogues import Array, Counts, Dialogue, counts_of, outcomes_of
from benchmarks.itpo_models import ImplicitModel, ValueModel
from iterppo.rl.group_advantages import group_relative_advantages, leave_one_out_advantages
from iterppo.rl.implicit_rewards import (
    Normalise,
    batch_scale,
    share_out,
    turn_rewards,
    uniform_weights,
)
from iterppo.rl.turn_advantages import (
    group_relative_turn_advantages,
    leave_one_out_turn_advantages,
)

Estimator = Literal["rloo", "grpo", "ppo"]
IMPLICIT: dict[str, Normalise] = {
    "itpo": "batch",
    "norm-itpo-sum": "softmax-sum",
    "norm-itpo-mean": "softmax-mean",
}
METHODS = ("outcome", "uniform", "prime", *IMPLICIT, "mc-q")
"""outcome: R on the last turn. uniform: R / K on each. prime: β q_t on each token, by the batch's
scale. itpo: turn sums, by the batch's scale. norm-itpo-…: R shared out by a softmax of turn sums
(the paper) or of mean token rewards (its code). mc-q: Q̂(s_k, a_k) − V̂(s_k), from Monte Carlo fits
on the same batches."""
TEMPERATURE = 0.4


@dataclass(frozen=True)
class Credit:
    """What a method makes of a batch."""

    unit: Literal["conversation", "turn", "token", "advantage"]
    """What `paid` has one number for; `advantage`: a turn, whose advantage it is."""
    paid: Array
    counts: Counts


def credit(
    method: str,
    dialogues: Sequence[Dialogue],
    *,
    implicit: ImplicitModel | None,
    values: ValueModel | None,
) -> Credit:
    """Rewards by one of `METHODS`, from models as they are now."""
    counts, outcome_B = counts_of(dialogues), outcomes_of(dialogues)
    if method == "outcome":
        return Credit("conversation", outcome_B, counts)
    if method == "uniform":
        weight_K = uniform_weights(counts.tokens_K, counts.turns_B)
        return Credit("turn", share_out(outcome_B, weight_K, counts.turns_B), counts)
    if method == "mc-q":
        assert values is not None
        return Credit("advantage", values.advantages(dialogues), counts)
    assert implicit is not None
    ratio_N = implicit.log_ratios(dialogues)
    if method == "prime":
        reward_N = implicit.beta * ratio_N
        return Credit("token", reward_N / batch_scale(reward_N, counts.tokens_B), counts)
    found = turn_rewards(
        ratio_N,
        counts.tokens_K,
        counts.turns_B,
        outcome_B,
        beta=implicit.beta,
        normalise=IMPLICIT[method],
        temperature=TEMPERATURE,
    )
    return Credit("turn", found.reward_K, counts)


def group_advantages(credit: Credit, estimator: Estimator, *, per_prompt: int) -> Array:
    """RLOO or GRPO: one advantage for every token."""
    counts, paid = credit.counts, credit.paid
    if credit.unit == "advantage":
        return np.repeat(paid, counts.tokens_K)
    if credit.unit == "conversation":
        relative = leave_one_out_advantages if estimator == "rloo" else group_relative_advantages
        score_B = torch.from_numpy(paid)
        return np.repeat(relative(score_B, per_prompt=per_prompt).numpy(), counts.tokens_B)
    each_B = counts.turns_B if credit.unit == "turn" else counts.tokens_B
    if estimator == "rloo":
        found = leave_one_out_turn_advantages(paid, each_B, per_prompt=per_prompt, gamma=1.0)
    else:
        found = group_relative_turn_advantages(paid, each_B, per_prompt=per_prompt)
    return np.repeat(found, counts.tokens_K) if credit.unit == "turn" else found


def token_rewards(credit: Credit) -> Array:
    """For PPO: each reward on the last token of what it is paid for."""
    if credit.unit == "token":
        return credit.paid
    size = credit.counts.tokens_B if credit.unit == "conversation" else credit.counts.tokens_K
    reward_N = np.zeros(int(size.sum()))
    reward_N[np.cumsum(size) - 1] = credit.paid
    return reward_N
