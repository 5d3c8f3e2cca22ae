"""Rows of CSV and Parquet files, a dictionary each.

    file -> (number, raw bytes, {column: value} or what is wrong with the row)

A CSV file has a header, is in UTF-8, and separates by comma, semicolon, tab or bar: by whichever
the header has most of its columns. A row has the number of the line that it begins in. One that is
broken is given up with its first line, and reading goes on with the next: a quotation mark that
nobody closes costs its own line, not the file behind it.

A row of a Parquet file has the number that it stands at, from 1; its raw form is JSON.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import zlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

import msgspec

from iterppo.errors import DataError
from iterppo.logs.sources import LogFile, open_lines, skip_line, unreadable

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

Layout = Literal["lines", "csv", "parquet"]
"""How a file is laid out; only `lines` can be cut into pieces."""
Row = tuple[int, bytes, dict[str, Any] | DataError]

CSV_NULL = r"\N"
"""What MySQL, Hive and Snowflake write in the place of a null."""
NULL_WORDS = frozenset({"NULL", "null", "None", "nan", "NaN", "NaT", "<NA>"})
"""What other databases and pandas write in the place of a null, and what somebody may have said."""
MAX_FIELD_CHARACTERS = 32 * 2**20
"""A longer field is a quotation mark that nobody closed; the parser holds a field in memory."""

_HEAD_BYTES = 2**16
_DELIMITERS = ",;\t|"
_ROWS_PER_BATCH = 1_024
_READ_ERRORS = (OSError, EOFError, zlib.error)


def layout_of(file: LogFile, columns: Collection[str]) -> Layout:
    """How a file is laid out: by its first bytes, its name, or a first line that is a header with
    these columns.

    Raises:
        DataError: If it cannot be read.
    """
    try:
        with file.open() as raw:
            if raw.read(4) == b"PAR1":
                return "parquet"
        suffixes = file.name.lower().removesuffix(".gz").removesuffix(".zst").rpartition(".")
        if suffixes[2] in ("csv", "tsv"):
            return "csv"
        with open_lines(file) as stream:
            head = stream.read(_HEAD_BYTES)
    except _READ_ERRORS as error:
        raise unreadable(file, None, error) from None
    first = head.removeprefix(codecs.BOM_UTF8).lstrip().partition(b"\n")[0]
    if first.startswith((b"{", b"[")):
        return "lines"
    line = first.decode("utf-8", "replace")
    return "csv" if set(columns) <= set(_names(line, _delimiter(line, columns))) else "lines"


# --- CSV -----------------------------------------------------------------------------------------


class CsvRows:
    """The rows of a CSV file, with the named columns only.

    Raises:
        DataError: While iterating, if the file cannot be read or lacks a column.
    """

    def __init__(
        self, file: LogFile, columns: Mapping[str, bool], *, no_texts: Collection[str] = ()
    ) -> None:
        self.file = file
        self.columns = columns
        """Column -> whether the file must have it."""
        self.no_texts = no_texts
        """Columns in which `NULL_WORDS` are nulls."""
        self.num_lines = 0
        """Lines gone by, the header and blank ones too."""

    def __iter__(self) -> Iterator[Row]:
        csv.field_size_limit(MAX_FIELD_CHARACTERS)
        lines: _CsvLines | None = None
        try:
            with open_lines(self.file) as stream:
                lines = _CsvLines(stream)
                yield from self._rows(lines)
        except _READ_ERRORS as error:
            raise unreadable(self.file, lines.number + 1 if lines else None, error) from None

    def _rows(self, lines: _CsvLines) -> Iterator[Row]:
        first = lines.peek()
        if first is None:
            return
        required = [column for column, must in self.columns.items() if must]
        delimiter = _delimiter(first, required)
        rows = csv.reader(lines, delimiter=delimiter, strict=True)
        try:
            header = [name.strip() for name in next(rows)]
        except csv.Error as error:
            raise DataError(f"{self.file.name}: line 1: no header of a CSV file: {error}") from None
        check_columns(self.file, header, self.columns)
        nulls = {
            name: {CSV_NULL, *(NULL_WORDS if name in self.no_texts else ())} for name in header
        }
        places = [
            (name, place, nulls[name]) for place, name in enumerate(header) if name in self.columns
        ]
        self.num_lines = lines.number
        while True:
            lines.begin_row()
            number = lines.number + 1
            broken = None
            try:
                row = next(rows)
            except StopIteration:
                return
            except csv.Error as error:
                broken = f"not CSV: {_in_our_words(error)}"
            else:
                self.num_lines = lines.number
                if not row:
                    continue
                if lines.wrong:
                    broken = lines.wrong
                elif len(row) != len(header):
                    broken = f"has {len(row)} fields, the header has {len(header)}"
            if broken:
                lines.give_back()
                self.num_lines = lines.number
                yield number, lines.raw(), DataError(broken)
            else:
                yield (
                    number,
                    lines.raw(),
                    {
                        name: None if (field := row[place]) in nulls_of_it else field
                        for name, place, nulls_of_it in places
                    },
                )


class _CsvLines:
    """Lines for the CSV parser, which may be given back, and which remember what they were."""

    def __init__(self, stream: BinaryIO) -> None:
        self.number = 0
        """Lines handed out."""
        self.wrong = ""
        """What is wrong with a line of the row."""
        self._stream = stream
        self._again: deque[bytes] = deque()
        self._row: list[bytes] = []

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else self._read()
        if not line:
            raise StopIteration
        self._row.append(line)
        self.number += 1
        if self.number == 1:
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) == 2 * MAX_FIELD_CHARACTERS:
            self.wrong = f"longer than {len(line)} bytes"
        try:
            return line.decode()
        except UnicodeDecodeError as error:
            self.wrong = f"not UTF-8 at byte {error.start}"
            return line.decode("utf-8", "replace")

    def _read(self) -> bytes:
        line = self._stream.readline(2 * MAX_FIELD_CHARACTERS)
        if len(line) == 2 * MAX_FIELD_CHARACTERS:
            skip_line(self._stream)
        return line

    def peek(self) -> str | None:
        """The first line, which stays to be read; None where there is none."""
        line = self._read()
        if not line:
            return None
        self._again.append(line)
        return line.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")

    def begin_row(self) -> None:
        """The lines that follow belong to a new row."""
        self._row.clear()
        self.wrong = ""

    def give_back(self) -> None:
        """Let all lines of the row but its first be read again."""
        self._again.extendleft(reversed(self._row[1:]))
        self.number -= len(self._row) - 1
        del self._row[1:]

    def raw(self) -> bytes:
        """The row's lines as they stand."""
        return b"".join(self._row).rstrip(b"\r\n")


def _in_our_words(error: csv.Error) -> str:
    text = str(error)
    if "new-line character" in text:
        return "a carriage return outside quotation marks"
    if "unexpected end" in text or "field larger" in text:
        return "a quotation mark is not closed"
    return text


def _delimiter(header: str, columns: Collection[str]) -> str:
    """What separates a header: that under which it has most of these columns, since one of them may
    be named wrongly; of several such, that under which it has most names."""

    def found(delimiter: str) -> tuple[int, int]:
        names = _names(header, delimiter)
        return len(set(columns) & set(names)), len(names)

    return max(_DELIMITERS, key=found)


def _names(header: str, delimiter: str) -> list[str]:
    """The names of a header; none where it cannot be read so."""
    with contextlib.suppress(csv.Error):
        return [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    return []


def check_columns(file: LogFile, found: Sequence[str], columns: Mapping[str, bool]) -> None:
    """Refuse a file that lacks columns, or has one twice.

    Raises:
        DataError: If so.
    """
    if missing := [
        repr(column) for column, must in columns.items() if must and column not in found
    ]:
        some = ", ".join(found[:20]) + (", …" if len(found) > 20 else "")
        raise DataError(
            f"{file.name}: has no column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; it "
            f"has {some}. Name its columns in ingest.mapping.columns."
        )
    for column in columns:
        if found.count(column) > 1:
            raise DataError(f"{file.name}: has more than one column {column!r}.")


# --- Parquet -------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_parquet(file: LogFile) -> Iterator[ParquetFile]:
    """A Parquet file, read as a stream.

    Raises:
        DataError: If it is none.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with (
            file.open() as raw,
            pq.ParquetFile(raw, buffer_size=2**20, coerce_int96_timestamp_unit="us") as parquet,
        ):
            yield parquet
    except (OSError, pa.ArrowException) as error:
        raise unreadable(file, None, error) from None


class ParquetRows:
    """The rows of a Parquet file, with the named columns only; None stands for all of them.

    Raises:
        DataError: While iterating, if the file cannot be read or lacks a column.
    """

    def __init__(self, file: LogFile, columns: Mapping[str, bool] | None) -> None:
        self.file = file
        self.columns = columns
        self.num_lines = 0
        """Rows gone by."""

    def __iter__(self) -> Iterator[Row]:
        with open_parquet(self.file) as parquet:
            names = parquet.schema_arrow.names
            if self.columns is not None:
                check_columns(self.file, names, self.columns)
                names = [name for name in names if name in self.columns]
            for batch in parquet.iter_batches(batch_size=_ROWS_PER_BATCH, columns=names):
                for row in _rows_of(batch):
                    self.num_lines += 1
                    yield self.num_lines, _json(row), row


def _rows_of(batch: pa.RecordBatch) -> list[Any]:
    import pyarrow as pa

    schema = pa.schema([field.with_type(_in_microseconds(field.type)) for field in batch.schema])
    if schema != batch.schema:
        batch = batch.cast(schema, safe=False)
    try:
        return list(batch.to_pylist(maps_as_pydicts="strict"))
    # Text that is not UTF-8, the year 50,000; a map that has a key twice, or keys of several parts.
    except (ValueError, OverflowError, KeyError, TypeError) as error:
        if len(batch) == 1:
            return [DataError(f"holds what cannot be read: {error}")]
        return [row for place in range(len(batch)) for row in _rows_of(batch.slice(place, 1))]


def _in_microseconds(type_: pa.DataType) -> pa.DataType:
    """The type with times that Python's have the precision of."""
    import pyarrow as pa

    if pa.types.is_timestamp(type_) and type_.unit == "ns":
        return pa.timestamp("us", type_.tz)
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        inner = type_.value_field.with_type(_in_microseconds(type_.value_type))
        return pa.large_list(inner) if pa.types.is_large_list(type_) else pa.list_(inner)
    if pa.types.is_struct(type_):
        return pa.struct([field.with_type(_in_microseconds(field.type)) for field in type_])
    return type_


def _json(row: dict[str, Any] | DataError) -> bytes:
    if isinstance(row, DataError):
        return str(row).encode()
    try:
        return msgspec.json.encode(row, enc_hook=str)
    except (UnicodeEncodeError, msgspec.MsgspecError):
        return str(row).encode("utf-8", "backslashreplace")
