"""Sampling suggestions from a policy, many states at a time.

Shapes: B prompts, S positions of the padded prompts, T new tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache, PreTrainedModel

from iterppo.lm.policy import Policy
from iterppo.lm.rendering import Message
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
    length = max(len(prompt) for prompt in prompts)
    pad_id: int = renderer.tokenizer.pad_token_id
    device = policy.model.device
    ids_BS = torch.tensor([[pad_id] * (length - len(p)) + p for p in prompts], device=device)
    mask_BS = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts], device=device)
    written, logprobs = draw_tokens(
        policy.model,
        ids_BS,
        mask_BS,
        temperature=settings.temperature,
        max_new_tokens=settings.max_new_tokens,
        eos_id=renderer.eos_id,
    )
    suggestions = []
    for tokens, logprob in zip(written, logprobs, strict=True):
        finished = tokens[-1] == renderer.eos_id
        text = str(renderer.tokenizer.decode(tokens, skip_special_tokens=True)).strip()
        suggestions.append(Sampled(text if text and finished else None, logprob, tokens))
    return suggestions


def draw_tokens(
    model: PreTrainedModel,
    ids_BS: torch.Tensor,
    mask_BS: torch.Tensor,
    *,
    temperature: float,
    max_new_tokens: int,
    eos_id: int,
) -> tuple[list[list[int]], list[float]]:
    """Completions of prompts padded on the left: tokens, and the sum of their log-probabilities at
    that temperature, in nats.

    A row that has ended leaves the batch with its cached keys and values: completions differ in
    length, and `generate` would compute all of them until the longest has ended.
    """
    forward: Any = model
    takes = inspect.signature(type(model).forward).parameters
    written: list[list[int]] = [[] for _ in ids_BS]
    logprob_B = [0.0] * len(ids_BS)
    rows = list(range(len(ids_BS)))  # of the prompts that are still in the batch
    cache = DynamicCache(config=model.config)
    given_bS, mask_bS = ids_BS, mask_BS
    position_bS = (mask_BS.cumsum(dim=1) - 1).clamp(min=0)
    for _ in range(max_new_tokens):
        optional = {"position_ids": position_bS, "logits_to_keep": 1}
        logits_bV = forward(
            input_ids=given_bS,
            attention_mask=mask_bS,
            past_key_values=cache,
            use_cache=True,
            **{name: value for name, value in optional.items() if name in takes},
        ).logits[:, -1]
        logprob_bV = (logits_bV.float() / temperature).log_softmax(dim=-1)
        given_bS = torch.multinomial(logprob_bV.exp(), 1)
        drawn = zip(
            rows,
            given_bS.squeeze(1).tolist(),
            logprob_bV.gather(1, given_bS).squeeze(1).tolist(),
            strict=True,
        )
        going = []
        for place, (row, token, logprob) in enumerate(drawn):
            if written[row] and written[row][-1] == eos_id:
                continue
            written[row].append(token)
            logprob_B[row] += logprob
            if token != eos_id:
                going.append(place)
        if not going:
            break
        mask_bS = torch.cat([mask_bS, torch.ones_like(given_bS)], dim=1)
        position_bS = position_bS[:, -1:] + 1
        if len(going) <= DROP_AT * len(rows):
            keep = torch.tensor(going, device=ids_BS.device)
            cache.batch_select_indices(keep)
            given_bS, mask_bS, position_bS = given_bS[keep], mask_bS[keep], position_bS[keep]
            rows = [rows[place] for place in going]
    return written, logprob_B
