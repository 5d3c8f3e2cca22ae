"""Event logs: a message a row, in any order, as a warehouse exports them.

    file -> (number, raw bytes, row) -> Event -> `iterppo.logs.event_sorting`

What the columns are called and what their values mean stands in the configuration
(`ingest.mapping`). In JSON Lines, CSV and Parquet alike null and the empty text mean that a row
does not have the field; of `suggestion` and `adoption` that nothing was suggested, since a log with
such a column knows. The message itself may be empty. In CSV, where a null is a word, `NULL` and its
like are nulls too, but not in what somebody may have said.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, cast, get_args
from uuid import UUID

import msgspec
from pydantic import ValidationError

from iterppo.config import EventMapping, IngestConfig
from iterppo.errors import DataError, UsageError
from iterppo.logs.records import Adoption, Role, parse_json
from iterppo.logs.sources import MAX_LINE_BYTES, Lines, LogFile, Piece
from iterppo.logs.tables import NULL_WORDS, CsvRows, Layout, ParquetRows, Row, layout_of
from iterppo.logs.times import PER_SECOND, read_time, shorten, zone_of


class Event(msgspec.Struct, gc=False):
    """A message of an event log, with what its row says of the conversation."""

    conversation_id: str
    role: Role
    content: str
    time: datetime | None = None
    """In UTC."""
    message_id: str | None = None
    outcome: Literal[0, 1] | None = None
    unfinished: bool | None = None
    suggestion: str | msgspec.UnsetType | None = msgspec.UNSET
    """As in `LogMessage`; unset on customers' messages."""
    adoption: Adoption | msgspec.UnsetType | None = msgspec.UNSET
    suggestion_logprob: float | None = None
    policy_version: str | None = None
    persona: str | None = None
    customer_id: str | None = None
    business_id: str | None = None


# --- rows ----------------------------------------------------------------------------------------

_REQUIRED = ("conversation_id", "role", "content")
TIMES = ("time", "timestamp", "created_at", "create_time")
"""What the time of a message is called where no mapping names it."""


def event_columns(mapping: EventMapping) -> dict[str, bool]:
    """The columns that may be read of a file, by the file's names: whether it must have them."""
    theirs = _names(mapping)
    columns = dict.fromkeys(() if "time" in theirs else TIMES, False)
    for name in ("role", *_READERS):
        columns[theirs.get(name, name)] = name in _REQUIRED or name in theirs
    columns.pop("", None)
    return columns


def _no_texts(mapping: EventMapping) -> set[str]:
    """The columns, by the file's names, in which the word NULL is a null: neither what somebody may
    have said, nor what the mapping gives a meaning to."""
    theirs = _names(mapping)
    as_written = {theirs.get(name, name) for name in ("role", "content", "suggestion")}
    words = {word.lower() for word in NULL_WORDS}
    if any(word.lower() in words for word in mapping.adoptions):
        as_written.add(theirs.get("adoption", "adoption"))
    return set(event_columns(mapping)) - as_written


def required_columns(mapping: EventMapping) -> set[str]:
    """What a row of an event log has, by the file's names."""
    theirs = _names(mapping)
    return {theirs.get(name, name) for name in _REQUIRED}


def _names(mapping: EventMapping) -> Mapping[str, str]:
    """Our name -> theirs, where the mapping names one."""
    return cast(Mapping[str, str], mapping.columns)


def layout_of_events(file: LogFile, mapping: EventMapping) -> Layout:
    """How an event log is laid out: `lines` of JSON, which can be cut into pieces, or `csv` or
    `parquet`, which are read whole.

    Raises:
        DataError: If it cannot be read.
    """
    return layout_of(file, required_columns(mapping))


class JsonRows:
    """The rows of a piece of JSON Lines."""

    def __init__(self, piece: Piece) -> None:
        self._lines = Lines(piece)

    @property
    def num_lines(self) -> int:
        """Lines gone by, blank ones too."""
        return self._lines.num_lines

    def __iter__(self) -> Iterator[Row]:
        for number, line in self._lines:
            row: dict[str, Any] | DataError
            try:
                row = json_object(line)
            except DataError as error:
                row = error
            yield number, line, row


def json_object(line: bytes) -> dict[str, Any]:
    """The JSON object of a line, fast where nothing is wrong with it.

    Raises:
        DataError: With the reason.
    """
    if len(line) >= MAX_LINE_BYTES - 2:
        raise DataError(f"longer than {MAX_LINE_BYTES} bytes")
    try:
        content = msgspec.json.decode(line.removeprefix(b"\xef\xbb\xbf"))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return parse_json(line)
    if not isinstance(content, dict):
        raise DataError("not a JSON object")
    return content


def event_rows(piece: Piece, config: IngestConfig) -> JsonRows | CsvRows | ParquetRows:
    """The rows of a piece of an event log: number (of the line, from the piece's first; of a
    Parquet file's row), raw bytes, and the row or what is wrong with it. `num_lines` of the result
    tells how many have gone by.

    Raises:
        DataError: While iterating, if the file cannot be read to its end or lacks a column.
    """
    layout = layout_of_events(piece.file, config.mapping)
    if layout == "lines":
        return JsonRows(piece)
    assert not piece.start, "a table is read whole"
    columns = event_columns(config.mapping)
    if layout == "csv":
        return CsvRows(piece.file, columns, no_texts=_no_texts(config.mapping))
    return ParquetRows(piece.file, columns)


# --- values --------------------------------------------------------------------------------------


def event_of(row: Mapping[str, Any], mapping: EventMapping) -> Event | None:
    """The message of a row; None where its role is ignored.

    A column that the mapping names is there, be it left out of a row of JSON, as exporters do with
    nulls; one that it calls "" is not. No column of times is a mistake, unless the mapping says
    that there is none: rows in any order would be taken in this one. What a customer's row says of
    suggestions is passed over.

    Raises:
        DataError: With the column and the reason.
        UsageError: If the mapping has a time format or a time zone that there is not.
    """
    columns = _names(mapping)
    role = _role(row, columns.get("role", "role"), mapping.roles)
    if role is None:
        return None
    fields: dict[str, Any] = {"role": role}
    for name, read in _READERS.items():
        column = columns.get(name, name)
        if not column:
            continue
        if name == "time" and name not in columns:
            column = next((own for own in TIMES if own in row), column)
        try:
            if column in row:
                fields[name] = read(row[column], mapping)
            elif name in columns and name not in _REQUIRED:
                fields[name] = None
            elif name == "time":
                raise ValueError("is missing; name its column in the mapping, or none: time = ''")
            elif name in _REQUIRED:
                raise ValueError("is missing")
        except ValueError as error:
            if isinstance(error, UsageError):
                raise
            raise DataError(f"{column}: {error}") from None
    if role == "customer":
        for name in ("suggestion", "adoption", "suggestion_logprob"):
            fields.pop(name, None)
    return Event(**fields)


def _role(row: Mapping[str, Any], column: str, roles: Mapping[str, str]) -> str | None:
    value = row.get(column)
    if value is None or value == "":
        raise DataError(f"{column}: is missing")
    text = str(_whole_number(value)).strip()
    found = roles.get(text) or roles.get(text.lower())
    if found is None:
        found = next((side for name, side in roles.items() if name.lower() == text.lower()), None)
    if found is None:
        raise DataError(f"{column}: {shorten(value)} is no role of the mapping: {', '.join(roles)}")
    return None if found == "ignore" else found


def _whole_number(value: Any) -> Any:
    """Warehouses export integers as decimals, and with nulls among them as floats."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else value
    is_whole = isinstance(value, float) and abs(value) < 2**53 and value.is_integer()
    return int(value) if is_whole else value


def _text(value: Any, mapping: EventMapping) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"is not UTF-8 at byte {error.start}") from None
    if not isinstance(value, str):
        raise ValueError(f"{shorten(value)} is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character at {error.start}") from None
    return value


def _content(value: Any, mapping: EventMapping) -> str:
    return _text(value, mapping) or ""


def _key(value: Any, mapping: EventMapping) -> str | None:
    value = _whole_number(value)
    if isinstance(value, UUID) or (isinstance(value, int) and not isinstance(value, bool)):
        return str(value)
    return _text(None if value != value else value, mapping)


def _needed_key(value: Any, mapping: EventMapping) -> str:
    key = _key(value, mapping)
    if key is None:
        raise ValueError("is missing")
    return key


def _time(value: Any, mapping: EventMapping) -> datetime | None:
    try:
        return read_time(value, mapping.time_format, zone_of(mapping.time_zone))
    except ValueError as error:
        if isinstance(error, UsageError) or not isinstance(value, str | int | float | Decimal):
            raise
        raise ValueError(
            f"{error}; say how times are written in ingest.mapping.time_format"
        ) from None


_TRUE, _FALSE = ("1", "1.0", "true", "t", "yes"), ("0", "0.0", "false", "f", "no")


def _outcome(value: Any, mapping: EventMapping) -> int | None:
    if value is None or value == "" or value != value:
        return None
    text = str(_whole_number(value)).strip().lower()
    if text in _TRUE or text in _FALSE:
        return int(text in _TRUE)
    raise ValueError(f"{shorten(value)} is neither 0 nor 1, neither true nor false")


def _unfinished(value: Any, mapping: EventMapping) -> bool | None:
    bit = _outcome(value, mapping)
    return None if bit is None else bit == 1


def _adoption(value: Any, mapping: EventMapping) -> str | None:
    if value is None or value == "":
        return None
    text = str(_whole_number(value)).strip().lower()
    for theirs, ours in mapping.adoptions.items():
        if theirs.lower() == text:
            return ours
    if text in _ADOPTIONS:
        return text
    raise ValueError(f"{shorten(value)} is none of {', '.join([*mapping.adoptions, *_ADOPTIONS])}")


_ADOPTIONS = get_args(Adoption)


def _logprob(value: Any, mapping: EventMapping) -> float | None:
    if value is None or value == "" or value != value:
        return None
    try:
        number = float("" if isinstance(value, bool) else value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"{shorten(value)} is no number") from None
    if not math.isfinite(number):
        raise ValueError(f"{shorten(value)} is not finite")
    return number


_READERS: dict[str, Callable[[Any, EventMapping], Any]] = {
    "conversation_id": _needed_key,
    "content": _content,
    "time": _time,
    "message_id": _key,
    "outcome": _outcome,
    "unfinished": _unfinished,
    "suggestion": _text,
    "adoption": _adoption,
    "suggestion_logprob": _logprob,
    "policy_version": _key,
    "persona": _key,
    "customer_id": _key,
    "business_id": _key,
}


# --- the mapping file ----------------------------------------------------------------------------


def load_mapping(path: Path) -> dict[str, Any]:
    """The settings of a mapping file, which are those of `ingest.mapping`.

    Raises:
        UsageError: If it cannot be read, or says what is not known; names file and key.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such mapping file. Check --mapping.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{path}: {error}.") from None
    try:
        mapping = EventMapping.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"{path}: {_first_error(error, content)}") from None
    if mapping.time_format not in ("iso", *PER_SECOND) and "%" not in mapping.time_format:
        raise UsageError(
            f"{path}: time_format: {mapping.time_format!r} is none; write iso, s, ms, us, ns, or a "
            "pattern such as '%d/%m/%Y %H:%M:%S'."
        )
    try:
        zone_of(mapping.time_zone)
    except UsageError as error:
        raise UsageError(f"{path}: {str(error).removeprefix('ingest.mapping.')}") from None
    return content


def _first_error(error: ValidationError, content: Mapping[str, Any]) -> str:
    first = error.errors()[0]
    if first["type"] == "value_error":  # in our own words, the value among them
        return f"{first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}."
    key = [str(part) for part in first["loc"] if part != "[key]"]
    known: list[str] = []
    if first["type"] == "extra_forbidden":
        known = list(EventMapping.model_fields)
    elif first["loc"][-1] == "[key]":
        known = ["role", *_READERS]
    if known:
        close = difflib.get_close_matches(key[-1], known, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(sorted(known))}."
        return f"unknown key {'.'.join(key)}. {hint}"
    return f"{'.'.join(key)}: {first['msg']}, is {shorten(first['input'])}."
