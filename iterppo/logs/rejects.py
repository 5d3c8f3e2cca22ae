"""Lines that are not taken: kept with what is wrong with each, and counted by reason.

lines, reasons -> a file a task -> rejects@1 of the whole log
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from iterppo.config import IngestConfig
from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema
from iterppo.errors import DataError
from iterppo.logs.sources import Piece

if TYPE_CHECKING:
    import pyarrow as pa

    from iterppo.logs.redaction import Redactor

_REJECTS_PER_GROUP = 1_024
_CHARACTERS_PER_GROUP = 4 * 2**20
_MAX_RAW = 2**20
_MAX_REASON = 1_000
_MAX_REASONS = 1_000
_CUT_OFF = "not JSON: Unterminated string"
"""Of the last line of a log that somebody stopped writing."""


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
            # Half an address would not be seen for what it is.
            if len(raw) > _MAX_RAW or reason.startswith(_CUT_OFF):
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
    """A reason without what differs from line to line, so that it can be counted: places, values
    and lengths. The numbers that say what is right stay.

    >>> kind_of_reason("messages.12.role: Input should be 'customer' or 'business'")
    "messages.N.role: Input should be 'customer' or 'business'"
    >>> kind_of_reason("conversation_id: 'c-17' was there before")
    "conversation_id: '…' was there before"
    >>> kind_of_reason("outcome: 7 is neither 0 nor 1, neither true nor false")
    'outcome: N is neither 0 nor 1, neither true nor false'
    >>> kind_of_reason("sent_at: '17.5.' is no time in ISO 8601")
    "sent_at: '…' is no time in ISO 8601"
    >>> kind_of_reason("sent_at: 1.5 does not match '%d/%m/%Y'; say how times are written")
    "sent_at: N does not match '%d/%m/%Y'; say how times are written"
    """
    if reason.startswith("not JSON"):
        return "not JSON"
    return _NUMBER.sub("N", _QUOTED.sub("'…'", reason))


# Of roles there are few, and which one it is tells what to do.
_SAID_OF_A_VALUE = r"(?= (?:is (?!no role)|does |was |has ))"
_QUOTED = re.compile(
    rf"(['\"]).*(?:\1|…){_SAID_OF_A_VALUE}|(?<=isoformat string: ).*", flags=re.DOTALL
)
_NUMBER = re.compile(
    r"(?<=[a-z_]\.)\d+(?![\w-])"  # the place of a message
    r"|(?<=\bat )\d+|(?<=\bbyte )\d+|(?<=\bposition )\d+|(?<=\bhas )\d+"
    rf"|(?<![\w.-])[+-]?\d[\d.]*(?:[eE][+-]?\d+)?{_SAID_OF_A_VALUE}"
)


def redactor_of(config: IngestConfig) -> Redactor | None:
    """What masks, if the configuration asks for it; else its patterns are not compiled either."""
    if not config.redact:
        return None
    from iterppo.logs.redaction import Redactor

    return Redactor(config.redact_patterns)


@contextlib.contextmanager
def masked_refusals(config: IngestConfig) -> Iterator[None]:
    """Mask what the refusal of a whole file quotes of it, if the configuration asks for that: the
    header that is missing is somebody's first message. The name before it stays."""
    try:
        yield
    except DataError as error:
        redactor = redactor_of(config)
        if redactor is None:
            raise
        name, colon, what = str(error).partition(": ")
        raise DataError(f"{name}{colon}{redactor.reason(what)}") from None
