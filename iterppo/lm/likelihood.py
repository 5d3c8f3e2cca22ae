"""How likely a policy is to take the actions of a log."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

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
    policy.model.eval()
    renderer, settings = policy.renderer, policy.settings
    found = [math.nan] * len(pairs)
    sequences: list[tuple[int, list[int], int]] = []
    for number, (state, action) in enumerate(pairs):
        fitted = renderer.fit(state, max_tokens=settings.max_prompt_tokens)
        if fitted is not None:
            prompt = renderer.prompt_ids(fitted[0])
            ids = prompt + renderer.action_ids(action.strip())
            sequences.append((number, ids, len(prompt)))
    lengths = [len(ids) for _, ids, _ in sequences]
    for batch in token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None):
        chosen = [sequences[index] for index in batch]
        ids_BT = right_pad([ids for _, ids, _ in chosen], value=0).to(policy.model.device)
        logits_BTV = policy.model(input_ids=ids_BT, use_cache=False).logits[:, :-1].float()
        logprob_BTV = (logits_BTV / settings.temperature).log_softmax(dim=-1)
        chosen_BT = logprob_BTV.gather(2, ids_BT[:, 1:].unsqueeze(2)).squeeze(2)
        for row, (number, ids, start) in enumerate(chosen):
            found[number] = float(chosen_BT[row, start - 1 : len(ids) - 1].sum())
    return found
