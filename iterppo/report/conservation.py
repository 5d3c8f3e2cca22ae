"""Nothing disappears between the stages of a round: identities between its artifacts' counts."""

from __future__ import annotations

from collections.abc import Mapping

# (what is counted, where it comes in, where it has to be found again), as kind.count
_IDENTITIES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "lines",
        "trajectories.lines",
        ("trajectories.lines_taken", "trajectories.copies", "trajectories.rejects"),
    ),
    (
        "messages",
        "trajectories.messages",
        (
            "trajectories.sides",
            "trajectories.messages_joined",
            "trajectories.messages_blank",
            "trajectories.messages_cut_after_outcome",
        ),
    ),
    (
        "conversations",
        "trajectories.conversations",
        (
            "trajectories.conversations_terminal",
            "trajectories.conversations_censored",
            "trajectories.conversations_without_turns",
        ),
    ),
    ("turns", "trajectories.turns", ("returns.turns_with_return", "returns.turns_censored")),
    (
        "turns",
        "trajectories.turns",
        (
            "credit.turns_scored",
            "credit.turns_without_action",
            "credit.turns_too_long",
            "credit.turns_censored",
        ),
    ),
    (
        "turns",
        "trajectories.turns",
        ("q.turns_scored", "q.turns_without_action", "q.turns_too_long"),
    ),
    (
        "states",
        "trajectories.turns",
        ("prompts.prompts", "prompts.states_too_long", "prompts.states_not_sampled"),
    ),
)


def conservation(counts: Mapping[str, Mapping[str, int]]) -> list[tuple[str, bool]]:
    """Every identity whose artifacts are there, as a line, and whether it holds. Of an artifact
    that was made before its first part was counted nothing is said.

    Args:
        counts: Counts of each artifact, by kind.
    """
    lines = []
    for what, source, parts in _IDENTITIES:
        if any(name.partition(".")[0] not in counts for name in (source, *parts)):
            continue
        kind, _, first = parts[0].partition(".")
        if first not in counts[kind]:
            continue
        total, *found = (_count(counts, name) for name in (source, *parts))
        terms = " + ".join(
            f"{number} {name.partition('.')[2]}" for number, name in zip(found, parts, strict=True)
        )
        holds = total == sum(found)
        sign = "=" if holds else "is not"
        lines.append((f"{kind}: {total} {what} {sign} {terms}", holds))
    return lines


def _count(counts: Mapping[str, Mapping[str, int]], name: str) -> int:
    kind, _, count = name.partition(".")
    return counts[kind].get(count, 0)
