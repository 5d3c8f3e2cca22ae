"""`trajectories`: conversations as turns, what `ingest` makes of a log."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, ClassVar

from iterppo.contracts.base import Row, column

ADOPTIONS = ("verbatim", "edited", "influenced", "rejected", "abstained", "not_shown")
"""What became of a suggestion. `abstained` is an action (the assistant chose ∅), `not_shown` is
none."""


class TrajectoriesRow(Row):
    """The decision at state s_i, and what it led to."""

    kind: ClassVar[str] = "trajectories"
    version: ClassVar[int] = 2  # 2: customer_id, business_id, facts
    readable_versions: ClassVar[tuple[int, ...]] = (1, 2)
    one_row_is: ClassVar[str] = "a turn; all turns of a conversation are neighbours, in order"
    no_dictionary: ClassVar[frozenset[str]] = frozenset(
        {
            *("conversation_id", "customer", "suggestion", "sent", "customer_after"),
            *("edit_distance", "suggestion_logprob", "customer_time", "sent_time"),
        }
    )

    conversation_id: str = column("Conversation, unique in the artifact.")
    turn: int = column("i, from 1, in the order of the conversation.", arrow="int32")
    customer: str | None = column(
        "c_i: the customer's message, consecutive ones joined by a line break; null where the "
        "business opened."
    )
    suggestion: str | None = column(
        "a_i: what the assistant suggested; null where it abstained, was not shown, or the log "
        "has no suggestions."
    )
    sent: str | None = column("m_i: what the business sent; null where it stopped responding.")
    adoption: str | None = column(
        "verbatim, edited, influenced, rejected, abstained or not_shown; null where the log has "
        "no suggestions "
        "(then the sent message is the action)."
    )
    edit_distance: float | None = column(
        "Levenshtein distance between suggestion and sent message, divided by the longer length.",
        unit="1",
    )
    outcome_before: bool = column(
        "o_i: was the outcome reached at s_i (then no decision remained, hence false)."
    )
    reward: float = column(
        "r_{i+1}: 1 where the transition out of (s_i, a_i) reached the outcome.", unit="outcomes"
    )
    done: bool = column("The conversation ended with this transition.")
    censored: bool = column(
        "The conversation was still open when the log was cut: its returns are unknown."
    )
    customer_after: str | None = column(
        "c_{i+1} where it ended the conversation (no state follows it); null elsewhere."
    )
    policy_version: str | None = column("The policy that made the suggestion.")
    persona: str | None = column("The exploration prompt that the suggestion was made under.")
    suggestion_logprob: float | None = column(
        "log π(a_i | s_i) as recorded when it was sampled.", unit="nat"
    )
    customer_time: datetime | None = column("When c_i was complete.", unit="UTC")
    sent_time: datetime | None = column("When m_i was complete.", unit="UTC")
    split: str = column("train or heldout; the same for all turns of a conversation.")
    customer_id: str | None = column("Who the customer is, over conversations.")
    business_id: str | None = column("Who the business is, over conversations.")
    facts: str | None = column(
        "What the configuration lets the policy know of the conversation: `name: value` lines from "
        "the log's meta."
    )


def action(row: Mapping[str, Any]) -> str | None:
    """The action a_i of a trajectories row: a text, "" where the assistant abstained (∅), None
    where there was none.

    Where a log has no suggestions (`adoption` is null) the sent message is the action (DESIGN,
    section 2).
    """
    adoption = row["adoption"]
    if adoption is None:
        return row["sent"]
    if adoption == "abstained":
        return ""
    return None if adoption == "not_shown" else row["suggestion"]
