"""Reading a file of events (purchases, bookings): JSON Lines, CSV or Parquet, one event a row.

    file -> batches of (hash of the id, time in microseconds since 1970)

Events are few and precious: one that cannot be read stops the run with file, row and column, where
a line of a log would be passed over. The format is seen from the content, and so are the CSV's
delimiter and whether the file is compressed. Ids may be numbers; the log has them as text.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import UUID

from iterppo.errors import DataError
from iterppo.logs.censoring import utc
from iterppo.logs.refusals import refuse_encoding
from iterppo.logs.sources import Lines, LogFile, Piece
from iterppo.logs.tables import CSV_NULL, NULL_WORDS
from iterppo.logs.times import read_time, shorten

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

NO_TIME = 2**63 - 1
"""In place of a time that the file does not say; later than every time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EARLIEST = (datetime(2, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_LATEST = (datetime(9998, 12, 31, tzinfo=UTC) - _EPOCH) // _MICROSECOND
_ROWS_PER_BATCH = 65_536
_HEAD_BYTES = 2**20
_CSV_BLOCK_BYTES = 2**22
_LONGEST_HEADER = 100_000
"""Characters."""
_DELIMITERS = ",;\t|"
_ROW_SHOWN = re.compile(r"(?<=columns, got )(\d+): .*", re.DOTALL)
"""The beginning of a row behind its number, which says enough."""
_CODECS = {b"\x1f\x8b": "gzip", b"\x28\xb5": "zstd"}


def hash_of(identity: str) -> int:
    """64 bits that stand for an id: among ten million, two share them once in 370,000 files."""
    from xxhash import xxh3_64_intdigest

    return xxh3_64_intdigest(identity.encode())


def microseconds(time: object) -> int:
    """Of a message's time, since 1970."""
    return (utc(time) - _EPOCH) // _MICROSECOND


@dataclass(frozen=True)
class EventColumns:
    """Where a file of events has what is read of it."""

    key: str
    time: str | None
    """None: the events have no time."""
    needs_time: bool = False
    """Whether every event must have one."""
    time_format: str = "iso"
    zone: tzinfo = UTC
    """Of times without one."""

    @property
    def names(self) -> list[str]:
        """The columns to read."""
        return [self.key] if self.time is None else [self.key, self.time]


@dataclass(frozen=True)
class _Batch:
    """Rows as the file has them."""

    rows: Sequence[int]
    """Their numbers: of the line in JSON Lines, else of the row, from 1 after the header."""
    keys: Sequence[Any]
    times: Sequence[Any] | np.ndarray[Any, Any] | None
    """An array holds microseconds since 1970."""


def read_events(
    file: LogFile, columns: EventColumns
) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
    """Hashes of the ids (uint64) and times (int64, microseconds since 1970), batch by batch.

    Raises:
        DataError: If a column is missing, a row has no id or no readable time, or the file is
            damaged.
    """
    import numpy as np
    import pyarrow as pa

    reader = _Reader(file, columns)
    try:
        for batch in reader.batches():
            keys = (hash_of(reader.key(*row)) for row in zip(batch.rows, batch.keys, strict=True))
            yield (
                np.fromiter(keys, dtype=np.uint64, count=len(batch.keys)),
                reader.microseconds_of(batch),
            )
    except (OSError, csv.Error, pa.ArrowException) as error:
        reason = _ROW_SHOWN.sub(r"\1", str(error)).partition("\n")[0]
        raise DataError(f"{file.name}: cannot be read as events ({reason}).") from None


class _Reader:
    """Reads one file, and says what is wrong with a row of it."""

    def __init__(self, file: LogFile, columns: EventColumns) -> None:
        self.file = file
        self.columns = columns
        self._row = "row"

    def batches(self) -> Iterator[_Batch]:
        """The rows of the file."""
        with self.file.open() as stream:
            is_parquet = stream.read(4) == b"PAR1"
        if is_parquet:
            return self._parquet()
        with self._text() as stream:
            head = stream.read(_HEAD_BYTES).removeprefix(b"\xef\xbb\xbf")
        refuse_encoding(self.file, head)
        if head.lstrip().startswith(b"["):
            raise DataError(f"{self.file.name}: is a JSON array. Write one event a line.")
        if not head.strip():
            return iter(())
        return self._json_lines() if head.lstrip().startswith(b"{") else self._csv(head)

    # --- one row

    def key(self, row: int, value: Any) -> str:
        """An id as the log has it: text, or a whole number."""
        if isinstance(value, str):
            if value and not value.isspace():
                return value
            value = None
        if value is None or value != value:  # a NaN is how pandas writes nothing
            self._refuse(row, self.columns.key, "an event without an id")
        if isinstance(value, int | UUID) and not isinstance(value, bool):
            return str(value)
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            return str(int(value))  # beyond, digits were lost
        if isinstance(value, Decimal) and value.is_finite() and value == value.to_integral_value():
            return str(int(value))
        self._refuse(row, self.columns.key, f"{shorten(value)} is no id")

    def microseconds_of(self, batch: _Batch) -> np.ndarray[Any, Any]:
        """The times of a batch."""
        import numpy as np

        column = self.columns.time
        if column is None or batch.times is None:
            return np.full(len(batch.keys), NO_TIME, dtype=np.int64)
        if isinstance(batch.times, np.ndarray):
            times = batch.times
        else:
            pairs = zip(batch.rows, batch.times, strict=True)
            found = (self._microseconds(row, value) for row, value in pairs)
            times = np.fromiter(found, dtype=np.int64, count=len(batch.keys))
        if self.columns.needs_time and (missing := np.flatnonzero(times == NO_TIME)).size:
            self._refuse(
                batch.rows[missing[0]], column, "an event without a time, which this join needs"
            )
        wrong = np.flatnonzero(_outside(times))
        if wrong.size:
            self._refuse(batch.rows[wrong[0]], column, "no calendar has this time")
        return times

    def _microseconds(self, row: int, value: Any) -> int:
        columns = self.columns
        try:
            time = read_time(
                value.strip() if isinstance(value, str) else value,
                columns.time_format,
                columns.zone,
            )
        except ValueError:
            wanted = "ISO 8601" if columns.time_format == "iso" else columns.time_format
            self._refuse(
                row,
                str(columns.time),
                f"{shorten(value)} is no time as {wanted}. Set time_format",
            )
        return NO_TIME if time is None else microseconds(time)

    def _refuse(self, row: int, column: str, what: str) -> NoReturn:
        raise DataError(f"{self.file.name}: {self._row} {row}: column {column!r}: {what}.")

    # --- one format each

    def _text(self) -> pa.NativeFile:
        import pyarrow as pa

        stream: Any = self.file.open()
        codec = _CODECS.get(bytes(stream.read(2)))
        stream.seek(0)
        return pa.input_stream(stream, compression=codec)

    def _json_lines(self) -> Iterator[_Batch]:
        import msgspec

        self._row = "line"
        key, time = self.columns.key, self.columns.time
        decode = msgspec.json.Decoder().decode
        rows: list[int] = []
        keys: list[Any] = []
        times: list[Any] = []
        has_times = time is None
        for number, line in Lines(Piece(self.file)):
            try:
                event = decode(line.removeprefix(b"\xef\xbb\xbf"))
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise DataError(f"{self.file.name}: line {number}: {error}.") from None
            if not isinstance(event, dict):
                raise DataError(f"{self.file.name}: line {number}: not a JSON object.")
            if key not in event:
                self._refuse_column(key, list(event), row=number)
            has_times = has_times or time in event
            rows.append(number)
            keys.append(event.get(key))
            times.append(event.get(time))
            if len(rows) == _ROWS_PER_BATCH:
                yield _Batch(rows, keys, times)
                rows, keys, times = [], [], []
        yield _Batch(rows, keys, times)
        if not has_times:
            self._refuse_column(str(time), [])

    def _csv(self, head: bytes) -> Iterator[_Batch]:
        import pyarrow as pa
        from pyarrow import csv as arrow_csv

        text = head.decode(errors="replace").lstrip("\r\n")
        first = re.split(r"[\r\n]", text, maxsplit=1)[0]  # old programs end lines with \r
        if len(first) > _LONGEST_HEADER:
            raise DataError(
                f"{self.file.name}: cannot be read as events (its first line has {len(first)} "
                "characters, and is no header)."
            )
        # Stripped as that of a log is -> as it stands.
        headers = {
            each: {name.strip(): name for name in next(csv.reader([first], delimiter=each))}
            for each in _DELIMITERS
        }
        names = self.columns.names
        # The delimiter under which the columns are there; else the one that makes the most of them.
        delimiter = max(_DELIMITERS, key=lambda d: (*_found(names, headers[d]), len(headers[d])))
        header = headers[delimiter]
        self._check_columns(list(header))
        theirs = [header[name] for name in names]
        with self._text() as stream:
            reader = arrow_csv.open_csv(
                stream,
                read_options=arrow_csv.ReadOptions(block_size=_CSV_BLOCK_BYTES, use_threads=False),
                parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
                convert_options=arrow_csv.ConvertOptions(
                    include_columns=theirs,
                    column_types=dict.fromkeys(theirs, pa.string()),
                    null_values=[CSV_NULL, *sorted(NULL_WORDS)],
                    strings_can_be_null=True,
                ),
            )
            yield from self._arrow(batch.rename_columns(names) for batch in reader)

    def _parquet(self) -> Iterator[_Batch]:
        import pyarrow.parquet as pq

        with self.file.open() as stream, pq.ParquetFile(stream) as file:
            self._check_columns(file.schema_arrow.names)
            yield from self._arrow(
                file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=self.columns.names)
            )

    def _arrow(self, batches: Iterable[pa.RecordBatch]) -> Iterator[_Batch]:
        row = 1
        for whole in batches:
            for start in range(0, whole.num_rows, _ROWS_PER_BATCH):
                batch = whole.slice(start, _ROWS_PER_BATCH)
                rows = range(row, row + batch.num_rows)
                row += batch.num_rows
                times = (
                    None
                    if self.columns.time is None
                    else _times(batch[self.columns.time], self.columns.zone)
                )
                yield _Batch(rows, batch[self.columns.key].to_pylist(), times)

    def _check_columns(self, there: Sequence[str]) -> None:
        for name in self.columns.names:
            if name not in there:
                self._refuse_column(name, there)

    def _refuse_column(self, name: str, there: Sequence[str], row: int | None = None) -> NoReturn:
        where = self.file.name if row is None else f"{self.file.name}: {self._row} {row}"
        has = f"it has {', '.join(there)}" if there else "no event has it"
        option = "key_column" if name == self.columns.key else "time_column"
        none = "" if option == "key_column" or self.columns.needs_time else ', or "" for none'
        raise DataError(f"{where}: no column {name!r} ({has}). Set {option}{none}.")


def _times(column: pa.Array, zone: tzinfo) -> Sequence[Any] | np.ndarray[Any, Any]:
    """Times as microseconds where the file has moments, else as they are; those that no calendar
    has as microseconds too, for whoever refuses them."""
    import numpy as np
    import pyarrow as pa

    kind = column.type
    own = kind.tz if pa.types.is_timestamp(kind) else None
    is_time = pa.types.is_timestamp(kind) or pa.types.is_date(kind)
    if is_time:
        column = column.cast(pa.timestamp("us", own), safe=False)
    else:
        values: list[Any] = column.to_pylist()
        return values
    times = column.cast(pa.int64()).fill_null(NO_TIME)
    found: np.ndarray[Any, Any] = times.to_numpy(zero_copy_only=False)
    if own is None and zone is not UTC and not np.any(_outside(found)):
        values = column.to_pylist()
        return values
    return found


def _outside(times: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which of them no calendar has."""
    found: np.ndarray[Any, Any] = (times != NO_TIME) & ((times < _EARLIEST) | (times > _LATEST))
    return found


def _found(names: Sequence[str], header: Collection[str]) -> list[bool]:
    return [name in header for name in names]
