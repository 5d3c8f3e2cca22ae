"""How likely a policy is to take the actions of a log."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from transformers import PreTrainedModel

from iterppo.lm.policy import Policy
from iterppo.lm.rendering import Message
from iterppo.lm.training import right_pad, token_batches


@torch.no_grad()
def action_logprobs(
    policy: Policy,
    pairs: Sequence[tuple[Sequence[Message], str]],
    *,
    tokens_per_batch: int = 8192,
) -> list[float]:
    """log π(a | s) at the policy's temperature, in nats, its end of turn included.

    Args:
        policy: π.
        pairs: States, which are cut to the policy's context, and actions; "" is ∅.
        tokens_per_batch: Tokens of a forward pass.

    Returns:
        One number per pair; NaN where the state cannot be cut to the context.
    """
    renderer, settings = policy.renderer, policy.settings
    places, sequences = [], []
    for number, (state, action) in enumerate(pairs):
        fitted = renderer.fit(state, max_tokens=settings.max_prompt_tokens)
        if fitted is not None:
            places.append(number)
            prompt = renderer.prompt_ids(fitted[0])
            sequences.append((prompt, renderer.action_ids(action.strip())))
    found = [math.nan] * len(pairs)
    scored = token_logprobs(
        policy.model,
        sequences,
        temperature=settings.temperature,
        tokens_per_batch=tokens_per_batch,
    )
    for number, logprob in zip(places, scored, strict=True):
        found[number] = logprob
    return found


@torch.no_grad()
def token_logprobs(
    model: PreTrainedModel,
    sequences: Sequence[tuple[Sequence[int], Sequence[int]]],
    *,
    temperature: float,
    tokens_per_batch: int = 8192,
) -> list[float]:
    """log π(tokens | prompt) in nats, for pairs of prompt and tokens."""
    model.eval()
    found = [math.nan] * len(sequences)
    lengths = [len(prompt) + len(tokens) for prompt, tokens in sequences]
    for batch in token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None):
        rows = [[*sequences[index][0], *sequences[index][1]] for index in batch]
        ids_BT = right_pad(rows, value=0).to(model.device)
        logits_BTV = model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
        logprob_BTV = (logits_BTV / temperature).log_softmax(dim=-1)
        chosen_BT = logprob_BTV.gather(2, ids_BT[:, 1:].unsqueeze(2)).squeeze(2)
        for row, index in enumerate(batch):
            start = len(sequences[index][0])
            found[index] = float(chosen_BT[row, start - 1 : lengths[index] - 1].sum())
    return found
