"""A policy read, now and then, on prompts that it is not trained on.

Every reading asks the same prompts with the same random numbers, so that two readings differ by
what the policy has learned and by little else. It leaves the random numbers of training as they
were: a run that is watched trains as one that is not.

Shapes: P prompts, N completions of each.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from iterppo.lm.generation import Sampled, sample, seed_sampling
from iterppo.lm.likelihood import token_logprobs
from iterppo.lm.policy import Policy
from iterppo.lm.rendering import Message
from iterppo.rl.stopping import Reading


class Reward(Protocol):
    """Q, or anything that scores actions in states by their text."""

    def __call__(
        self, states: Sequence[Sequence[Message]], actions: Sequence[str]
    ) -> list[float]: ...


Reference = Callable[[], AbstractContextManager[PreTrainedModel]]
"""Gives π_ref, which may be the policy's own model without its adapters, for as long as it is
asked."""


@dataclass(frozen=True)
class BestOf:
    """What π_k would give if the best of N of its suggestions were sent, chosen by the reward."""

    n: int
    q: float
    """Mean reward of the chosen."""
    judge: float | None
    """Mean of the second Q̂ over them: what is left where the choice did not exploit errors."""
    kl: float
    """log N − (N − 1)/N in nats: an upper bound of its KL from π_k (Beirami et al., 2024)."""


class Watch:
    """Reads a policy on prompts of its own."""

    def __init__(
        self,
        policy: Policy,
        prompts: Sequence[Sequence[Message]],
        *,
        reward: Reward,
        judge: Reward | None,
        seed: int,
    ) -> None:
        """
        Args:
            policy: The policy that is trained; its model is read as it is at the time.
            prompts: States that it is not trained on.
            reward: What it is trained on.
            judge: A second opinion, fitted on other conversations.
            seed: Of the sampling.
        """
        self._policy = policy
        self._prompts = prompts
        self._reward = reward
        self._judge = judge
        self._seed = seed

    def read(self, update: int, *, reference: Reference) -> Reading:
        """The policy as it is now.

        Args:
            update: Updates that it has had.
            reference: π_ref.
        """
        drawn = self._sample(self._prompts)
        # A completion that is cut off is an abstention where it is deployed.
        texts = [one.text or "" for one in drawn]
        pairs = [
            (self._policy.renderer.prompt_ids(state), one.tokens)
            for state, one in zip(self._prompts, drawn, strict=True)
        ]
        temperature = self._policy.settings.temperature
        with reference() as model:
            is_training = model.training
            before = token_logprobs(model, pairs, temperature=temperature)
            model.train(is_training)
        return Reading(
            update=update,
            q_P=tuple(self._reward(self._prompts, texts)),
            judge_P=None if self._judge is None else tuple(self._judge(self._prompts, texts)),
            kl=_mean([one.logprob - b for one, b in zip(drawn, before, strict=True)]),
            entropy=-_mean([one.logprob for one in drawn]),
            distinct=distinct_bigrams([one.tokens for one in drawn]),
        )

    def best_of(self, n: int) -> BestOf:
        """The baseline that any policy step must beat: as the policy is now, N completions of each
        prompt, of which the reward takes one."""
        states = [state for state in self._prompts for _ in range(n)]
        texts = [one.text or "" for one in self._sample(states)]
        scores = self._reward(states, texts)
        chosen = [
            max(range(start, start + n), key=lambda index: scores[index])
            for start in range(0, len(states), n)
        ]
        judged = None
        if self._judge is not None:
            judged = _mean(self._judge(self._prompts, [texts[index] for index in chosen]))
        return BestOf(
            n, _mean([scores[index] for index in chosen]), judged, math.log(n) - (n - 1) / n
        )

    def _sample(self, states: Sequence[Sequence[Message]]) -> list[Sampled]:
        model = self._policy.model
        is_training = model.training
        devices = [model.device] if model.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            seed_sampling(self._seed, call=0)
            model.eval()
            drawn = sample(self._policy, states)
        model.train(is_training)
        return drawn


def distinct_bigrams(sequences: Sequence[Sequence[int]]) -> float:
    """Share of different bigrams among all bigrams (Li et al., 2016); 1 where there are none.

    >>> distinct_bigrams([[1, 2, 3], [1, 2, 4]])
    0.75
    """
    counts = Counter(pair for each in sequences for pair in itertools.pairwise(each))
    return len(counts) / counts.total() if counts else 1.0


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers)
