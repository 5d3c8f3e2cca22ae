"""Sampling suggestions from a policy, many states at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from iterppo.environments.episodes import Suggestion, TurnSoFar
from iterppo.lm.policy import Policy
from iterppo.lm.rendering import Message, decisions
from iterppo.lm.training import token_batches


class PolicyAssistant:
    """A policy as an assistant: from conversations so far to suggestions."""

    def __init__(self, policy: Policy, *, seed: int) -> None:
        self.policy = policy
        self.version = policy.settings.version
        self._generator_seed = seed
        self._calls = 0
        if torch.cuda.is_available():
            policy.model.to("cuda")
        policy.model.eval()

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        """One suggestion for each conversation, whose last turn waits for it."""
        states: list[list[Message] | None] = []
        for turns in conversations:
            *_, last = decisions(turns, system_prompt=self.policy.settings.system_prompt)
            fitted = self.policy.renderer.fit(last.state, max_tokens=self.policy.settings.max_prompt_tokens)
            states.append(fitted[0] if fitted else None)
        # Seeded call by call, so that what was generated elsewhere in the process changes nothing.
        torch.manual_seed(self._generator_seed * 1_000_003 + self._calls)
        self._calls += 1
        known = [state for state in states if state is not None]
        drawn = iter(sample(self.policy, known) if known else [])
        # A state that does not fit its context is one the policy cannot see: it abstains.
        return [Suggestion(None, None) if state is None else next(drawn) for state in states]


def sample(policy: Policy, states: Sequence[Sequence[Message]], *, tokens_per_batch: int = 8192) -> list[Suggestion]:
    """One completion for each state, with its log-probability under the sampling distribution.

    A completion that is empty, or not finished within the policy's length, is an abstention: it is not a message.
    """
    prompts = [policy.renderer.prompt_ids(state) for state in states]
    suggestions: dict[int, Suggestion] = {}
    for batch in token_batches([len(prompt) for prompt in prompts], tokens_per_batch=tokens_per_batch, seed=None):
        suggestions |= zip(batch, _sample(policy, [prompts[index] for index in batch]), strict=True)
    return [suggestions[index] for index in range(len(prompts))]


@torch.no_grad()
def _sample(policy: Policy, prompts: Sequence[list[int]]) -> list[Suggestion]:
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
    logprob_BT = model.compute_transition_scores(output.sequences, output.scores, normalize_logits=True)
    suggestions = []
    for tokens_T, logprob_T in zip(new_BT.tolist(), logprob_BT, strict=True):
        end = tokens_T.index(renderer.eos_id) if renderer.eos_id in tokens_T else None
        written = tokens_T[:end]
        text = renderer.tokenizer.decode(written, skip_special_tokens=True).strip()
        total = float(logprob_T[: len(written) + (end is not None)].sum())
        suggestions.append(Suggestion(text if text and end is not None else None, total))
    return suggestions
