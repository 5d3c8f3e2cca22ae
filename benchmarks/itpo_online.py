"""Multi-turn RLOO, GRPO and PPO in an environment, as ITPO's paper has them.

    hold conversations -> update the credit model on them -> score the same ones -> policy step

Shapes: N tokens of the assistant, laid end to end; B conversations, T tokens padded.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
from scipy.stats import kendalltau

from benchmarks.itpo_credit import (
    IMPLICIT,
    Credit,
    Estimator,
    credit,
    group_advantages,
    token_rewards,
)
from benchmarks.itpo_dialogues import (
    Array,
    Dialogue,
    counts_of,
    hold_by_model,
    outcomes_of,
    read_tokens,
    token_logprobs_of,
)
from benchmarks.itpo_models import ImplicitModel, ValueModel, shuffled_batches, train
from benchmarks.itpo_settings import Settings
from benchmarks.itpo_worlds import World
from iterppo.lm.policy import Policy
from iterppo.rl.advantages import generalised_advantages, whiten
from iterppo.rl.implicit_rewards import turn_sums
from iterppo.rl.kl import kl_estimate
from iterppo.rl.losses import value_loss

LEAST_SCALE = 0.05
"""Of the whitening, in outcomes: while a credit model knows nothing yet, its noise makes no step of
full size."""


def improve(
    world: World,
    first: Policy,
    *,
    method: str,
    estimator: Estimator,
    settings: Settings,
    seed: int,
) -> list[dict[str, float]]:
    """Train a copy of a policy; what was seen on each update, before its step."""
    policy = Policy(copy.deepcopy(first.model), first.renderer, first.settings)
    common = {"minibatch": settings.credit_minibatch, "seed": seed}
    rate = settings.credit_learning_rate
    implicit = values = None
    if method in IMPLICIT or method == "prime":
        implicit = ImplicitModel(first.model, beta=settings.beta, learning_rate=rate, **common)
    elif method == "mc-q":
        values = ValueModel(first.model, learning_rate=rate, **common)
    learner = Learner(policy, first, settings, with_critic=estimator == "ppo", seed=seed)
    curve = []
    for update in range(settings.updates):
        dialogues = hold_by_model(
            world.factory,
            policy,
            num_prompts=settings.num_prompts,
            per_prompt=settings.per_prompt,
            max_turns=world.max_turns,
            seed=seed * 1_000_003 + update,
        )
        seen = _seen(dialogues, settings.per_prompt)
        if implicit is not None:
            seen["credit_loss"] = implicit.update(dialogues)
            seen |= _implicit_seen(implicit, dialogues)
        if values is not None:
            seen["credit_loss"] = values.update(dialogues)
        paid = credit(method, dialogues, implicit=implicit, values=values)
        seen["kl"] = learner.step(dialogues, paid, estimator)
        curve.append(seen)
    return curve


class Learner:
    """The policy step: clipped surrogate, KL to π_0 in the loss, a critic where PPO wants one."""

    def __init__(
        self, policy: Policy, first: Policy, settings: Settings, *, with_critic: bool, seed: int
    ) -> None:
        self._model: Any = policy.model
        self._reference, self._settings = first.model, settings
        self._random = Random(f"learner-{seed}")
        self._critic: torch.nn.Linear | None = None
        parameters = list(self._model.parameters())
        if with_critic:
            self._critic = torch.nn.Linear(self._model.config.hidden_size, 1)
            torch.nn.init.zeros_(self._critic.weight)
            torch.nn.init.zeros_(self._critic.bias)
            parameters += self._critic.parameters()
        self._optimiser = torch.optim.Adam(parameters, lr=settings.learning_rate)

    def step(self, dialogues: Sequence[Dialogue], paid: Credit, estimator: Estimator) -> float:
        """One pass over a batch; KL from π_0 before it, in nats per token (k3)."""
        settings, lengths = self._settings, counts_of(dialogues).tokens_B.tolist()
        old = token_logprobs_of(self._model, dialogues)
        reference = token_logprobs_of(self._reference, dialogues)
        returns: Sequence[torch.Tensor] = []
        before: Sequence[torch.Tensor] = []
        if self._critic is not None and paid.unit != "advantage":
            advantage_N, return_N, value_N = self._generalised(dialogues, paid)
            returns, before = return_N.split(lengths), value_N.split(lengths)
        else:
            found = group_advantages(paid, estimator, per_prompt=settings.per_prompt)
            advantage_N = torch.from_numpy(found).float()
        every_1N = torch.ones_like(advantage_N[None])
        scaled_1N, _ = whiten(advantage_N[None], every_1N, least_scale=LEAST_SCALE)
        advantages = scaled_1N[0].split(lengths)

        def loss_of(batch: list[int]) -> torch.Tensor:
            read = read_tokens(self._model, [dialogues[index] for index in batch])
            old_n, reference_n, advantage_n = (
                torch.cat([each[index] for index in batch]) for each in (old, reference, advantages)
            )
            ratio_n = (read.logprob_N - old_n).exp()
            clipped_n = ratio_n.clamp(1 - settings.clip, 1 + settings.clip)
            gain_n = torch.minimum(ratio_n * advantage_n, clipped_n * advantage_n)
            away_n = kl_estimate(read.logprob_N, reference_n, kind="k2")
            loss = (settings.kl_coefficient * away_n - gain_n).mean()
            if self._critic is not None and returns:
                value_n = self._critic(read.hidden_ND).squeeze(1)
                return_n, before_n = (
                    torch.cat([each[index] for index in batch]) for each in (returns, before)
                )
                every_1n = torch.ones_like(value_n[None])
                error = value_loss(
                    value_n[None], before_n[None], return_n[None], every_1n, clip=0.0
                )
                loss = loss + settings.value_coefficient * error / len(value_n)
            return loss

        batches = shuffled_batches(len(dialogues), settings.policy_minibatch, self._random)
        train(self._model, self._optimiser, loss_of, batches)
        kl_N = kl_estimate(torch.cat(old), torch.cat(reference), kind="k3")
        return float(kl_N.mean())

    @torch.no_grad()
    def _generalised(
        self, dialogues: Sequence[Dialogue], paid: Credit
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """GAE over a conversation's own tokens: advantages, returns and values."""
        assert self._critic is not None
        mask_BT = _rows([torch.ones(n) for n in counts_of(dialogues).tokens_B.tolist()])
        real_BT = mask_BT.bool()
        value_BT1 = torch.zeros(mask_BT.shape[0], mask_BT.shape[1] + 1)
        pieces = [
            self._critic(read_tokens(self._model, dialogues[at : at + 32]).hidden_ND).squeeze(1)
            for at in range(0, len(dialogues), 32)
        ]
        value_BT1[:, :-1][real_BT] = torch.cat(pieces)
        reward_BT = torch.zeros_like(mask_BT)
        reward_BT[real_BT] = torch.from_numpy(token_rewards(paid)).float()
        advantage_BT, return_BT = generalised_advantages(
            reward_BT,
            value_BT1,
            mask_BT,
            terminated_B=torch.ones(len(dialogues), dtype=torch.bool),
            gamma=1.0,
            lambda_=self._settings.gae_lambda,
        )
        return advantage_BT[real_BT], return_BT[real_BT], value_BT1[:, :-1][real_BT]


def _rows(pieces: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.nn.utils.rnn.pad_sequence(list(pieces), batch_first=True)


def _seen(dialogues: Sequence[Dialogue], per_prompt: int) -> dict[str, float]:
    outcome_B = outcomes_of(dialogues)
    outcome_P = outcome_B.reshape(-1, per_prompt).mean(axis=1)
    return {
        "success": float(outcome_B.mean()),
        # Conversations of one prompt share a customer: prompts are what is independent.
        "standard_error": float(outcome_P.std(ddof=1) / np.sqrt(len(outcome_P))),
        "turns": float(counts_of(dialogues).turns_B.mean()),
    }


def _implicit_seen(implicit: ImplicitModel, dialogues: Sequence[Dialogue]) -> dict[str, float]:
    """What the rescored batch looks like: the sum of a conversation beside its outcome."""
    total_B: Array = turn_sums(
        implicit.beta * implicit.log_ratios(dialogues), counts_of(dialogues).tokens_B
    )
    outcome_B = outcomes_of(dialogues)
    seen = {"implicit_spread": float(total_B.std()), "implicit_largest": float(abs(total_B).max())}
    if 0 < outcome_B.mean() < 1:
        seen["kendall_tau"] = float(kendalltau(total_B, outcome_B).statistic)
    return seen
