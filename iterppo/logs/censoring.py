"""Which conversations were still open when the log was cut: their returns are unknown, not zero.

At the moment `cutoff` a conversation is open whose last message is younger than `idle`, unless it
has its outcome already; so is one that the log marks as unfinished. An older one was given up: its
outcome is 0. What a log holds of the time after the cutoff is cut, as if it had been written then.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from iterppo.logs.outcomes import Label
from iterppo.logs.records import LogConversation, LogMessage


@dataclass(frozen=True)
class Clock:
    """When the log was cut, and how long a silence means that a conversation is over."""

    cutoff: datetime
    idle: timedelta
    outcomes_elsewhere: bool = False
    """Whether an outcome can stand elsewhere than in the log (a file of events): where nobody can
    tell whether it does, a silence does not either."""

    def before_cutoff(self, messages: list[LogMessage]) -> list[LogMessage]:
        """The messages that were written by then; those without a time stay."""
        return [m for m in messages if m.time is None or utc(m.time) <= self.cutoff]

    def is_open(self, messages: list[LogMessage]) -> bool | None:
        """Whether more was to be expected at the cutoff; None where no message has a time."""
        times = [utc(message.time) for message in messages if message.time is not None]
        return self.cutoff - max(times) < self.idle if times else None


def is_censored(conversation: LogConversation, label: Label, clock: Clock | None) -> bool:
    """Whether the conversation's outcome is unknown."""
    if label.reached:
        return False
    if conversation.unfinished:
        return True
    if clock and clock.outcomes_elsewhere and label.reached is None:
        return True
    is_open = clock.is_open(conversation.messages) if clock else None
    return label.reached is None if is_open is None else is_open


def utc(time: object) -> datetime:
    """A message's time, of which one without a zone is in UTC."""
    assert isinstance(time, datetime)
    return time.replace(tzinfo=UTC) if time.tzinfo is None else time
