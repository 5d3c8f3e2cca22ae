"""From lines to a part of trajectories: the function that processes and clusters map over a log.

    pieces of files -> part-NNNNN.parquet (trajectories@2) + what was not taken + counts

A task depends on its own pieces alone. What needs the whole log, whether a conversation's id was
there before, is decided afterwards from the hashes that every task returns (`repeated`); tasks
with repetitions are done again, knowing them.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
from xxhash import xxh3_64_intdigest

from iterppo.artifact import PartWriter
from iterppo.config import ByEvents, IngestConfig, parse_duration
from iterppo.errors import DataError
from iterppo.logs.censoring import Clock, is_censored
from iterppo.logs.conversations import Cut, TurnTable
from iterppo.logs.event_logs import event_of, event_rows
from iterppo.logs.event_sorting import EventSpill
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
from iterppo.logs.redaction import Redactor
from iterppo.logs.sources import MAX_LINE_BYTES, Piece
from iterppo.logs.splits import split_key, split_of
from iterppo.logs.suggestions import Adoptions
from iterppo.logs.time_columns import unreadable_times
from iterppo.progress import progress

if TYPE_CHECKING:
    import numpy as np

EVENTS = "events"

_MESSAGES_PER_GROUP = 65_536
_BYTES_PER_GROUP = 16 * 2**20
_CONVERSATIONS_PER_BATCH = 512
_BYTES_PER_BATCH = 4 * 2**20
_REJECTS_PER_GROUP = 1_024
_MAX_RAW = 2**20


@dataclass(frozen=True)
class Task:
    """Pieces that become one part."""

    pieces: tuple[tuple[Piece, str], ...]
    """Each with the format of its file."""
    part: Path
    rejects: Path
    """Where lines that are not taken go, with line numbers that count from the piece's first."""
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
    identities: np.ndarray[Any, Any]
    """(conversations, 2) of uint64: hash of the id, hash of the line."""


class Reader:
    """Reads tasks by the rules of a configuration."""

    def __init__(self, config: IngestConfig, labellers: Sequence[Labeller]) -> None:
        self.config = config
        self.labellers = labellers
        self.clock = clock_of(config)
        self.redactor = Redactor(config.redact_patterns) if config.redact else None
        self.adoptions = Adoptions(config.edited_up_to, config.influenced_up_to)
        self.needs_times = bool(self.clock) or any(isinstance(o, ByEvents) for o in config.outcomes)

    def read(self, task: Task, *, show: bool = False) -> Done:
        """Read the task's pieces and write its part and its rejects; `show` shows progress.

        Raises:
            DataError: If a file cannot be read to its end.
        """
        found = _Found(task)
        with (
            Rejects(task.rejects, self.redactor) as rejects,
            Taking(self, task.part, rejects) as taking,
        ):
            for conversation, lines, content in self._conversations(task, rejects, found, show):
                again = found.again(conversation, content)
                if again:
                    found.counts["copies"] += len(lines)
                    continue
                try:
                    if again is False:
                        identity = conversation.conversation_id
                        raise DataError(f"conversation_id: {identity!r} was there before")
                    taking.add(conversation, lines)
                except DataError as error:
                    for line in lines:
                        rejects.add(line, str(error))
        counts = taking.table.counts
        counts.update(found.counts)
        counts["rejects"] = rejects.number
        counts["lines"] = counts["lines_taken"] + counts["copies"] + rejects.number
        return Done(
            taking.part.rows, counts, tuple(found.num_lines), rejects.reasons, found.identities()
        )

    def spans(self, task: Task, events: EventTable) -> ConversationSpans:
        """When the conversations of the customers of a table began and ended."""
        spans = ConversationSpans()
        with Rejects(task.rejects, self.redactor) as rejects:
            for conversation, _, _ in self._conversations(task, rejects, _Found(task), False):
                if conversation.customer_id is None or conversation.customer_id not in events:
                    continue
                if not read_times(conversation):
                    continue
                if self.clock:
                    conversation.messages = self.clock.before_cutoff(conversation.messages)
                spans.add(conversation)
        return spans

    def _conversations(
        self, task: Task, rejects: Rejects, found: _Found, show: bool
    ) -> Iterator[tuple[LogConversation, Sequence[Line], bytes]]:
        """The conversations of a task, the lines that they stand in, and their content."""
        if any(format_ == EVENTS for _, format_ in task.pieces):
            yield from self._from_events(task, rejects, found, show)
            return
        for number, (piece, format_) in enumerate(task.pieces):
            # Of the neutral format, times are read many together, when conversations are labelled.
            parse = decode_line if format_ == "conversations" else line_parser(format_)
            rows = conversation_lines(piece)
            shown = progress(rows, f"ingest {piece.file.name}", unit="lines") if show else rows
            for line_number, raw in shown:
                line = Line(number, line_number, raw)
                try:
                    if len(raw) >= MAX_LINE_BYTES - 2:
                        raise DataError(f"longer than {MAX_LINE_BYTES} bytes")
                    conversation = parse(raw)
                except DataError as error:
                    rejects.add(line, str(error))
                else:
                    yield conversation, (line,), raw
            found.num_lines.append(rows.num_lines)

    def _from_events(
        self, task: Task, rejects: Rejects, found: _Found, show: bool
    ) -> Iterator[tuple[LogConversation, Sequence[Line], bytes]]:
        with tempfile.TemporaryDirectory(dir=task.rejects.parent, prefix="events-") as folder:
            spill = EventSpill(Path(folder))
            for number, (piece, _) in enumerate(task.pieces):
                rows = event_rows(piece, self.config)
                shown = progress(rows, f"ingest {piece.file.name}", unit="rows") if show else rows
                for line_number, raw, row in shown:
                    try:
                        if isinstance(row, DataError):
                            raise row
                        event = event_of(row, self.config.mapping)
                    except DataError as error:
                        rejects.add(Line(number, line_number, raw), str(error))
                        continue
                    if event is None:
                        found.counts["lines_taken"] += 1
                        found.counts["messages_ignored"] += 1
                    else:
                        spill.add(event, number, line_number)
                found.num_lines.append(rows.num_lines)
            sorted_events = spill.conversations()
            shown_too = (
                progress(sorted_events, "ingest sorted events", unit="conversations")
                if show
                else sorted_events
            )
            for one in shown_too:
                found.counts["copies"] += one.num_copies
                for source, line_number, reason, raw in one.rejected:
                    rejects.add(Line(source, line_number, raw), reason)
                if one.conversation is not None and one.origins:
                    lines = [
                        Line(source, line_number, msgspec.json.encode(message))
                        for (source, line_number), message in zip(
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
        self._hashes: list[int] = []

    def again(self, conversation: LogConversation, content: bytes) -> bool | None:
        """Whether the conversation's id was there before: True as an identical copy, False with
        another content, None if it was not."""
        ordinal = len(self._hashes) // 2
        identity = conversation.conversation_id.encode()
        self._hashes += (xxh3_64_intdigest(identity), xxh3_64_intdigest(content))
        return self.task.repeated.get(ordinal) if self.task.repeated else None

    def identities(self) -> np.ndarray[Any, Any]:
        """See `Done`."""
        import numpy as np

        return np.array(self._hashes, dtype=np.uint64).reshape(-1, 2)


class _Waiting(NamedTuple):
    """A conversation on its way, and the lines that it came from."""

    conversation: LogConversation
    split: str
    lines: Sequence[Line]


class Taking:
    """Conversations on their way into a part: labelled, censored, redacted, cut into turns."""

    def __init__(self, reader: Reader, part: Path, rejects: Rejects) -> None:
        self.reader = reader
        self.rejects = rejects
        self.part = PartWriter(part, "trajectories")
        self.table = TurnTable(reader.adoptions)
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

    def add(self, conversation: LogConversation, lines: Sequence[Line]) -> None:
        """Take a conversation.

        Raises:
            DataError: If it cannot be taken; it is not, then.
        """
        config = self.reader.config
        key = split_key(conversation, config.split_by)
        split = split_of(key, heldout=config.heldout, seed=config.seed)
        self._waiting.append(_Waiting(conversation, split, lines))
        self._bytes_waiting += sum(len(line.raw) for line in lines)
        if (
            len(self._waiting) >= _CONVERSATIONS_PER_BATCH
            or self._bytes_waiting >= _BYTES_PER_BATCH
        ):
            self._label()

    def _label(self) -> None:
        waiting = self._with_times()
        reader, table = self.reader, self.table
        conversations = [one.conversation for one in waiting]
        if reader.clock:
            for conversation in conversations:
                by_then = reader.clock.before_cutoff(conversation.messages)
                table.counts["messages_after_cutoff"] += len(conversation.messages) - len(by_then)
                conversation.messages = by_then
        labels = label_all(conversations, reader.labellers)
        for one, label in zip(waiting, labels, strict=True):
            conversation = one.conversation
            censored = is_censored(conversation, label, reader.clock)
            if reader.redactor:
                reader.redactor.conversation(conversation)
            facts = facts_of(conversation.meta, reader.config.facts)
            table.add(Cut(conversation, label, censored, one.split, facts))
            table.counts["lines_taken"] += len(one.lines)
        self._bytes_in_table += self._bytes_waiting
        self._waiting, self._bytes_waiting = [], 0
        if table.num_messages >= _MESSAGES_PER_GROUP or self._bytes_in_table >= _BYTES_PER_GROUP:
            self._write()

    def _with_times(self) -> list[_Waiting]:
        """What waits, without the conversations whose times cannot be read."""
        conversations = [one.conversation for one in self._waiting]
        bad = set(unreadable_times(conversations))
        if not bad and self.reader.needs_times:
            for conversation in conversations:
                read_times(conversation)
        for number in bad:
            for line in self._waiting[number].lines:
                try:
                    parse_line(line.raw)
                    reason = "messages: a time cannot be read"
                except DataError as error:
                    reason = str(error)
                self.rejects.add(line, reason)
        return [one for number, one in enumerate(self._waiting) if number not in bad]

    def _write(self) -> None:
        if self.table.num_messages or not self.part.rows:
            self.part.write(self.table.take())
        self._bytes_in_table = 0


class Line(NamedTuple):
    """A line, and where it stands."""

    piece: int
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
        self._writer: Any = None

    def __enter__(self) -> Rejects:
        self.path.unlink(missing_ok=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None and self._pending:
            self._flush()
        if self._writer is not None:
            self._writer.close()

    def add(self, line: Line, reason: str) -> None:
        """Keep a line, and what is wrong with it."""
        self.number += 1
        piece, number, raw = line
        whole = raw[:_MAX_RAW]
        if self.redactor:
            reason, text = self.redactor.reason(reason), self.redactor.raw(whole)
        else:
            text = whole.decode("utf-8", errors="backslashreplace")
        if len(raw) > _MAX_RAW:
            text += f" … ({len(raw)} bytes)"
        self.reasons[kind_of_reason(reason)] += 1
        self._pending.append({"piece": piece, "line": number, "reason": reason, "raw": text})
        if len(self._pending) >= _REJECTS_PER_GROUP:
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
        self._pending = []


def rejected_rows(tasks: Sequence[Task], done: Sequence[Done]) -> Iterator[dict[str, Any]]:
    """Rows of rejects@1: what the tasks did not take, with line numbers of the whole files."""
    import pyarrow.parquet as pq

    lines_before: Counter[str] = Counter()
    for task, found in zip(tasks, done, strict=True):
        offsets = []
        for (piece, _), num_lines in zip(task.pieces, found.num_lines, strict=True):
            offsets.append(lines_before[piece.file.location])
            lines_before[piece.file.location] += num_lines
        if not task.rejects.exists():
            continue
        with pq.ParquetFile(task.rejects) as file:
            for batch in file.iter_batches(batch_size=_REJECTS_PER_GROUP):
                for row in batch.to_pylist():
                    number = row.pop("piece")
                    yield {
                        **row,
                        "source": task.pieces[number][0].file.name,
                        "line": row["line"] + offsets[number],
                    }


def kind_of_reason(reason: str) -> str:
    """A reason without what differs from line to line, so that it can be counted.

    >>> kind_of_reason("messages.12.role: Input should be 'customer' or 'business'")
    "messages.N.role: Input should be 'customer' or 'business'"
    >>> kind_of_reason("conversation_id: 'c-17' was there before")
    "conversation_id: '…' was there before"
    """
    if " was there before" in reason:
        reason = re.sub(r": .* was there before", ": '…' was there before", reason, flags=re.DOTALL)
    if reason.startswith("not JSON"):
        return "not JSON"
    return re.sub(r"(?<![\w-])\d+(?:\.\d+)?(?![\w-])", "N", reason)


def repeated(identities: Sequence[np.ndarray[Any, Any]]) -> dict[int, dict[int, bool]]:
    """Conversations whose id was there before, in the order of the tasks.

    Returns:
        Task -> conversation within it -> whether it is an identical copy of the first with its id.
    """
    import numpy as np

    sizes = [len(one) for one in identities]
    hashes = np.concatenate([one[:, 0] for one in identities]) if identities else np.array([])
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    again = np.flatnonzero(~is_first)
    if not len(again):
        return {}
    first_of = order[np.maximum.accumulate(np.where(is_first, np.arange(len(order)), 0))[again]]
    contents = np.concatenate([one[:, 1] for one in identities])
    places = order[again]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    tasks = np.searchsorted(starts, places, side="right") - 1
    found: dict[int, dict[int, bool]] = {}
    for place, first, task in zip(places.tolist(), first_of.tolist(), tasks.tolist(), strict=True):
        found.setdefault(task, {})[place - int(starts[task])] = bool(
            contents[place] == contents[first]
        )
    return found


def clock_of(config: IngestConfig) -> Clock | None:
    """The configuration's clock; an event can still come as long as its window is open, so the
    silence that ends a conversation is not shorter than that."""
    if not config.cutoff:
        return None
    windows: Iterable[timedelta] = (
        parse_duration(outcome.window)
        for outcome in config.outcomes
        if isinstance(outcome, ByEvents)
    )
    return Clock(as_time(config.cutoff), max([parse_duration(config.idle), *windows]))


def facts_of(meta: Any, names: Sequence[str]) -> str | None:
    """The named facts of a conversation's meta, a line each; None where there is none.

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
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        lines.append(f"{name}: {' '.join(text.split())}")
    return "\n".join(lines) or None
