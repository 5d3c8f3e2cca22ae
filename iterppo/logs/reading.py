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
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from xxhash import xxh3_64_intdigest

from iterppo.config import IngestConfig
from iterppo.errors import DataError
from iterppo.logs.event_sorting import EventConversation, EventShare
from iterppo.logs.formats import conversation_lines, line_parser
from iterppo.logs.outcome_events import ConversationSpans, EventTable
from iterppo.logs.outcomes import Labeller
from iterppo.logs.records import LogConversation, decode_line
from iterppo.logs.rejects import Line, Rejects
from iterppo.logs.sources import MAX_LINE_BYTES, Piece
from iterppo.logs.taking import Rules, Taking
from iterppo.logs.times import shorten
from iterppo.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

_OBJECTS_BEFORE_COLLECTION = 100_000


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
        self.rules = Rules(config, labellers)

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
            Rejects(task.rejects, self.rules.redactor) as rejects,
            Taking(self.rules, task.part, rejects) as taking,
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
        num_lines = tuple(found.num_lines)
        identities = found.save_identities()
        return Done(taking.part.rows, counts, num_lines, rejects.reasons, identities)

    def spans(
        self, task: Task, customers: EventTable, *, events: pa.Table | None = None
    ) -> tuple[ConversationSpans, Path]:
        """When the conversations of the customers of a table began and ended, but for those that
        are rejected for themselves; and the identities, as in `Done`, that tell which of the others
        are rejected for their ids. `events` as for `read`."""
        rules, spans, found = self.rules, ConversationSpans(), _Found(task)
        rejected = []
        with Rejects(task.rejects, rules.redactor) as rejects:
            for conversation, _, content in self._conversations(
                task, rejects, found, False, events
            ):
                number, _ = found.meet(conversation, content)
                if not rules.takes(conversation):
                    rejected.append(number)
                elif conversation.customer_id is not None and conversation.customer_id in customers:
                    if rules.clock:
                        rules.clock.cut(conversation)
                    spans.add(conversation, number)
        found.forget(rejected)
        return spans, found.save_identities()

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

    def save_identities(self) -> Path:
        """See `Done`."""
        file = self.task.rejects.with_suffix(".identities")
        file.write_bytes(self._hashes)
        return file
