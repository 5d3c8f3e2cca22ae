"""Which conversations were still open when the log was cut: their returns are unknown, not zero.

At the moment `cutoff` a conversation is open whose last message is younger than `idle`, unless it
has its outcome already; so is one that the log marks as unfinished. An older one was given up: its
outcome is 0. What a log holds of the time after the cutoff is cut, as if it had been written then:
of a conversation that went on, nobody knew yet how it would end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from iterppo.config import parse_duration
from iterppo.logs.outcomes import Label
from iterppo.logs.records import LogConversation, LogMessage

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Clock:
    """When the log was cut, and how long a silence means that a conversation is over."""

    cutoff: datetime
    idle: timedelta
    outcomes_elsewhere: bool = False
    """Whether an outcome can stand elsewhere than in the log (a file of events): where nobody can
    tell whether it does, a silence does not either."""

    def before_cutoff(self, messages: list[LogMessage]) -> list[LogMessage]:
        """The messages that were written by then; one without a time goes with the one before."""
        written = []
        is_later = False
        for message in messages:
            if message.time is not None:
                is_later = utc(message.time) > self.cutoff
            if not is_later:
                written.append(message)
        return written

    def cut(self, conversation: LogConversation) -> int:
        """Cut what was written later, in place, and say how many messages that were.

        What the log says of the whole conversation, it says of all its messages. Where some are
        cut it goes too: a success that came with them would be taken, a failure found open.
        """
        num_messages = len(conversation.messages)
        conversation.messages = self.before_cutoff(conversation.messages)
        num_cut = num_messages - len(conversation.messages)
        if num_cut:
            conversation.outcome = conversation.unfinished = None
        return num_cut

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


def fate_known_until(ingested: Mapping[str, Any]) -> np.datetime64 | None:
    """Up to when it is known what followed a message, where the log was cut by a clock: the cutoff
    minus the silence that ends a conversation, or the wait for an event where that is longer."""
    import numpy as np

    if not ingested.get("cutoff"):
        return None
    waits = [outcome.get("window", "0s") for outcome in ingested["outcomes"]]
    silence = max(parse_duration(wait) for wait in (ingested["idle"], *waits))
    cutoff = datetime.fromisoformat(ingested["cutoff"])
    cutoff = cutoff.replace(tzinfo=UTC) if cutoff.tzinfo is None else cutoff.astimezone(UTC)
    try:
        until = cutoff - silence
    except OverflowError:  # of nothing that was ever written
        until = datetime.min
    return np.datetime64(until.replace(tzinfo=None), "us")
