"""Events in any order -> conversations, on disk, however many there are.

    Event -> files of events, each in order of a hash of the conversation's id
          -> a share of the hashes, sorted: by DuckDB out of all files, or in memory where somebody
             brought its events together
          -> a conversation, with what was doubled in it

Conversations come in the order of the hash, messages in the order of their times. Messages of one
time, or of none, stand in the order of their ids where these are numbers, alone or behind a word
(`m-17`); other ids say nothing of time, and the order of files and lines counts. So neither the
order in which events are added nor how they are shared out over spills matters.
"""

from __future__ import annotations

import glob
import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import msgspec

from iterppo.errors import DataError
from iterppo.logs.event_logs import Event
from iterppo.logs.records import LogConversation, LogMessage
from iterppo.logs.sources import MAX_LINE_BYTES

if TYPE_CHECKING:
    import pyarrow as pa

MAX_MESSAGES = 100_000
"""What has more messages is no conversation: an id that stands for "none", as 0."""

SPILL_BYTES = 32 * 2**20
"""Events held in memory before they are written to a file."""
SHARE_BYTES = 2**27
"""Events of a share; on a cluster they are held in memory twice."""
SORT_BYTES = 2**29
"""Events sorted together: within its limit DuckDB sorts three times as much, and fails on ten times
as much."""
SORT_MEMORY = "256MB"
INLINE_BYTES = 2**12
"""Longer events are put beside the table: DuckDB holds 2,048 rows at once, whatever their size."""
_GROUPS_PER_FILE = 32
_ROWS_PER_BATCH = 512
_NUM_HASHES = 2**32

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBERED = re.compile(r"\D*(\d+)", re.ASCII)
_ORDER = ("hash", "conversation_id", "time", "num_digits", "digits", "source", "line")
"""Of two numbers the one with more digits is larger, whatever their size."""


class Rejected(NamedTuple):
    """An event that is not taken."""

    source: int
    line: int
    reason: str
    raw: bytes
    """Its fields, as JSON."""


@dataclass
class EventConversation:
    """The events of a conversation."""

    conversation: LogConversation | None
    """None where all of them are rejected."""
    origins: list[tuple[int, int]]
    """Source and line of each message."""
    num_copies: int = 0
    """Events that were there before, the same in everything."""
    rejected: list[Rejected] = field(default_factory=list)
    size_bytes: int = 0


class EventSpill:
    """Collects events in files of a folder, out of which `EventShare` takes conversations.

    Several spills may write into one folder, from several processes, if each has a name of its
    own. One that begins again, with the same events, writes the same files again.
    """

    def __init__(self, folder: Path, name: str = "0") -> None:
        self.folder = folder
        self.name = name
        self.size_bytes = 0
        """Of the events so far, in memory; their order does not matter."""
        self._num_files = 0
        self._long: IO[bytes] | None = None
        self._long_name = ""
        self._pending: list[tuple[Any, ...]] = []
        self._bytes_pending = 0
        self._encode = msgspec.msgpack.Encoder().encode

    def add(self, event: Event, source_index: int, line: int) -> None:
        """Take an event.

        Args:
            event: The event.
            source_index: Number of its file, or of the piece of it, in the order of the files.
            line: Number of its line, or row.
        """
        content = self._encode(event)
        is_long = len(content) > INLINE_BYTES
        place = self._put_aside(content) if is_long else None
        key = event.conversation_id
        number = _NUMBERED.fullmatch(event.message_id) if event.message_id else None
        digits = number[1].lstrip("0") if number else None
        self._pending.append(
            (
                zlib.crc32(key.encode()),
                key,
                (event.time - _EPOCH) // timedelta(microseconds=1) if event.time else None,
                None if digits is None else len(digits),
                digits,
                source_index,
                line,
                None if is_long else content,
                place,
            )
        )
        size_bytes = len(key) + 200 + (0 if is_long else len(content))
        self.size_bytes += size_bytes
        self._bytes_pending += size_bytes
        if self._bytes_pending >= SPILL_BYTES:
            self._flush()

    def _put_aside(self, content: bytes) -> str:
        if self._long is None:
            self._long_name = self._next_name("long", "bin")
            self._long = (self.folder / self._long_name).open("wb")
        place = f"{self._long_name}:{self._long.tell()}:{len(content)}"
        self._long.write(content)
        return place

    def _next_name(self, kind: str, suffix: str) -> str:
        self._num_files += 1
        return f"{kind}-{self.name}-{self._num_files:05d}.{suffix}"

    def close(self) -> None:
        """Write what is still in memory; more may be added afterwards."""
        if self._long is not None:
            self._long.close()
            self._long = None
        self._flush()

    def _flush(self) -> None:
        if not self._pending:
            return
        import pyarrow as pa
        import pyarrow.parquet as pq

        # In order of the hash, so that a share of the hashes is found without reading the rest.
        self._pending.sort(key=itemgetter(0))
        schema = _schema()
        columns = zip(*self._pending, strict=True)
        table = pa.table(
            [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)], schema=schema
        )
        pq.write_table(
            table,
            self.folder / self._next_name("events", "parquet"),
            row_group_size=-(-len(table) // _GROUPS_PER_FILE),
            use_dictionary=["conversation_id"],  # else sizes in the metadata are none
            compression="zstd",
        )
        self._pending, self._bytes_pending = [], 0


def event_files(folder: Path) -> list[Path]:
    """The files that spills wrote into a folder."""
    return sorted(folder.glob("events-*.parquet"))


def num_shares(size_bytes: int) -> int:
    """Into how many shares events of this size are cut."""
    return max(1, -(-size_bytes // SHARE_BYTES))


def grouped_by_share(of: int, file: Path) -> Iterator[pa.Table]:
    """The events of a file; the column `group` holds the number of their share, of so many."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetFile(file) as events:
        for number in range(events.num_row_groups):
            table = events.read_row_group(number)
            group = table["hash"].to_numpy() * of // _NUM_HASHES
            yield table.append_column("group", pa.array(group))


@dataclass(frozen=True)
class EventShare:
    """The conversations of a folder of events whose hash lies in one of so many equal ranges."""

    folder: Path
    number: int = 0
    of: int = 1

    def conversations(self, events: pa.Table | None = None) -> Iterator[EventConversation]:
        """Each once.

        Args:
            events: The rows of the share, in any order, where they have been brought together;
                else DuckDB finds and sorts them, however many there are.

        Raises:
            DataError: If there is no room, on disk or in memory, to sort them.
        """
        decode = msgspec.msgpack.Decoder(Event).decode
        rows: list[_Row] = []
        key: str | None = None
        size = 0
        is_overlong = False
        for row in self._sorted_rows() if events is None else self._rows_in_order(events):
            if row.conversation_id != key:
                if rows:
                    yield _overlong(rows, decode) if is_overlong else _assemble(rows, decode, size)
                key, rows, size, is_overlong = row.conversation_id, [], 0, False
            rows.append(row)
            size += len(row.content)
            if len(rows) > MAX_MESSAGES or size > MAX_LINE_BYTES:
                yield _overlong(rows, decode)
                rows, size, is_overlong = [], 0, True
        if rows:
            yield _overlong(rows, decode) if is_overlong else _assemble(rows, decode, size)

    def _rows_in_order(self, events: pa.Table) -> Iterator[_Row]:
        order = [(name, "ascending") for name in _ORDER]
        with _Aside(self.folder) as aside:
            for batch in events.sort_by(order).to_batches(max_chunksize=_ROWS_PER_BATCH):
                yield from aside.rows(batch)

    def _sorted_rows(self) -> Iterator[_Row]:
        import duckdb
        import pyarrow.parquet as pq

        files = [str(file) for file in event_files(self.folder)]
        if not files:
            return
        size = 0
        for file in files:
            metadata = pq.read_metadata(file)
            size += sum(
                metadata.row_group(n).total_byte_size for n in range(metadata.num_row_groups)
            )
        num_slices = max(1, -(-size // (self.of * SORT_BYTES)))
        first, num_all = self.number * num_slices, self.of * num_slices
        # Of fractions the hashes above: `grouped_by_share` rounds down.
        limits = [-(-_NUM_HASHES * n // num_all) for n in range(first, first + num_slices + 1)]
        settings: dict[str, Any] = {
            "memory_limit": SORT_MEMORY,
            "temp_directory": str(self.folder / f"sorting-{self.number}"),
            "threads": 1,  # with two, runs that are merged hold twice the memory
            "autoinstall_known_extensions": False,
        }
        order = ", ".join(f"{name} NULLS LAST" for name in _ORDER)
        try:
            with duckdb.connect(config=settings) as connection, _Aside(self.folder) as aside:
                # In a spawned process DuckDB believes that it is used by hand, and would draw a bar
                # on standard output, where results go.
                connection.execute("SET enable_progress_bar_print = false")
                # A relation is streamed; what `execute` returns is copied as a whole.
                events = connection.read_parquet([glob.escape(file) for file in files])
                for start, end in pairwise(limits):
                    share = events.filter(f"hash >= {start} AND hash < {end}").order(order)
                    for batch in share.to_arrow_reader(_ROWS_PER_BATCH):
                        yield from aside.rows(batch)
        except (duckdb.Error, OSError) as error:
            reason = str(error).partition("\n")[0]
            raise DataError(
                f"{self.folder}: the events cannot be sorted ({reason}). Is the disk full, or one "
                "conversation_id on most of them?"
            ) from None


class _Row(NamedTuple):
    conversation_id: str
    time: int | None
    source: int
    line: int
    content: bytes


class _Aside:
    """What stands beside the table, put back into its rows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> _Aside:
        return self

    def __exit__(self, *problem: object) -> None:
        for file in self._files.values():
            file.close()

    def rows(self, batch: pa.RecordBatch) -> Iterator[_Row]:
        columns = (batch.column(name).to_pylist() for name in (*_Row._fields, "place"))
        for *row, place in zip(*columns, strict=True):
            if place is not None:
                name, start, length = place.split(":")
                if name not in self._files:
                    self._files[name] = (self.folder / name).open("rb", buffering=0)
                row[-1] = os.pread(self._files[name].fileno(), int(length), int(start))
            yield _Row(*row)


def _schema() -> pa.Schema:
    import pyarrow as pa

    return pa.schema(
        {
            "hash": pa.int64(),
            "conversation_id": pa.string(),
            "time": pa.int64(),
            "num_digits": pa.int64(),
            "digits": pa.string(),
            "source": pa.int64(),
            "line": pa.int64(),
            "content": pa.binary(),
            "place": pa.string(),
        }
    )


# --- one conversation ----------------------------------------------------------------------------


def _overlong(rows: list[_Row], decode: Any) -> EventConversation:
    reason = (
        f"conversation_id: {rows[0].conversation_id!r} has more than {MAX_MESSAGES} messages or "
        f"{MAX_LINE_BYTES} bytes, which no conversation has"
    )
    return EventConversation(
        None, [], rejected=[_rejected(row, reason, decode(row.content)) for row in rows]
    )


def _rejected(row: _Row, reason: str, event: Event) -> Rejected:
    return Rejected(row.source, row.line, reason, msgspec.json.encode(event))


def _assemble(rows: list[_Row], decode: Any, size: int) -> EventConversation:
    """A conversation of its events in order.

    An event whose place is unknown, and one that contradicts another of the same message_id, are
    rejected. Without a message_id, two events that are the same, with the time of both, are copies.
    """
    found = EventConversation(None, [], size_bytes=size)
    events: list[Event] = []
    of_id: dict[str, bytes] = {}
    seen: set[bytes] = set()
    has_times = any(row.time is not None for row in rows)
    for row in rows:
        event: Event = decode(row.content)
        reason = ""
        if has_times and row.time is None:
            reason = "time: is missing, and other messages of the conversation have one"
        elif event.message_id is not None:
            before = of_id.setdefault(event.message_id, row.content)
            if before is not row.content:
                if before == row.content:
                    found.num_copies += 1
                    continue
                reason = (
                    f"message_id: {event.message_id!r} was there before in the conversation, with "
                    "another content"
                )
        elif row.time is not None:
            if row.content in seen:
                found.num_copies += 1
                continue
            seen.add(row.content)
        if reason:
            found.rejected.append(_rejected(row, reason, event))
            continue
        events.append(event)
        found.origins.append((row.source, row.line))
    found.conversation = _conversation(rows[0].conversation_id, events)
    return found


def _conversation(key: str, events: list[Event]) -> LogConversation:
    """Of ids the first counts; of `unfinished` the last word. A policy version or persona that is
    the only one is the conversation's; several are their messages'."""
    own: dict[str, str | None] = {}
    for name in ("policy_version", "persona"):
        values = {value for event in events if (value := getattr(event, name)) is not None}
        own[name] = values.pop() if len(values) == 1 else None
    unfinished = [event.unfinished for event in events if event.unfinished is not None]
    return LogConversation(
        conversation_id=key,
        messages=[
            LogMessage(
                role=event.role,
                content=event.content,
                time=event.time,
                outcome=event.outcome,
                suggestion=event.suggestion,
                adoption=event.adoption,
                suggestion_logprob=event.suggestion_logprob,
                policy_version=None if own["policy_version"] else event.policy_version,
                persona=None if own["persona"] else event.persona,
            )
            for event in events
        ],
        unfinished=unfinished[-1] if unfinished else None,
        policy_version=own["policy_version"],
        persona=own["persona"],
        customer_id=next((event.customer_id for event in events if event.customer_id), None),
        business_id=next((event.business_id for event in events if event.business_id), None),
    )
