"""What the critic is fitted on before the first update: completions, and what they are worth.

q         completions of the policy as it is, worth what updates will pay: Q̂, or what they have over
          the others of their prompt; without the noise of outcomes, on the policy's own words
returns   suggestions of the log, worth the return that followed: unbiased where Q̂ is not, as
          noisy as outcomes are
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from iterppo.lm.critic import Valued
from iterppo.lm.generation import sample
from iterppo.lm.policy import Policy
from iterppo.lm.rendering import Message
from iterppo.rl.group_advantages import less_the_others


class LoggedSuggestion(NamedTuple):
    """A suggestion of the log, and what came of it."""

    prompt: list[Message]
    action: str
    return_: float
    """Discounted outcomes."""
    weight: float
    """Inverse censoring."""


def drawn(
    policy: Policy,
    reward: Any,
    prompts: Sequence[dict[str, Any]],
    *,
    number: int,
    seed: int,
    per_prompt: int = 1,
) -> list[Valued]:
    """Completions of the policy, worth Q̂. One that was cut off is no action and has no Q̂: it is
    left out.

    Args:
        policy: π.
        reward: Q̂.
        prompts: Rows with a `prompt`.
        number: Of completions.
        seed: Of the choice of prompts and of the sampling.
        per_prompt: Completions of each prompt; of two or more, each is worth Q̂ less the mean Q̂ of
            the others.
    """
    chosen = random.Random(seed).choices(prompts, k=max(1, number // per_prompt))
    states = [row["prompt"] for row in chosen for _ in range(per_prompt)]
    torch.manual_seed(seed)
    said = sample(policy, states)
    ended = [n for n, one in enumerate(said) if one.tokens[-1] == policy.renderer.eos_id]
    if not ended:
        return []
    scores = reward([states[n] for n in ended], [said[n].text or "" for n in ended])
    if per_prompt > 1:
        score_B, ended_B = torch.zeros(len(said)), torch.zeros(len(said), dtype=torch.bool)
        score_B[ended], ended_B[ended] = torch.tensor(scores), True
        scores = less_the_others(score_B, ended_B, per_prompt=per_prompt)[ended].tolist()
    return [
        Valued(policy.renderer.prompt_ids(states[n]), said[n].tokens, score)
        for n, score in zip(ended, scores, strict=True)
    ]


def logged(
    policy: Policy, suggestions: Sequence[LoggedSuggestion], *, number: int, seed: int
) -> list[Valued]:
    """Suggestions of the log, worth their returns.

    Args:
        policy: Whose tokens they become.
        suggestions: Of the log.
        number: How many are chosen at most.
        seed: Of the choice.
    """
    if len(suggestions) > number:
        suggestions = random.Random(seed).sample(suggestions, number)
    renderer = policy.renderer
    return [
        Valued(renderer.prompt_ids(one.prompt), renderer.action_ids(one.action.strip()), *one[2:])
        for one in suggestions
    ]
