"""What became of the log: lines, conversations and turns, from the counts of the manifests.

counts of trajectories, returns, q, prompts, policy -> Funnel
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from iterppo.report.conservation import conservation
from iterppo.report.page.run import Round

MOST_REASONS = 5
MOST_REJECTS_READ = 100_000


@dataclass(frozen=True)
class Step:
    """One count within a group."""

    label: str
    number: int
    share: float
    """Of the group's first."""
    is_loss: bool
    """What was left out on the way; not what went on."""


@dataclass(frozen=True)
class Funnel:
    """Groups of counts of one unit each."""

    groups: tuple[tuple[str, tuple[Step, ...]], ...]
    identities: tuple[tuple[str, bool], ...]
    """Sums that must hold between the artifacts, and whether they do."""
    reasons: tuple[tuple[str, int], ...]
    """Commonest reasons for which lines were not taken."""


# (unit, ((kind.count, label, is a loss), …)); the first of a group is the whole.
_GROUPS: tuple[tuple[str, tuple[tuple[str, str, bool], ...]], ...] = (
    (
        "Lines of the log",
        (
            ("trajectories.lines", "read", False),
            ("trajectories.copies", "copies of another line", True),
            ("trajectories.rejects", "not taken: see rejects", True),
            ("trajectories.lines_taken", "taken", False),
        ),
    ),
    (
        "Conversations",
        (
            ("trajectories.conversations", "found", False),
            ("trajectories.conversations_without_turns", "without a turn", True),
            ("trajectories.conversations_censored", "still open (return unknown)", True),
            ("trajectories.conversations_terminal", "ended", False),
            ("trajectories.outcomes", "ended in the outcome", False),
        ),
    ),
    (
        "Turns",
        (
            ("trajectories.turns", "made", False),
            ("returns.turns_censored", "of open conversations", True),
            ("returns.turns_with_return", "with a return", False),
            ("q.turns_without_action", "without an action", True),
            ("q.turns_too_long", "too long for the model", True),
            ("q.turns_scored", "scored by Q", False),
            ("q.turns_train_with_return", "that Q was fitted on", False),
        ),
    ),
    (
        "Prompts",
        (
            ("prompts.states", "states", False),
            ("prompts.states_too_long", "too long", True),
            ("prompts.states_not_sampled", "not sampled", True),
            ("prompts.prompts", "prompts", False),
            ("policy.prompts", "to train on", False),
            ("policy.prompts_watched", "held out and watched", False),
        ),
    ),
)


def read_funnel(one: Round) -> Funnel:
    """The round's funnel; empty where it has no turns yet."""
    counts = {
        name: place.manifest.counts
        for name in ("trajectories", "returns", "q", "prompts", "policy")
        if (place := one.whole(name)) is not None and place.manifest is not None
    }
    groups = []
    for unit, members in _GROUPS:
        known = [
            (label, number, is_loss)
            for name, label, is_loss in members
            if (number := _count(counts, name)) is not None and (number or not is_loss)
        ]
        if known and known[0][1]:
            whole = known[0][1]
            steps = tuple(
                Step(label, number, number / whole, is_loss) for label, number, is_loss in known
            )
            groups.append((unit, steps))
    return Funnel(tuple(groups), tuple(conservation(counts)), _reasons(one))


def _count(counts: Mapping[str, Mapping[str, int]], name: str) -> int | None:
    kind, _, count = name.partition(".")
    return counts[kind].get(count) if kind in counts else None


def _reasons(one: Round) -> tuple[tuple[str, int], ...]:
    """Of the first lines that were not taken, the commonest reasons."""
    place = one.whole("rejects")
    if place is None or place.manifest is None or not place.manifest.rows:
        return ()
    found: Counter[str] = Counter()
    for batch in place.artifact().batches(["reason"]):
        found.update(batch.column(0).to_pylist())
        if found.total() >= MOST_REJECTS_READ:
            break
    return tuple(found.most_common(MOST_REASONS))
