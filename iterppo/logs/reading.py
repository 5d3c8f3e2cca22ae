"""From lines to a part of trajectories: the function that processes and clusters map over a log.

    pieces of files, or a share of sorted events
        -> part-NNNNN.parquet (trajectories@2) + what was not taken + counts

A task depends on its own pieces alone. What needs the whole log, whether a conversation's id was
there before, is decided afterwards from the hashes that every task saves (`logs.repetitions`);
tasks with repetitions are done again, knowing them.
"""

from __future__ import annotations

import contextlib
import gc
import json
import re
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from xxhash import xxh3_64_intdigest

from iterppo.artifact import PartWriter
from iterppo.config import ByEvents, IngestConfig, parse_duration
from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema
from iterppo.errors import DataError
from iterppo.logs.censoring import Clock, is_censored
from iterppo.logs.conversations import Cut, TurnTable
from iterppo.logs.event_sorting import EventConversation, EventShare
from iterppo.logs.formats import conversation_lines, line_parser
from iterppo.logs.outcome_events import ConversationSpans, EventTable
from iterppo.logs.outcomes import Labeller, label_all
from iterppo.logs.records import (
    LogConversation,
    as_time,
    decode_line,
    parse_line,
    read_times,
)
from iterppo.logs.sources import MAX_LINE_BYTES, Piece
from iterppo.logs.splits import split_key, split_of
from iterppo.logs.suggestions import Adoptions
from iterppo.logs.time_columns import time_column_of_texts
from iterppo.logs.times import shorten
from iterppo.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

    from iterppo.logs.redaction import Redactor

_MESSAGES_PER_GROUP = 65_536
_BYTES_PER_GROUP = 16 * 2**20
_BYTES_PER_BATCH = 2**19
"""Of lines that are objects at one time."""
_OBJECTS_BEFORE_COLLECTION = 100_000
_REJECTS_PER_GROUP = 1_024
_CHARACTERS_PER_GROUP = 4 * 2**20
_MAX_RAW = 2**20
_MAX_NAMES = 1_000
_MAX_FACTS = 10_000
_MAX_REASON = 1_000
_MAX_REASONS = 1_000


@dataclass(frozen=True)
class Task:
    """What becomes one part: pieces of logs, or a share of the conversations of event logs."""

    part: Path
    rejects: Path
    """Where lines that are not taken go, with line numbers that count from the piece's first."""
    pieces: tuple[tuple[Piece, str], ...] = ()
    """Each with the format of its file."""
    first_piece: int = 0
    """Number of the first of them in the whole log."""
    share: EventShare | None = None
    repeated: Mapping[int, bool] = field(default_factory=dict)
    """Conversations of the task (counted from 0) whose id was there before: True where they are
    identical copies."""


@dataclass(frozen=True)
class Done:
    """What a task found."""

    rows: int
    counts: Counter[str]
    num_lines: tuple[int, ...]
    """Lines of each piece, blank ones too."""
    reasons: Counter[str]
    identities: Path
    """File of `logs.repetitions`; zeros for a conversation that was rejected for itself, whose id
    is still free."""


class Reader:
    """Reads tasks by the rules of a configuration."""

    def __init__(self, config: IngestConfig, labellers: Sequence[Labeller]) -> None:
        self.config = config
        self.labellers = labellers
        self.clock = clock_of(config)
        self.redactor = redactor_of(config)
        self.adoptions = Adoptions(config.edited_up_to, config.influenced_up_to)
        self.needs_times = bool(self.clock) or any(isinstance(o, ByEvents) for o in config.outcomes)

    def read(self, task: Task, *, show: bool = False, events: pa.Table | None = None) -> Done:
        """Read the task's pieces, or its share, and write its part and its rejects.

        `show` shows progress; `events` are those of the share, where they have been brought
        together.

        Raises:
            DataError: If a file cannot be read to its end.
        """
        found = _Found(task)
        with (
            _patient_collector(),
            Rejects(task.rejects, self.redactor) as rejects,
            Taking(self, task.part, rejects) as taking,
        ):
            for conversation, lines, content in self._conversations(
                task, rejects, found, show, events
            ):
                number, again = found.meet(conversation, content)
                if again is None:
                    taking.add(conversation, lines, number, len(content))
                elif again:
                    found.counts["copies"] += len(lines)
                else:
                    identity = shorten(conversation.conversation_id)
                    rejects.add_all(lines, f"conversation_id: {identity} was there before")
        found.forget(taking.rejected)
        counts = taking.table.counts
        counts.update(found.counts)
        counts["rejects"] = rejects.number
        identities = task.rejects.with_suffix(".identities")
        found.save_identities(identities)
        return Done(taking.part.rows, counts, tuple(found.num_lines), rejects.reasons, identities)

    def spans(
        self, task: Task, customers: EventTable, *, events: pa.Table | None = None
    ) -> ConversationSpans:
        """When the conversations of the customers of a table began and ended; `events` as for
        `read`."""
        spans = ConversationSpans()
        with Rejects(task.rejects, self.redactor) as rejects:
            for conversation, _, _ in self._conversations(
                task, rejects, _Found(task), False, events
            ):
                if conversation.customer_id is None or conversation.customer_id not in customers:
                    continue
                if not read_times(conversation):
                    continue
                if self.clock:
                    conversation.messages = self.clock.before_cutoff(conversation.messages)
                spans.add(conversation)
        return spans

    def _conversations(
        self, task: Task, rejects: Rejects, found: _Found, show: bool, events: pa.Table | None
    ) -> Iterator[tuple[LogConversation, Sequence[Line], bytes]]:
        """The conversations of a task, the lines that they stand in, and their content."""
        if task.share:
            sorted_events = task.share.conversations(events)
            shown_events = (
                progress(sorted_events, "ingest sorted events", unit="conversations")
                if show
                else sorted_events
            )
            yield from _from_events(shown_events, rejects, found)
        for number, (piece, format_) in enumerate(task.pieces, start=task.first_piece):
            # Of the neutral format, times are read many together, when conversations are labelled.
            parse = decode_line if format_ == "conversations" else line_parser(format_)
            rows = conversation_lines(piece)
            shown = progress(rows, f"ingest {piece.file.name}", unit="lines") if show else rows
            num_rows = 0
            for line_number, raw in shown:
                num_rows += 1
                line = Line(number, line_number, raw)
                try:
                    if len(raw) >= MAX_LINE_BYTES:
                        raise DataError(f"longer than {MAX_LINE_BYTES} bytes")
                    conversation = parse(raw)
                except DataError as error:
                    rejects.add(line, str(error))
                else:
                    yield conversation, (line,), raw
            found.counts["lines"] += num_rows
            found.num_lines.append(rows.num_lines)


@contextlib.contextmanager
def _patient_collector() -> Iterator[None]:
    """Let Python's garbage collector wait for more than a batch of conversations: it would look
    through every batch several times, and find nothing, since none of them refers to itself."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _from_events(
    sorted_events: Iterable[EventConversation], rejects: Rejects, found: _Found
) -> Iterator[tuple[LogConversation, Sequence[Line], bytes]]:
    for one in sorted_events:
        found.counts["copies"] += one.num_copies
        for piece, line_number, reason, raw in one.rejected:
            rejects.add(Line(piece, line_number, raw), reason)
        if one.conversation is not None and one.origins:
            lines = [
                Line(piece, line_number, msgspec.json.encode(message))
                for (piece, line_number), message in zip(
                    one.origins, one.conversation.messages, strict=True
                )
            ]
            yield one.conversation, lines, msgspec.json.encode(one.conversation)


class _Found:
    """What a task has met so far."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.counts: Counter[str] = Counter()
        self.num_lines: list[int] = []
        self._hashes = array("Q")

    def meet(self, conversation: LogConversation, content: bytes) -> tuple[int, bool | None]:
        """The conversation's number in the task, and whether its id was there before: True as an
        identical copy, False with another content, None if it was not."""
        number = len(self._hashes) // 2
        identity = conversation.conversation_id.encode()
        self._hashes.append(xxh3_64_intdigest(identity))
        self._hashes.append(xxh3_64_intdigest(content))
        return number, self.task.repeated.get(number) if self.task.repeated else None

    def forget(self, numbers: Sequence[int]) -> None:
        """Leave the ids of conversations that were rejected to others."""
        for number in numbers:
            self._hashes[2 * number] = self._hashes[2 * number + 1] = 0

    def save_identities(self, file: Path) -> None:
        """See `Done`."""
        file.write_bytes(self._hashes)


class _Waiting(msgspec.Struct, gc=False):
    """A conversation on its way, the lines that it came from, and its number in the task."""

    conversation: LogConversation
    split: str
    lines: Sequence[Line]
    number: int


class Taking:
    """Conversations on their way into a part: labelled, censored, redacted, cut into turns."""

    def __init__(self, reader: Reader, part: Path, rejects: Rejects) -> None:
        self.reader = reader
        self.rejects = rejects
        self.part = PartWriter(part, "trajectories")
        self.table = TurnTable(reader.adoptions)
        self.rejected: list[int] = []
        """Numbers of the conversations that could not be taken."""
        self._waiting: list[_Waiting] = []
        self._bytes_waiting = self._bytes_in_table = 0

    def __enter__(self) -> Taking:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._label()
            self._write()
            self.part.__exit__(None, None, None)
        else:
            self.part.close()

    def add(
        self, conversation: LogConversation, lines: Sequence[Line], number: int, num_bytes: int
    ) -> None:
        """Take a conversation, or reject its lines."""
        config = self.reader.config
        try:
            _check_names(conversation)
            key = split_key(conversation, config.split_by)
        except DataError as error:
            self._reject(lines, number, str(error))
            return
        split = split_of(key, heldout=config.heldout, seed=config.seed)
        self._waiting.append(_Waiting(conversation, split, lines, number))
        self._bytes_waiting += num_bytes
        if self._bytes_waiting >= _BYTES_PER_BATCH:
            self._label()

    def _reject(self, lines: Sequence[Line], number: int, reason: str) -> None:
        self.rejected.append(number)
        self.rejects.add_all(lines, reason)

    def _label(self) -> None:
        waiting, time_M = self._with_times()
        reader, table = self.reader, self.table
        conversations = [one.conversation for one in waiting]
        lengths = [len(conversation.messages) for conversation in conversations]
        if reader.clock:
            for conversation in conversations:
                conversation.messages = reader.clock.before_cutoff(conversation.messages)
        labels = label_all(conversations, reader.labellers)
        cuts: list[Cut] = []
        num_lines = num_after_cutoff = 0
        for one, label, length in zip(waiting, labels, lengths, strict=True):
            conversation = one.conversation
            censored = is_censored(conversation, label, reader.clock)
            if reader.redactor:
                reader.redactor.conversation(conversation)
            try:
                facts = facts_of(conversation.meta, reader.config.facts)
            except DataError as error:
                self._reject(one.lines, one.number, str(error))
                continue
            cuts.append(Cut(conversation, label, censored, one.split, facts))
            num_lines += len(one.lines)
            num_after_cutoff += length - len(conversation.messages)
        table.add(*cuts)
        table.counts["lines_taken"] += num_lines
        table.counts["messages_after_cutoff"] += num_after_cutoff
        # Messages after the cutoff, and conversations whose facts cannot be written, are gone.
        is_whole = time_M is not None and len(time_M) == table.num_waiting
        table.lay_out(time_M if is_whole else None)
        self._bytes_in_table += self._bytes_waiting
        self._waiting, self._bytes_waiting = [], 0
        if table.num_messages >= _MESSAGES_PER_GROUP or self._bytes_in_table >= _BYTES_PER_GROUP:
            self._write()

    def _with_times(self) -> tuple[list[_Waiting], pa.Array | None]:
        """What waits, without the conversations whose times cannot be read; and the times of all
        messages, where Arrow reads them. Where it does not, or labellers look at times, messages
        have datetimes afterwards."""
        waiting = self._waiting
        texts = [message.time for one in waiting for message in one.conversation.messages]
        time_M = time_column_of_texts(texts)
        if time_M is not None and not self.reader.needs_times:
            return waiting, time_M
        readable = []
        for one in waiting:
            if read_times(one.conversation):
                readable.append(one)
                continue
            reason = "messages: a time cannot be read"
            try:
                parse_line(one.lines[0].raw)
            except DataError as error:
                reason = str(error)
            self._reject(one.lines, one.number, reason)
        return readable, time_M

    def _write(self) -> None:
        if len(self.table):
            self.part.write(self.table.take())
        self._bytes_in_table = 0


class Line(msgspec.Struct, gc=False):
    """A line, and where it stands."""

    piece: int
    """Its number in the whole log, from 0."""
    number: int
    """Within the piece, from 1."""
    raw: bytes


class Rejects:
    """Lines that are not taken, in a file of their own; the file is there only if they are."""

    def __init__(self, path: Path, redactor: Redactor | None) -> None:
        self.path = path
        self.redactor = redactor
        self.number = 0
        self.reasons: Counter[str] = Counter()
        self._pending: list[dict[str, Any]] = []
        self._characters_pending = 0
        self._writer: Any = None

    def __enter__(self) -> Rejects:
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._pending:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def add_all(self, lines: Iterable[Line], reason: str) -> None:
        """Keep the lines of a conversation, and what is wrong with it."""
        for line in lines:
            self.add(line, reason)

    def add(self, line: Line, reason: str) -> None:
        """Keep a line, and what is wrong with it."""
        self.number += 1
        raw = line.raw
        whole = raw[:_MAX_RAW]
        if self.redactor:
            if len(raw) > _MAX_RAW:  # half an address would not be seen for what it is
                whole = whole.rpartition(b'"')[0]
            reason, text = self.redactor.reason(reason), self.redactor.raw(whole)
        else:
            text = whole.decode("utf-8", errors="backslashreplace")
        if len(raw) > _MAX_RAW:
            text += f" … ({len(raw)} bytes)"
        if len(reason) > _MAX_REASON:
            reason = f"{reason[:_MAX_REASON]} …"
        kind = kind_of_reason(reason)
        if kind not in self.reasons and len(self.reasons) >= _MAX_REASONS:
            kind = "other reasons"
        self.reasons[kind] += 1
        self._pending.append(
            {"piece": line.piece, "line": line.number, "reason": reason, "raw": text}
        )
        self._characters_pending += len(text)
        if (
            len(self._pending) >= _REJECTS_PER_GROUP
            or self._characters_pending >= _CHARACTERS_PER_GROUP
        ):
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        schema = pa.schema(
            {"piece": pa.int64(), "line": pa.int64(), "reason": pa.string(), "raw": pa.string()}
        )
        table = pa.Table.from_pylist(self._pending, schema=schema)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self.path, schema, compression="zstd")
        self._writer.write_table(table)
        self._pending, self._characters_pending = [], 0


def rejected_tables(
    pieces: Sequence[Piece], num_lines: Sequence[int], files: Iterable[Path]
) -> Iterator[pa.Table]:
    """Tables of rejects@1 of the files that `Rejects` wrote, with line numbers of the whole logs.

    Args:
        pieces: All pieces of the log, in order.
        num_lines: Lines of each, blank ones too.
        files: Those that are there are read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = arrow_schema(ROWS["rejects"])
    lines_before: Counter[str] = Counter()
    offsets = []
    for piece, number in zip(pieces, num_lines, strict=True):
        offsets.append(lines_before[piece.file.location])
        lines_before[piece.file.location] += number
    for path in files:
        if not path.exists():
            continue
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group)
                places = list(zip(*(table[n].to_pylist() for n in ("piece", "line")), strict=True))
                columns = {
                    "source": [pieces[piece].file.name for piece, _ in places],
                    "line": [line + offsets[piece] for piece, line in places],
                    "reason": table["reason"],
                    "raw": table["raw"],
                }
                yield pa.table(columns, schema=schema)


def kind_of_reason(reason: str) -> str:
    """A reason without what differs from line to line, so that it can be counted.

    >>> kind_of_reason("messages.12.role: Input should be 'customer' or 'business'")
    "messages.N.role: Input should be 'customer' or 'business'"
    >>> kind_of_reason("conversation_id: 'c-17' was there before")
    "conversation_id: '…' was there before"
    """
    if reason.startswith("not JSON"):
        return "not JSON"
    # Of roles there are few, and which one it is tells what to do.
    value = r"(['\"]).*\1(?= (?:is (?!no role)|does |was |has ))|(?<=isoformat string: ).*"
    reason = re.sub(value, "'…'", reason, flags=re.DOTALL)
    return re.sub(r"(?<![\w-])\d+(?:\.\d+)?(?![\w-])", "N", reason)


def clock_of(config: IngestConfig) -> Clock | None:
    """The configuration's clock; an event can still come as long as its window is open, so the
    silence that ends a conversation is not shorter than that."""
    if not config.cutoff:
        return None
    events = [outcome for outcome in config.outcomes if isinstance(outcome, ByEvents)]
    windows = (parse_duration(outcome.window) for outcome in events)
    return Clock(
        as_time(config.cutoff),
        max([parse_duration(config.idle), *windows]),
        outcomes_elsewhere=bool(events),
    )


def redactor_of(config: IngestConfig) -> Redactor | None:
    """What masks, if the configuration asks for it; else its patterns are not compiled either."""
    if not config.redact:
        return None
    from iterppo.logs.redaction import Redactor

    return Redactor(config.redact_patterns)


def facts_of(meta: Any, names: Sequence[str]) -> str | None:
    """The named facts of a conversation's meta, a line each; None where there is none.

    Raises:
        DataError: If one cannot be written.

    >>> facts_of({"product": "kitchen", "budget": 9000, "secret": 1}, ["product", "budget"])
    'product: kitchen\\nbudget: 9000'
    """
    if not names or not isinstance(meta, dict):
        return None
    lines = []
    for name in names:
        value = meta.get(name)
        if value is None:
            continue
        try:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"meta.{name}: half a character at {error.start}") from None
        except RecursionError:
            raise DataError(f"meta.{name}: is nested too deeply") from None
        if len(text) > _MAX_FACTS:  # every row repeats them
            raise DataError(f"meta.{name}: is longer than {_MAX_FACTS} characters")
        lines.append(f"{name}: {' '.join(text.split())}")
    return "\n".join(lines) or None


def _check_names(conversation: LogConversation) -> None:
    """Refuse names that are whole texts: every row repeats them, and rows there are thousands.

    Raises:
        DataError: If they are.
    """
    one = conversation
    length = len(one.conversation_id) + len(one.customer_id or "") + len(one.business_id or "")
    length += len(one.policy_version or "") + len(one.persona or "")
    if length > _MAX_NAMES:
        names = ("conversation_id", "customer_id", "business_id", "policy_version", "persona")
        longest = max(names, key=lambda name: len(getattr(one, name) or ""))
        raise DataError(
            f"{longest}: is too long, names have up to {_MAX_NAMES} characters together"
        )
