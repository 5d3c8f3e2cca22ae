"""Sampling suggestions from a policy, many states at a time.

Shapes: B prompts, S positions of the padded prompts, T new tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from iterppo.lm.policy import Policy
from iterppo.lm.rendering import Message
from iterppo.lm.training import token_batches


@dataclass(frozen=True)
class Sampled:
    """A completion as a suggestion; text None: an abstention."""

    text: str | None
    logprob: float
    """log π(a | s) of what was sampled, in nats."""


def sample(
    policy: Policy, states: Sequence[Sequence[Message]], *, tokens_per_batch: int = 8192
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
    model: Any = policy.model
    output = model.generate(
        input_ids=ids_BS,
        attention_mask=mask_BS,
        do_sample=True,
        temperature=settings.temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=settings.max_new_tokens,
        eos_token_id=renderer.eos_id,
        pad_token_id=pad_id,
        return_dict_in_generate=True,
        output_scores=True,
    )
    new_BT = output.sequences[:, length:]
    logprob_BT = model.compute_transition_scores(
        output.sequences, output.scores, normalize_logits=True
    )
    suggestions = []
    for tokens_T, logprob_T in zip(new_BT.tolist(), logprob_BT, strict=True):
        end = tokens_T.index(renderer.eos_id) if renderer.eos_id in tokens_T else None
        written = tokens_T[:end]
        text = str(renderer.tokenizer.decode(written, skip_special_tokens=True)).strip()
        total = float(logprob_T[: len(written) + (end is not None)].sum())
        suggestions.append(Sampled(text if text and end is not None else None, total))
    return suggestions
