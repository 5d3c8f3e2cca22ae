"""What Q makes of actions that the policy might have taken instead."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from iterppo.config import FitQConfig
from iterppo.lm.branches import branch_values
from iterppo.lm.generation import sample, seed_sampling
from iterppo.lm.policy import Policy, use_accelerator
from iterppo.lm.q_function import QFunction
from iterppo.lm.q_log import Conversation
from iterppo.lm.rendering import decisions
from iterppo.logs.splits import unit_hash


class OtherActions(NamedTuple):
    """Several actions in each of some states."""

    values: list[list[float]]
    """Q̂ of each."""
    lengths: list[list[float]]
    """In tokens."""
    units: list[str]
    """Of the states: what is independent of all else."""
    customers: list[str]
    """The customer's last message in each; "" where the business opened."""
    texts: list[list[str]]
    """Of each action; "" is ∅."""


def other_actions(
    q: QFunction, policy: Policy, conversations: Sequence[Conversation], config: FitQConfig
) -> OtherActions | None:
    """Actions of the policy in some held-out states; None where there is no such state."""
    places = [
        (unit_hash(f"{c.conversation_id}/{index}", seed=config.seed), segment, end, c)
        for c in conversations
        if c.split == "heldout"
        for segment in c.segments
        for end, (index, _) in enumerate(segment.ends)
    ]
    places = sorted(places, key=lambda place: place[0])[: config.sampled_states]
    if not places:
        return None
    use_accelerator(policy)
    states, kept = [], []
    for _, segment, end, c in places:
        seen = list(decisions(c.rows, system_prompt=policy.settings.system_prompt))
        turn = seen[segment.ends[end][0]]
        fitted = policy.renderer.fit(turn.state, max_tokens=policy.settings.max_prompt_tokens)
        if fitted is not None:
            states += [fitted[0]] * config.sampled_actions
            kept.append((segment, end, c, turn.row["customer"] or ""))
    seed_sampling(config.seed, call=0)
    texts = iter([drawn.text or "" for drawn in sample(policy, states)])
    requests = [
        (segment, [(end, next(texts)) for _ in range(config.sampled_actions)])
        for segment, end, *_ in kept
    ]
    found = OtherActions([], [], [], [], [])
    for (_, _, c, customer), (_, asked), values in zip(
        kept, requests, branch_values(q, requests), strict=True
    ):
        if not any(math.isnan(value) for value in values):
            found.values.append(values)
            found.lengths.append([float(len(q.renderer.text_ids(text))) for _, text in asked])
            found.units.append(c.unit)
            found.customers.append(customer)
            found.texts.append([text for _, text in asked])
    return found if found.values else None
