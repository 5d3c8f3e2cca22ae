"""Outcomes from a file of events (purchases, bookings), joined on conversations or on customers.

    load_events(config, cutoff) -> EventTable -> from_events -> Labeller
    on customers: each conversation -> ConversationSpans, then attribute(EventTable, spans, window)

On conversations, an event is at the last message that is not later than it; before the first
message it leaves nothing to decide. With a window it counts until so long after the last message;
without one, always. Where the event or the conversation has no times, the outcome is known of the
conversation as a whole only.

On customers, an event counts for a conversation of that customer if it lies between the first
message and the end of the window after the last one. Of several such conversations only one gets
it, the one that began last (last touch; of two that began together, that with the smaller id), so
two purchases pay two conversations at most. One that is rejected gets none: who bought did so
after the last conversation that was taken. Which one that is takes knowledge of all conversations:
hence `ConversationSpans`, filled by a first pass over the log (in several processes: `merge`) and
used up by `attribute`, whose table has the events by conversation. Of a conversation without
customer or without times nothing is known.

A conversation without an event is "not reached", which is true only if no event can come any more.
So with a window, the silence that ends a conversation at the cutoff is `max(idle, window)`: after
it the conversation is over, and every event that counts has happened and lies before the cutoff
(both bounds are included, so the two fit without a gap). Events after the cutoff are dropped, as
messages are: they would turn some open conversations into successes, and leave the failures among
them censored. Even so a success is known earlier than a failure; the weights of `returns` see to
that. Without a window (joined on conversations) `idle` must itself be as long as events take to
come.

An event that no conversation gets is no error, since a file of purchases may hold those of other
customers too. But where the ids do not fit it would be a loss that nobody sees, so `count_events`
says of every event what became of it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from iterppo.config import ByEvents, parse_duration
from iterppo.errors import DataError, UsageError
from iterppo.logs.outcome_event_files import (
    NO_TIME,
    EventColumns,
    hash_of,
    microseconds,
    read_events,
)
from iterppo.logs.outcomes import NOT_REACHED, REACHED, UNKNOWN, Label, Labeller
from iterppo.logs.records import LogConversation, LogMessage
from iterppo.logs.sources import STANDARD_INPUT, LogFile, find_logs
from iterppo.logs.times import zone_of

if TYPE_CHECKING:
    import numpy as np

    Array = np.ndarray[Any, Any]

_MICROSECOND = timedelta(microseconds=1)


class Dropped(NamedTuple):
    """How many events were read, and are not in the table."""

    after_cutoff: int = 0
    unknown: int = 0
    """Those of a customer who has no conversation with times."""
    outside_windows: int = 0
    """Those of a customer who has conversations, but none that an event of this time counts for."""


_NONE_DROPPED = Dropped()


@dataclass(frozen=True, eq=False)
class EventTable:
    """Events by the hash of an id: 16 bytes each, three times that while they are sorted."""

    join: Literal["conversation_id", "customer_id"]
    keys: Array
    """Hashes of the ids, ascending; uint64."""
    times: Array
    """Microseconds since 1970, ascending within a key, `NO_TIME` last; int64."""
    dropped: Dropped = _NONE_DROPPED
    folder: Path | None = None
    """Where `shared` put the arrays."""

    def __post_init__(self) -> None:
        self.keys.flags.writeable = self.times.flags.writeable = False

    def __reduce__(self) -> tuple[Any, ...]:
        if self.folder is not None:
            return _mapped, (self.join, self.folder, self.dropped)
        return EventTable, (self.join, self.keys, self.times, self.dropped)

    def shared(self, folder: Path) -> EventTable:
        """The same table in files, which processes map into their memory: pickled it is the path,
        and however many have it, the machine has it once."""
        import numpy as np

        folder.mkdir(parents=True)
        for name, values in (("keys", self.keys), ("times", self.times)):
            np.save(folder / f"{name}.npy", values)
        return _mapped(self.join, folder, self.dropped)

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, identity: str) -> bool:
        key = self.keys.dtype.type(hash_of(identity))
        place = self.keys.searchsorted(key)
        return bool(place < len(self.keys) and self.keys[place] == key)

    def ranges(self, keys: Array) -> tuple[list[int], list[int]]:
        """Where the events of each key begin and end."""
        starts, ends = (self.keys.searchsorted(keys, side) for side in ("left", "right"))
        return starts.tolist(), ends.tolist()


def _mapped(
    join: Literal["conversation_id", "customer_id"], folder: Path, dropped: Dropped
) -> EventTable:
    import numpy as np

    keys, times = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("keys", "times"))
    return EventTable(join, keys, times, dropped, folder)


def event_files(config: ByEvents) -> list[LogFile]:
    """The files of events: a path, glob or URL.

    Raises:
        UsageError: If it is standard input, which can be read once only.
        DataError: If there is no such file.
    """
    if config.file == STANDARD_INPUT:
        raise UsageError("ingest.outcomes: events cannot come from standard input. Name a file.")
    return find_logs([config.file], None, what="file of events")


def load_events(config: ByEvents, *, cutoff: datetime | None) -> EventTable:
    """Read the events, but for those after the cutoff.

    Raises:
        UsageError: As `event_files` says, or if there is no such time zone.
        DataError: If there is no event, or one that cannot be read; it names file, row and column.
    """
    try:
        zone = zone_of(config.time_zone)
    except UsageError:
        raise UsageError(
            f"ingest.outcomes: time_zone: {config.time_zone!r} is none that this machine knows. "
            "Write it as Europe/Berlin."
        ) from None
    columns = EventColumns(
        key=config.key_column or config.join,
        time=config.time_column or None,
        needs_time=config.join == "customer_id",
        time_format=config.time_format,
        zone=zone,
    )
    latest = NO_TIME if cutoff is None else microseconds(cutoff)
    keys, times = array("Q"), array("q")
    total = 0
    for file in event_files(config):
        for new_keys, new_times in read_events(file, columns):
            total += len(new_keys)
            kept = (new_times <= latest) | (new_times == NO_TIME)
            keys.frombytes(new_keys[kept].tobytes())
            times.frombytes(new_times[kept].tobytes())
    if not total:
        raise DataError(f"{config.file}: holds no event, and an outcome is made of them.")
    if not keys:
        raise DataError(f"{config.file}: none of its {total} events lies before the cutoff.")
    return _table(config.join, keys, times, Dropped(after_cutoff=total - len(keys)))


def _table(
    join: Literal["conversation_id", "customer_id"],
    keys: array[int],
    times: array[int],
    dropped: Dropped,
) -> EventTable:
    import numpy as np

    keys_E, times_E = np.asarray(keys), np.asarray(times)
    order = np.lexsort((times_E, keys_E))
    return EventTable(join, keys_E[order], times_E[order], dropped)


# --- who gets a customer's event -----------------------------------------------------------------


class ConversationSpans:
    """When each conversation of a customer began and ended: what attribution must know of all of
    them. About 60 bytes each; only customers of the table matter.

        if conversation.customer_id is not None and conversation.customer_id in table:
            spans.add(conversation, number)
    """

    def __init__(self) -> None:
        self._customers = array("Q")
        self._starts = array("q")
        self._ends = array("q")
        self._ids = bytearray()
        self._id_ends = array("q")
        self._numbers = array("q")

    def __len__(self) -> int:
        return len(self._customers)

    def add(self, conversation: LogConversation, number: int = 0) -> None:
        """Note a conversation, cut at the cutoff; one without customer or times is passed over.
        The number is one by which `merge` can leave it out."""
        span = _span(conversation.messages)
        if conversation.customer_id is None or span is None:
            return
        key = hash_of(conversation.customer_id)
        self._note(key, (*span, conversation.conversation_id.encode()), number)

    def _note(self, customer: int, span: _Span, number: int) -> None:
        start, end, identity = span
        self._customers.append(customer)
        self._starts.append(start)
        self._ends.append(end)
        self._ids += identity
        self._id_ends.append(len(self._ids))
        self._numbers.append(number)

    def merge(self, others: ConversationSpans, *, without: Collection[int] = ()) -> None:
        """Take in what another process noted, but for conversations of these numbers; the order
        does not matter."""
        for index, number in enumerate(others._numbers):
            if number not in without:
                self._note(others._customers[index], others._one(index), number)

    def by_customer(self) -> Iterator[tuple[int, list[_Span]]]:
        """Hash of the customer, and the spans of the customer's conversations."""
        import numpy as np

        customers = np.frombuffer(self._customers, np.uint64)
        order = np.argsort(customers, kind="stable")
        hashes, firsts = np.unique(customers[order], return_index=True)
        bounds = [*firsts.tolist(), len(order)]
        for number, customer in enumerate(hashes.tolist()):
            members = order[bounds[number] : bounds[number + 1]].tolist()
            yield customer, [self._one(member) for member in members]

    def _one(self, index: int) -> _Span:
        id_start = self._id_ends[index - 1] if index else 0
        identity = bytes(self._ids[id_start : self._id_ends[index]])
        return self._starts[index], self._ends[index], identity


_Span = tuple[int, int, bytes]
"""First and last message in microseconds, and the conversation's id in UTF-8 (which sorts as the
text does)."""


def attribute(events: EventTable, spans: ConversationSpans, *, window: timedelta) -> EventTable:
    """Events by conversation, from events by customer: each goes to one conversation or none."""
    assert events.join == "customer_id"
    keys, times = array("Q"), array("q")
    num_known = 0
    if len(spans):
        after = window // _MICROSECOND
        for customer, members in spans.by_customer():
            key = events.keys.dtype.type(customer)
            start, end = (int(events.keys.searchsorted(key, side)) for side in ("left", "right"))
            num_known += end - start
            for identity, time in _last_touch(events.times[start:end].tolist(), members, after):
                keys.append(hash_of(identity.decode()))
                times.append(time)
    dropped = events.dropped._replace(
        unknown=len(events) - num_known, outside_windows=num_known - len(keys)
    )
    return _table("conversation_id", keys, times, dropped)


def _last_touch(times: list[int], spans: list[_Span], after: int) -> Iterator[tuple[bytes, int]]:
    """(conversation, time) of each event that one of the spans holds; times ascend."""
    waiting = sorted(spans, key=lambda span: span[2])
    waiting.sort(key=lambda span: span[0], reverse=True)
    # Begun and not known to be over, the last that began on top. One that was over before an event
    # is over before all later ones, so what is taken from the top never comes back.
    open_spans: list[_Span] = []
    for time in times:
        while waiting and waiting[-1][0] <= time:
            open_spans.append(waiting.pop())
        while open_spans and open_spans[-1][1] + after < time:
            open_spans.pop()
        if open_spans:
            yield open_spans[-1][2], time


# --- what became of the events -------------------------------------------------------------------


def count_events(tables: Sequence[EventTable], identities: Iterable[Array]) -> Counter[str]:
    """How many events were read, and what became of them; all others together are as many.

    Args:
        tables: Joined on conversations, or attributed to them.
        identities: Hashes of the ids of the conversations that were taken. One that is there
            several times counts once.
    """
    import numpy as np

    # +1 where the events of an id begin, -1 behind them: one look at the ids, none at the events.
    bounds = [np.zeros(len(table) + 1, dtype=np.int64) for table in tables]
    for ids in identities:
        for table, bound_E in zip(tables, bounds, strict=True):
            np.add.at(bound_E, table.keys.searchsorted(ids, "left"), 1)
            np.add.at(bound_E, table.keys.searchsorted(ids, "right"), -1)
    counts: Counter[str] = Counter()
    for table, bound_E in zip(tables, bounds, strict=True):
        num_joined, dropped = int(np.sum(np.cumsum(bound_E) > 0)), table.dropped
        counts["outcome_events"] += len(table) + sum(dropped)
        counts["outcome_events_joined"] += num_joined
        counts["outcome_events_unknown"] += len(table) - num_joined + dropped.unknown
        counts["outcome_events_outside_windows"] += dropped.outside_windows
        counts["outcome_events_after_cutoff"] += dropped.after_cutoff
    return counts


# --- the label -----------------------------------------------------------------------------------


def from_events(table: EventTable, config: ByEvents) -> Labeller:
    """What the events say; those of customers must have been attributed to conversations."""
    import numpy as np

    if table.join != "conversation_id":
        raise ValueError("these are events of customers: attribute them first")
    after = parse_duration(config.window) // _MICROSECOND
    judge: Callable[[LogConversation, list[int], int], Label] = (
        _of_customer if config.join == "customer_id" else _of_conversation
    )

    def label(conversations: Sequence[LogConversation]) -> list[Label]:
        hashes = (hash_of(conversation.conversation_id) for conversation in conversations)
        keys = np.fromiter(hashes, dtype=np.uint64, count=len(conversations))
        return [
            judge(conversation, table.times[start:end].tolist(), after)
            for conversation, start, end in zip(conversations, *table.ranges(keys), strict=True)
        ]

    return label


def _of_conversation(conversation: LogConversation, times: list[int], after: int) -> Label:
    if not times:
        # Without times nobody knows whether the window is over.
        return NOT_REACHED if not after or _has_times(conversation) else UNKNOWN
    span = _span(conversation.messages)
    if span is None:
        return REACHED
    if times[0] != NO_TIME and (not after or times[0] <= span[1] + after):
        return Label(True, _position(conversation.messages, times[0]))
    return REACHED if times[-1] == NO_TIME else NOT_REACHED


def _of_customer(conversation: LogConversation, times: list[int], after: int) -> Label:
    if conversation.customer_id is None or not _has_times(conversation):
        return UNKNOWN
    span = _span(conversation.messages) if times else None
    if span is None:
        return NOT_REACHED
    # They were attributed to this conversation, or to another with its id that was refused.
    times = [time for time in times if span[0] <= time <= span[1] + after]
    return Label(True, _position(conversation.messages, times[0])) if times else NOT_REACHED


def _has_times(conversation: LogConversation) -> bool:
    return any(message.time is not None for message in conversation.messages)


def _span(messages: Sequence[LogMessage]) -> tuple[int, int] | None:
    """The earliest and the latest time of the messages; None where none has one."""
    times = [microseconds(message.time) for message in messages if message.time is not None]
    return (min(times), max(times)) if times else None


def _position(messages: Sequence[LogMessage], time: int) -> int:
    """The last message that is not later; one without a time goes with the one before it."""
    position = -1
    is_later = False
    for index, message in enumerate(messages):
        if message.time is not None:
            is_later = microseconds(message.time) > time
        if not is_later:
            position = index
    return position
