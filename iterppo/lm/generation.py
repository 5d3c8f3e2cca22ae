"""Sampling suggestions from a policy, many states at a time.

Shapes: B prompts, b of them that are still written on, S positions of the padded prompts, T new
tokens, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from transformers import PreTrainedModel

from iterppo.errors import DivergenceError
from iterppo.lm.policy import Policy
from iterppo.lm.rendering import Message
from iterppo.lm.roomy_cache import roomy_cache
from iterppo.lm.row_sampling import choose
from iterppo.lm.training import token_batches

DROP_AT = 0.8
"""Rows that have ended leave once no more than this share of the batch goes on: leaving copies the
cache."""


@dataclass(frozen=True)
class Sampled:
    """A completion as a suggestion; text None: an abstention."""

    text: str | None
    logprob: float
    """log π(a | s) of what was sampled, in nats."""
    tokens: list[int]
    """As they were drawn, the end of the turn included where it was reached."""


def sample(
    policy: Policy, states: Sequence[Sequence[Message]], *, tokens_per_batch: int = 16_384
) -> list[Sampled]:
    """One completion for each state, with its log-probability under the sampling distribution.

    A completion that is empty, or not finished within the policy's length, is an abstention: it is
    not a message.
    """
    prompts = [policy.renderer.prompt_ids(state) for state in states]
    return complete(policy, prompts, tokens_per_batch=tokens_per_batch)


def complete(
    policy: Policy, prompts: Sequence[list[int]], *, tokens_per_batch: int = 16_384
) -> list[Sampled]:
    """The same of prompts that are tokens already."""
    suggestions: dict[int, Sampled] = {}
    for batch in token_batches(
        [len(prompt) for prompt in prompts], tokens_per_batch=tokens_per_batch, seed=None
    ):
        suggestions |= zip(batch, _sample(policy, [prompts[index] for index in batch]), strict=True)
    return [suggestions[index] for index in range(len(prompts))]


def seed_sampling(seed: int, *, call: int) -> None:
    """Make what is sampled next depend on the seed and the number of the call alone."""
    torch.manual_seed(seed * 1_000_003 + call)


@torch.no_grad()
def _sample(policy: Policy, prompts: Sequence[list[int]]) -> list[Sampled]:
    settings, renderer = policy.settings, policy.renderer
    drawn = draw_tokens(
        policy.model,
        *left_pad(prompts, pad_id=renderer.tokenizer.pad_token_id, device=policy.model.device),
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        eos_id=renderer.eos_id,
    )
    suggestions = []
    for tokens, logprob in zip(drawn.tokens, drawn.logprob_BT.sum(dim=1).tolist(), strict=True):
        finished = tokens[-1] == renderer.eos_id
        text = str(renderer.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        suggestions.append(Sampled(text if text and finished else None, logprob, tokens))
    return suggestions


def left_pad(
    prompts: Sequence[list[int]], *, pad_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts as one (B, S) tensor, and the mask of their tokens."""
    length = max(len(prompt) for prompt in prompts)
    return (
        torch.tensor([[pad_id] * (length - len(p)) + p for p in prompts], device=device),
        torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device),
    )


class Drawn(NamedTuple):
    """What was drawn, row by row."""

    tokens: list[list[int]]
    """Of each completion, the end of its turn included where it was reached."""
    logprob_BT: torch.Tensor
    """log π of each token at the sampling temperature, in nats; 0 behind the last."""
    beside_BT1: torch.Tensor | None
    """What was read beside: column t before token t is written, one more after the last token of a
    completion that did not end; 0 elsewhere."""


def draw_tokens(
    model: PreTrainedModel,
    ids_BS: torch.Tensor,
    mask_BS: torch.Tensor,
    *,
    temperature: float,
    max_new_tokens: int,
    eos_id: int,
    uniform_BT: torch.Tensor | None = None,
    beside: Callable[[], torch.Tensor] | None = None,
) -> Drawn:
    """Completions of prompts padded on the left.

    A prompt that several rows have is read once. A row that has ended leaves the batch with its
    cached keys and values: completions differ in length, and `generate` would compute all of them
    until the longest has ended. Which tokens are drawn does not depend on who shares the batch.

    Args:
        model: A causal language model.
        ids_BS: Prompts.
        mask_BS: 1 for their tokens, 0 for padding.
        temperature: Of the sampling.
        max_new_tokens: T; a completion of this length has not ended.
        eos_id: The token that ends a turn.
        uniform_BT: Uniform numbers in [0, 1), one for each token; None: fresh ones.
        beside: Called after every forward, for another number (b,) of each row in it, read at its
            last position.

    Raises:
        DivergenceError: If the model's probabilities are not numbers.
    """
    B, T = len(ids_BS), max_new_tokens
    device = ids_BS.device
    if uniform_BT is None:
        uniform_BT = torch.rand(B, T, device=device)
    first_B, copies_B = _once(ids_BS, mask_BS)
    step = _Step(model, temperature, beside, room=ids_BS.shape[1] + T)
    token_BT = torch.full((B, T), eos_id, device=device)
    logprob_BT = torch.zeros(B, T, device=device)
    beside_BT1 = None if beside is None else torch.zeros(B, T + 1, device=device)
    row_b = torch.arange(B, device=device)  # of the prompts that are still in the batch
    going_b = torch.ones(B, dtype=torch.bool, device=device)
    logprob_bV, beside_b = step.read(ids_BS[first_B], mask_BS[first_B])
    if len(first_B) < B:
        step.keep(copies_B)
        logprob_bV = logprob_bV[copies_B]
        beside_b = None if beside_b is None else beside_b[copies_B]
    for t in range(T):
        token_b1 = choose(logprob_bV, uniform_BT[row_b, t].unsqueeze(1))
        here_b = row_b[going_b]
        token_BT[here_b, t] = token_b1[going_b, 0]
        logprob_BT[here_b, t] = logprob_bV.gather(1, token_b1)[going_b, 0]
        if beside_BT1 is not None and beside_b is not None:
            beside_BT1[here_b, t] = beside_b[going_b]
        going_b &= token_b1[:, 0] != eos_id
        number = int(going_b.sum())
        if not number or (t + 1 == T and beside is None):
            break
        if number <= DROP_AT * len(row_b):
            keep = going_b.nonzero().squeeze(1)
            step.keep(keep)
            row_b, token_b1, going_b = row_b[keep], token_b1[keep], going_b[keep]
        logprob_bV, beside_b = step.write(token_b1)
        if t + 1 == T and beside_BT1 is not None and beside_b is not None:
            beside_BT1[row_b[going_b], T] = beside_b[going_b]
    if logprob_BT.isnan().any():
        raise DivergenceError(
            "the policy's probabilities are not numbers, so nothing can be sampled from it. Its "
            "training diverged: make it again with a lower learning rate."
        )
    ended_BT = token_BT == eos_id
    length_B = torch.where(ended_BT.any(1), ended_BT.int().argmax(1) + 1, T).tolist()
    tokens = [row[:length] for row, length in zip(token_BT.tolist(), length_B, strict=True)]
    return Drawn(tokens, logprob_BT, beside_BT1)


def _once(ids_BS: torch.Tensor, mask_BS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first row of every prompt, and for each row the place of its prompt among those."""
    places: dict[tuple[int, ...], int] = {}
    first, copies = [], []
    start_B = (mask_BS.shape[1] - mask_BS.sum(dim=1)).tolist()
    for row, (ids, start) in enumerate(zip(ids_BS.tolist(), start_B, strict=True)):
        prompt = tuple(ids[start:])
        if prompt not in places:
            places[prompt] = len(places)
            first.append(row)
        copies.append(places[prompt])
    device = ids_BS.device
    return torch.tensor(first, device=device), torch.tensor(copies, device=device)


class _Step:
    """The model with what it has read so far."""

    def __init__(
        self,
        model: PreTrainedModel,
        temperature: float,
        beside: Callable[[], torch.Tensor] | None,
        *,
        room: int,
    ) -> None:
        self._forward: Any = model
        self._takes = inspect.signature(type(model).forward).parameters
        self._temperature, self._beside = temperature, beside
        self._cache = roomy_cache(model.config, room=room)
        self._mask_bS = self._position_bS = torch.empty(0)

    def read(
        self, ids_bS: torch.Tensor, mask_bS: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Prompts; log-probabilities (b, V) of what comes next, and what is read beside."""
        self._mask_bS = mask_bS
        self._position_bS = (mask_bS.cumsum(dim=1) - 1).clamp(min=0)
        return self._pass(ids_bS)

    def write(self, token_b1: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One more token each."""
        self._mask_bS = torch.cat([self._mask_bS, torch.ones_like(token_b1)], dim=1)
        self._position_bS = self._position_bS[:, -1:] + 1
        return self._pass(token_b1)

    def keep(self, rows: torch.Tensor) -> None:
        """These rows alone, in this order."""
        self._cache.batch_select_indices(rows)
        self._mask_bS, self._position_bS = self._mask_bS[rows], self._position_bS[rows]

    def _pass(self, ids_bS: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        optional = {"position_ids": self._position_bS, "logits_to_keep": 1}
        logits_bV = self._forward(
            input_ids=ids_bS,
            attention_mask=self._mask_bS,
            past_key_values=self._cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in self._takes},
        ).logits[:, -1]
        beside_b = None if self._beside is None else self._beside()
        return (logits_bV.float() / self._temperature).log_softmax(dim=-1), beside_b
