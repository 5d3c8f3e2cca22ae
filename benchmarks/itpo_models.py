"""The two models that `benchmarks.itpo` takes credit from, trained on outcomes, batch by batch.

ImplicitModel: φ and a frozen reference, both first copies of π_0 (`iterppo.rl.implicit_loss`).
ValueModel: Q(s_k, a_k) and V(s_k) by Monte Carlo, two linear outputs on another copy of π_0: what
Iterative PPO has in its place, here given the same conversations, steps and learning rate.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

import numpy as np
import torch

from benchmarks.itpo_dialogues import (
    TOKENS_PER_BATCH,
    Array,
    Dialogue,
    counts_of,
    outcomes_of,
    read_hidden,
    read_tokens,
    token_logprobs_of,
)
from iterppo.lm.training import token_batches
from iterppo.rl.implicit_loss import outcome_logits, outcome_loss

GRADIENT_CLIP = 10.0


def shuffled_batches(number: int, size: int, random: Random) -> Iterator[list[int]]:
    """All indices once, `size` at a time."""
    order = list(range(number))
    random.shuffle(order)
    for start in range(0, number, size):
        yield order[start : start + size]


class ImplicitModel:
    """log π_φ − log π_ref, whose sum over a conversation predicts the outcome."""

    def __init__(
        self, model: Any, *, beta: float, learning_rate: float, minibatch: int, seed: int
    ) -> None:
        self.model, self.reference = copy.deepcopy(model), copy.deepcopy(model)
        self.beta = beta
        self._minibatch, self._random = minibatch, Random(f"implicit-{seed}")
        self._optimiser = torch.optim.Adam(self.model.parameters(), lr=learning_rate)

    def update(self, dialogues: Sequence[Dialogue]) -> float:
        """One pass over a batch; its mean loss, in nats per conversation."""
        reference = token_logprobs_of(self.reference, dialogues)

        def loss_of(batch: list[int]) -> torch.Tensor:
            chosen = [dialogues[index] for index in batch]
            ratio_N = read_tokens(self.model, chosen).logprob_N - torch.cat(
                [reference[index] for index in batch]
            )
            logit_B = outcome_logits(
                ratio_N, torch.from_numpy(counts_of(chosen).tokens_B), beta=self.beta
            )
            outcome_B = torch.from_numpy(outcomes_of(chosen)).float()
            return outcome_loss(logit_B, outcome_B, num_conversations=len(chosen))

        batches = shuffled_batches(len(dialogues), self._minibatch, self._random)
        return train(self.model, self._optimiser, loss_of, batches)

    def log_ratios(self, dialogues: Sequence[Dialogue]) -> Array:
        """q of all tokens, in nats."""
        pairs = zip(
            token_logprobs_of(self.model, dialogues),
            token_logprobs_of(self.reference, dialogues),
            strict=True,
        )
        ratio_N = torch.cat([own - reference for own, reference in pairs])
        return ratio_N.double().numpy()


class ValueModel:
    """Q and V of turns, as probabilities of the outcome."""

    def __init__(self, model: Any, *, learning_rate: float, minibatch: int, seed: int) -> None:
        self.model = copy.deepcopy(model)
        self.heads = torch.nn.Linear(self.model.config.hidden_size, 2)
        torch.nn.init.zeros_(self.heads.weight)
        torch.nn.init.zeros_(self.heads.bias)
        self._minibatch, self._random = minibatch, Random(f"values-{seed}")
        self._parameters = [*self.model.parameters(), *self.heads.parameters()]
        self._optimiser = torch.optim.Adam(self._parameters, lr=learning_rate)

    def update(self, dialogues: Sequence[Dialogue]) -> float:
        """One pass over a batch; its mean loss, in nats per number."""

        def loss_of(batch: list[int]) -> torch.Tensor:
            chosen = [dialogues[index] for index in batch]
            repeats = counts_of(chosen).turns_B
            outcome_K = torch.from_numpy(np.repeat(outcomes_of(chosen), repeats)).float()
            return torch.nn.functional.binary_cross_entropy_with_logits(
                self._logits(chosen), outcome_K.unsqueeze(1).expand(-1, 2)
            )

        batches = shuffled_batches(len(dialogues), self._minibatch, self._random)
        return train(self.model, self._optimiser, loss_of, batches)

    @torch.no_grad()
    def advantages(self, dialogues: Sequence[Dialogue]) -> Array:
        """Q − V of every turn."""
        self.model.eval()
        found: list[Array] = [np.empty(0)] * len(dialogues)
        lengths = [len(dialogue.ids) for dialogue in dialogues]
        for batch in token_batches(lengths, tokens_per_batch=TOKENS_PER_BATCH, seed=None):
            chosen = [dialogues[index] for index in batch]
            q_K, v_K = self._logits(chosen).sigmoid().double().numpy().T
            pieces = np.split(q_K - v_K, np.cumsum(counts_of(chosen).turns_B)[:-1])
            for index, piece in zip(batch, pieces, strict=True):
                found[index] = piece
        return np.concatenate(found)

    def _logits(self, dialogues: Sequence[Dialogue]) -> torch.Tensor:
        """(K, 2): Q read behind the message, V before it."""
        places = [[*dialogue.ends, *dialogue.states] for dialogue in dialogues]
        output_P2 = self.heads(read_hidden(self.model, dialogues, places))
        rows = []
        for piece_P2 in output_P2.split([len(each) for each in places]):
            half = len(piece_P2) // 2
            rows.append(torch.stack([piece_P2[:half, 0], piece_P2[half:, 1]], dim=1))
        return torch.cat(rows)


def train(
    model: Any,
    optimiser: torch.optim.Optimizer,
    loss_of: Callable[[list[int]], torch.Tensor],
    batches: Iterator[list[int]],
) -> float:
    """A step on each of the batches; their mean loss."""
    model.train()
    losses = []
    for batch in batches:
        loss = loss_of(batch)
        optimiser.zero_grad()
        loss.backward()
        for group in optimiser.param_groups:
            torch.nn.utils.clip_grad_norm_(group["params"], GRADIENT_CLIP)
        optimiser.step()
        losses.append(float(loss.detach()))
    return float(np.mean(losses))
