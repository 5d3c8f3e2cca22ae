"""What a new policy would make of a log: probabilities of its actions, suggestions in its states,
and what Q thinks of both.

    rows of trajectories -> log-probabilities, suggestions, readings of Q; turn by turn
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iterppo.config import FitQConfig
from iterppo.lm.branches import branch_members
from iterppo.lm.generation import sample, seed_sampling
from iterppo.lm.likelihood import action_logprobs, token_logprobs
from iterppo.lm.policy import Policy
from iterppo.lm.q_fitting import is_in_part
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import Message, decisions
from iterppo.progress import progress

Rows = Sequence[Mapping[str, Any]]
"""The turns of a conversation, of trajectories."""
Place = tuple[str, int]
"""Conversation and turn, from 1."""

PAIRS_TOGETHER = 1024
STATES_TOGETHER = 512


def logprobs_of_log(
    policy: Policy, conversations: Sequence[Rows], *, own_turns_only: bool
) -> list[list[float]]:
    """log π(a_i | s_i) of every turn of every conversation, in nats.

    Args:
        policy: π.
        conversations: Of the log.
        own_turns_only: Leave turns out whose suggestion another policy is known to have made, or
            nobody: there π is not what made the log.

    Returns:
        0 where a turn has no action, NaN where it is left out, or the state exceeds the context.
    """
    found = [[0.0] * len(rows) for rows in conversations]
    pairs, places = [], []
    for number, rows in enumerate(conversations):
        for index, decision in enumerate(
            decisions(rows, system_prompt=policy.settings.system_prompt)
        ):
            if decision.action is None:
                continue
            found[number][index] = math.nan
            if not own_turns_only or _is_own(decision.row, policy.settings.version):
                pairs.append((decision.state, decision.action))
                places.append((number, index))
    starts = range(0, len(pairs), PAIRS_TOGETHER)
    for start in progress(starts, "evaluate, log-probabilities", total=len(starts)):
        scored = action_logprobs(policy, pairs[start : start + PAIRS_TOGETHER])
        for (number, index), logprob in zip(places[start:], scored, strict=False):
            found[number][index] = logprob
    return found


def _is_own(row: Mapping[str, Any], version: str) -> bool:
    """A turn without a version may be the policy's where the log has suggestions at all; where it
    has none, somebody else wrote what was sent."""
    made_by: str | None = row["policy_version"]
    return row["adoption"] is not None if made_by is None else made_by == version


def suggestions_in(
    policy: Policy, conversations: Sequence[Rows], *, samples: int, seed: int
) -> dict[Place, list[str | None]]:
    """So many suggestions of the policy in every state that it can see; None: it abstains."""
    places, states = [], []
    for rows in conversations:
        for decision in decisions(rows, system_prompt=policy.settings.system_prompt):
            fitted = policy.renderer.fit(
                decision.state, max_tokens=policy.settings.max_prompt_tokens
            )
            if fitted is not None:
                places.append((decision.row["conversation_id"], decision.row["turn"]))
                states.append(fitted[0])
    found: dict[Place, list[str | None]] = {}
    starts = range(0, len(states), STATES_TOGETHER)
    for call, start in enumerate(progress(starts, "evaluate, suggestions", total=len(starts))):
        seed_sampling(seed, call=call)
        chosen = states[start : start + STATES_TOGETHER]
        drawn = sample(policy, [state for state in chosen for _ in range(samples)])
        for number, place in enumerate(places[start : start + STATES_TOGETHER]):
            own = drawn[number * samples : (number + 1) * samples]
            found[place] = [one.text for one in own]
    return found


def kl_per_suggestion(
    new: Policy, old: Policy, conversations: Iterable[Rows], *, most: int, seed: int
) -> float | None:
    """KL(new ‖ old) of a suggestion, in nats: the mean of log π_new − log π_old over suggestions
    that the new policy is asked for, token by token as they were drawn, those that are cut off too.

    Args:
        new: Is asked.
        old: In whose neighbourhood it should be.
        conversations: Of the states.
        most: Suggestions, one a state.
        seed: Of the sampling.

    Returns:
        None without a state that both can see, and where they are not made of the same tokens.
    """
    if new.renderer.tokenizer.get_vocab() != old.renderer.tokenizer.get_vocab():
        return None
    states: list[list[Message]] = []
    prompts: list[list[int]] = []
    for rows in conversations:
        both = (decisions(rows, system_prompt=one.settings.system_prompt) for one in (new, old))
        for pair in zip(*both, strict=True):
            fitted = [
                policy.renderer.fit(each.state, max_tokens=policy.settings.max_prompt_tokens)
                for policy, each in zip((new, old), pair, strict=True)
            ]
            if fitted[0] is not None and fitted[1] is not None and len(states) < most:
                states.append(fitted[0][0])
                prompts.append(old.renderer.prompt_ids(fitted[1][0]))
        if len(states) >= most:
            break
    if not states:
        return None
    seed_sampling(seed, call=0)
    drawn = sample(new, states)
    before = token_logprobs(
        old.model,
        [(prompt, one.tokens) for prompt, one in zip(prompts, drawn, strict=True)],
        temperature=old.settings.temperature,
    )
    return sum(one.logprob - b for one, b in zip(drawn, before, strict=True)) / len(drawn)


@dataclass(frozen=True)
class QReading:
    """What Q thinks of a conversation; lists by turn, NaN where it has nothing to say."""

    q: list[float]
    v: list[float]
    first_values: list[float]
    """V(s_1) by member; empty where it is not known."""


def is_unseen(conversation_id: str, split: str, config: FitQConfig) -> bool:
    """Whether a Q of this configuration was not fitted on a conversation."""
    return split != "train" or not is_in_part(conversation_id, config)


def q_readings(
    q: QFunction,
    conversations: Iterable[Rows],
    suggestions: Mapping[Place, Sequence[str | None]],
    *,
    system_prompt: str,
) -> dict[str, QReading]:
    """Read Q at the actions of a log, and at suggestions of the policy that it evaluates.

    Args:
        q: Q̂.
        conversations: That it was not fitted on.
        suggestions: Of that policy. A state without any has no v.
        system_prompt: That Q was fitted with.
    """
    owners, requests, lengths = [], [], {}
    for rows in conversations:
        seen = list(decisions(rows, system_prompt=system_prompt))
        segments, _ = q.renderer.segments(seen, max_tokens=q.settings.max_tokens)
        name = rows[0]["conversation_id"]
        lengths[name] = len(rows)
        for segment in segments:
            owners.append((name, segment))
            requests.append(
                (
                    segment,
                    [
                        (end, text or "")
                        for end, (index, _) in enumerate(segment.ends)
                        for text in suggestions.get((name, index + 1), ())
                    ],
                )
            )
    found = {
        name: QReading([math.nan] * length, [math.nan] * length, [])
        for name, length in lengths.items()
    }
    logged = q.segment_values([segment for _, segment in owners])
    for (name, segment), values in zip(owners, logged, strict=True):
        for (index, _), value in zip(segment.ends, values, strict=True):
            found[name].q[index] = value
    for (name, segment), (_, branches), read in zip(
        owners, requests, branch_members(q, requests), strict=True
    ):
        by_end: dict[int, list[tuple[float, list[float]]]] = {}
        for (end, _), one in zip(branches, read, strict=True):
            if math.isfinite(one[0]):
                by_end.setdefault(end, []).append(one)
        for end, here in by_end.items():
            index = segment.ends[end][0]
            found[name].v[index] = sum(value for value, _ in here) / len(here)
            if index == 0:
                members = zip(*(each for _, each in here), strict=True)
                found[name].first_values[:] = [sum(each) / len(here) for each in members]
    return found
