"""A line of a log -> a conversation -> turns with rewards.

    {"conversation_id", "messages": [{"role": "customer"|"business", "content", "time"?, "outcome"?,
      "suggestion"?, "adoption"?, "suggestion_logprob"?, "policy_version"?, "persona"?}],
      "outcome"?, "unfinished"?}

A message's `outcome` is the state of the outcome just before the next message. Suggestion fields
stand on the business message that followed the suggestion. `meta.unfinished` counts as
`unfinished`; nothing else of `meta` is read, since it holds facts that no policy may see.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from iterppo.errors import DataError


def _whole_characters(text: str) -> str:
    """JSON can hold half of a surrogate pair, UTF-8 and hence Parquet cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character at {error.start}") from None
    return text


Text = Annotated[str, AfterValidator(_whole_characters)]


def _as_integer(value: Any) -> Any:
    """`true` and `1.0` are outcomes as well as 1."""
    return int(value) if isinstance(value, bool | float) and value in (0, 1) else value


Outcome = Annotated[Literal[0, 1], BeforeValidator(_as_integer)]
Role = Literal["customer", "business"]
Adoption = Literal["verbatim", "edited", "influenced", "rejected", "abstained", "not_shown"]
EDITED_BELOW = 0.5
"""A suggestion whose sent message is at most so far away (normalised edit distance) counts as
edited, else rejected."""


class LogMessage(BaseModel):
    """A message as the log has it."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    role: Role
    content: Text
    time: datetime | None = None
    outcome: Outcome | None = None
    suggestion: Text | None = None
    adoption: Adoption | None = None
    suggestion_logprob: Annotated[float, Field(allow_inf_nan=False)] | None = None
    policy_version: Text | None = None
    persona: Text | None = None

    @field_validator("time", mode="before")
    @classmethod
    def _parse_time(cls, value: Any) -> Any:
        try:
            if isinstance(value, str):
                value = datetime.fromisoformat(value)
            elif isinstance(value, int | float) and not isinstance(value, bool):
                value = datetime.fromtimestamp(value, UTC)
            if isinstance(value, datetime):
                value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        except (OverflowError, OSError) as error:  # neither becomes a ValidationError by itself
            raise ValueError(str(error)) from None
        return value

    @property
    def knows_suggestion(self) -> bool:
        """Whether the log says what was suggested, be it nothing."""
        return self.role == "business" and bool(self.model_fields_set & {"suggestion", "adoption"})

    @property
    def is_decision(self) -> bool:
        """Whether the assistant did something, although nothing may have been sent: it suggested,
        or it abstained."""
        return (
            self.role == "business"
            and self.adoption != "not_shown"
            and bool(self.suggestion or self.adoption)
        )


class LogConversation(BaseModel):
    """A conversation as the log has it."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    conversation_id: Text
    messages: list[LogMessage]
    outcome: Outcome | None = None
    unfinished: bool = False
    policy_version: Text | None = None
    persona: Text | None = None


def parse_line(line: bytes) -> LogConversation:
    """Read one line.

    Raises:
        DataError: With the reason; the caller knows file and line.
    """
    try:
        content = json.loads(line.decode("utf-8-sig"))  # Windows programs begin a file with a mark
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError("not a JSON object")
    meta = content.get("meta")
    if isinstance(meta, dict) and meta.get("unfinished") is not None:
        content.setdefault("unfinished", meta["unfinished"])
    try:
        conversation = LogConversation.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from None
    if not conversation.conversation_id:
        raise DataError("conversation_id: is empty")
    marked = [
        number for number, message in enumerate(conversation.messages) if message.outcome == 1
    ]
    if conversation.outcome == 0 and marked:
        raise DataError(f"outcome: is 0, but messages.{marked[0]} carries 1")
    return conversation


@dataclass(frozen=True)
class _Side:
    """Consecutive messages of one side, joined (paper, footnote 1)."""

    role: Role
    messages: list[LogMessage]

    @property
    def text(self) -> str:
        return "\n".join(message.content for message in self.messages if message.content.strip())

    @property
    def time(self) -> datetime | None:
        return self.messages[-1].time


def turns_of(conversation: LogConversation) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The turns of a conversation, as trajectories rows without `split`, and what was counted on
    the way.

    The reward r_{i+1} = o_{i+1} is credited to the transition out of the last (s_i, a_i) before the
    outcome, whether a customer's or a business's message carries it. Messages after it are cut: the
    conversation ended there (absorbing). A conversation whose outcome was reached before any
    decision has no turns.
    """
    messages = conversation.messages
    first = next((number for number, message in enumerate(messages) if message.outcome == 1), None)
    reached = first is not None or conversation.outcome == 1
    labelled = conversation.outcome is not None or any(
        message.outcome is not None for message in messages
    )
    censored = not reached and (conversation.unfinished or not labelled)
    kept = messages if first is None else messages[: first + 1]
    sides = list(_join(kept))
    rows = _pair(sides, conversation)
    # A closing customer message is a state in which the business stopped responding, unless the
    # outcome came with it.
    if reached and rows and sides[-1].role == "customer":
        closing = rows.pop()
        if rows:
            rows[-1]["customer_after"] = closing["customer"]
    for row in rows:
        row["censored"] = censored
    if rows:
        rows[-1]["reward"] = float(reached)
        rows[-1]["done"] = not censored
    num_spoken = sum(len(side.messages) for side in sides)
    counts = Counter(
        messages=len(messages),
        messages_cut_after_outcome=len(messages) - len(kept),
        messages_blank=len(kept) - num_spoken,
        messages_joined=num_spoken - len(sides),
        sides=len(sides),
        turns=len(rows),
        conversations=1,
        conversations_without_turns=int(not rows),
        conversations_censored=int(censored and bool(rows)),
        conversations_terminal=int(not censored and bool(rows)),
        outcomes=int(reached and bool(rows)),
    )
    return rows, counts


def _join(messages: list[LogMessage]) -> Iterator[_Side]:
    side: _Side | None = None
    for message in messages:
        if not message.content.strip() and not message.is_decision:
            continue
        if side is not None and side.role == message.role:
            side.messages.append(message)
            continue
        if side is not None:
            yield side
        side = _Side(message.role, [message])
    if side is not None:
        yield side


def _pair(sides: list[_Side], conversation: LogConversation) -> list[dict[str, Any]]:
    has_suggestions = any(
        m.knows_suggestion for side in sides for m in side.messages if side.role == "business"
    )
    pairs: list[tuple[_Side | None, _Side | None]] = []
    for side in sides:
        if side.role == "customer":
            pairs.append((side, None))
        elif pairs and pairs[-1][1] is None:
            pairs[-1] = (pairs[-1][0], side)
        else:
            pairs.append((None, side))
    return [
        {
            "conversation_id": conversation.conversation_id,
            "turn": number,
            "customer": customer.text if customer else None,
            "customer_time": customer.time if customer else None,
            "sent": (business.text or None) if business else None,
            "sent_time": business.time if business else None,
            **_suggestion(business, has_suggestions, conversation),
            "outcome_before": False,
            "reward": 0.0,
            "done": False,
            "customer_after": None,
        }
        for number, (customer, business) in enumerate(pairs, start=1)
    ]


def _suggestion(
    side: _Side | None, has_suggestions: bool, conversation: LogConversation
) -> dict[str, Any]:
    messages = side.messages if side else []
    suggested = [m for m in messages if m.suggestion]
    text = "\n".join(m.suggestion or "" for m in suggested) or None
    sent = side.text if side else ""
    distance = _distance(text, sent) if text and sent else None
    adoption: str | None = None
    if has_suggestions:
        given = {m.adoption for m in messages if m.adoption}
        if len(given) == 1:
            adoption = given.pop()
        elif text is None:
            adoption = "not_shown"
        else:
            adoption = _derive_adoption(text, sent, distance)
    logprobs = [m.suggestion_logprob for m in messages if m.suggestion_logprob is not None]
    if adoption in ("abstained", "not_shown"):
        text = distance = None
    return {
        "suggestion": text,
        "adoption": adoption,
        "edit_distance": distance,
        "suggestion_logprob": sum(logprobs) if logprobs else None,
        "policy_version": next(
            (m.policy_version for m in messages if m.policy_version), conversation.policy_version
        ),
        "persona": next((m.persona for m in messages if m.persona), conversation.persona),
    }


def _distance(suggestion: str, sent: str) -> float:
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_distance(suggestion, sent))


def _derive_adoption(suggestion: str, sent: str, distance: float | None) -> str:
    if suggestion.split() == sent.split():
        return "verbatim"
    return "edited" if distance is not None and distance <= EDITED_BELOW else "rejected"
