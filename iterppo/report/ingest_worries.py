"""What to worry about behind `ingest`: a log that was read without an error, and is not what it was
taken for. The first that holds is told; those come first that others follow from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iterppo.logs.taking import COUNT_OF_FACT
from iterppo.statistics import FEWEST_CONVERSATIONS

_MANY_CENSORED = 0.5
_MANY_AFTER_CUTOFF = 0.5
_MANY_UNMATCHED = 0.5
_MANY_BACKWARDS = 0.5
_MANY_LIKE_NULL = 0.01

Counts = Mapping[str, Any]


def ingest_worry(counts: Counts) -> str | None:
    """The first thing to worry about, by the counts of trajectories; None where there is none."""
    worries = (_turns, _order, _events, _nulls, _outcomes, _facts, _rejects, _open, _heldout)
    return next((told for worry in worries if (told := worry(counts))), None)


def _turns(counts: Counts) -> str | None:
    messages, after = counts.get("messages", 0), counts.get("messages_after_cutoff", 0)
    look = (
        "Is that when the log was exported? Set ingest.cutoff, and ingest.idle to the silence that "
        "ends a conversation."
    )
    if after and not counts.get("turns"):
        return f"no turn is left: the messages were written after ingest.cutoff. {look}"
    if after > _MANY_AFTER_CUTOFF * (messages + after):
        return (
            f"{after} of {messages + after} messages were written after ingest.cutoff, and cut. "
            f"{look}"
        )
    if counts.get("turns"):
        return None
    if messages:
        return (
            f"no turn is left: of {messages} messages {counts.get('messages_blank', 0)} are blank, "
            f"and {counts.get('messages_cut_after_outcome', 0)} come after the outcome."
        )
    return (
        "no conversation has a message of a customer or a business. Do the messages stand where "
        "the format has them?"
    )


def _order(counts: Counts) -> str | None:
    backwards = counts.get("conversations_with_times_backwards", 0)
    if backwards > _MANY_BACKWARDS * counts["conversations"]:
        return (
            f"in {backwards} of {counts['conversations']} conversations times run backwards. Is "
            "the log newest first? Turn its messages round."
        )
    return None


def _events(counts: Counts) -> str | None:
    """Purchases that no conversation got."""
    unknown = counts.get("outcome_events_unknown", 0)
    outside = counts.get("outcome_events_outside_windows", 0)
    before_cutoff = unknown + outside + counts.get("outcome_events_joined", 0)
    if unknown + outside <= _MANY_UNMATCHED * before_cutoff:
        return None
    told = f"{unknown + outside} of {before_cutoff} events match no conversation"
    if unknown >= outside:
        return f"{told}. Are the ids in the file of ingest.outcomes those of the log (key_column)?"
    return (
        f"{told}, since they lie outside its window. Look at time_zone and window of "
        "ingest.outcomes."
    )


def _nulls(counts: Counts) -> str | None:
    """Suggestions that are the word for none."""
    like_null = counts.get("suggestions_like_null", 0)
    if like_null <= _MANY_LIKE_NULL * counts.get("messages", 0):
        return None
    return (
        f"{like_null} suggestions are the word NULL, None or nan, and are taken for what was "
        "suggested. Were they nulls? Export them as empty fields."
    )


def _outcomes(counts: Counts) -> str | None:
    """Q learns from what differs between conversations."""
    outcomes, ended = counts.get("outcomes", 0), counts.get("conversations_terminal", 0)
    if not ended:
        return (
            "no conversation ended, so Q has nothing to learn. Does ingest.outcomes say what the "
            "outcome is, or do ingest.cutoff and ingest.idle leave all of them open?"
        )
    if not outcomes:
        return (
            "no conversation reached the outcome, so Q has nothing to learn. Does "
            "ingest.outcomes say what the outcome is?"
        )
    if outcomes == ended:
        return (
            "every conversation that ended reached the outcome, so Q has no failures to learn "
            "from. Write outcome 0, not null, where it was missed, or look at ingest.cutoff and "
            "ingest.idle."
        )
    return None


def _facts(counts: Counts) -> str | None:
    missing = [
        repr(name.removeprefix(COUNT_OF_FACT))
        for name, number in counts.items()
        if name.startswith(COUNT_OF_FACT) and not number
    ]
    if missing:
        return (
            f"no conversation has {', '.join(missing)} in its meta, and ingest.facts names that. "
            "Is it written otherwise there?"
        )
    return None


def _rejects(counts: Counts) -> str | None:
    if counts["rejects"]:
        return (
            f"{counts['rejects']} lines were not taken. Why: iterppo inspect on the rejects "
            "artifact beside it."
        )
    return None


def _open(counts: Counts) -> str | None:
    if counts.get("conversations_censored", 0) > _MANY_CENSORED * counts["conversations"]:
        return (
            "most conversations were still open when the log was cut. Wait, or look at "
            "ingest.cutoff and ingest.idle."
        )
    return None


def _heldout(counts: Counts) -> str | None:
    heldout = counts.get("conversations_heldout", 0)
    if heldout < FEWEST_CONVERSATIONS:
        return (
            f"only {heldout} held-out conversations: diagnostics of Q will be vague. Collect more."
        )
    return None
