"""The formats of logs: which one a file is in, and how a line of it becomes a conversation.

    conversations  {"conversation_id", "messages": [{"role": "customer"|"business", "content"}]}
    openai         {"messages": [{"role": "user"|"assistant", "content"}]}
    sharegpt       {"conversations": [{"from": "human"|"gpt", "value"}]}
    events         a message a row: `iterppo.logs.event_logs`

The second and third are translated into the first, whose reader then checks them: what it knows
(`outcome`, `suggestion`, …) is read from them as well, where they have it under our names. What a
customer never saw, messages of a system or a tool, is left out and counted.
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import msgspec

from iterppo.config import EventMapping, IngestConfig
from iterppo.errors import DataError
from iterppo.logs.event_logs import TIMES, json_object, layout_of_events, required_columns
from iterppo.logs.records import LogConversation, check_record, parse_line
from iterppo.logs.refusals import refuse_whole
from iterppo.logs.sources import Lines, LogFile, Piece
from iterppo.logs.tables import ParquetRows, open_parquet
from iterppo.logs.times import read_time, shorten

Format = Literal["conversations", "openai", "sharegpt", "events"]

_LINES_LOOKED_AT = 100

# --- which format --------------------------------------------------------------------------------


def recognise(file: LogFile, config: IngestConfig) -> Format:
    """The format of a file: the configured one, or that of the first line that shows one.

    Where none does it is `conversations`, whose reader says of every line what is wrong.

    Raises:
        DataError: If the file cannot be read, or is refused as a whole (`logs.refusals`).
    """
    refuse_whole(file)
    if config.format != "auto":
        return config.format
    layout = layout_of_events(file, config.mapping)
    if layout == "csv" or (layout == "parquet" and not _holds_conversations(file)):
        return "events"
    lines = ConversationRows(file) if layout == "parquet" else Lines(Piece(file))
    for _, line in itertools.islice(lines, _LINES_LOOKED_AT):
        try:
            found = _shown_by(json_object(line), config.mapping)
        except DataError:
            continue
        if found:
            return found
    return "conversations"


def _holds_conversations(file: LogFile) -> bool:
    with open_parquet(file) as parquet:
        schema = parquet.schema_arrow
        return any(
            hasattr(schema.field(name).type, "value_type")
            for name in ("messages", "conversations")
            if name in schema.names
        )


def _shown_by(content: dict[str, Any], mapping: EventMapping) -> Format | None:
    for format_, shape in _SHAPES.items():
        messages = content.get(shape.messages)
        if isinstance(messages, list) and any(_role(each, shape) for each in messages):
            return format_
    return "events" if required_columns(mapping) <= content.keys() else None


def conversation_lines(piece: Piece) -> Lines | ConversationRows:
    """Number and content of the lines of a piece that holds conversations; the rows of a Parquet
    file become lines of JSON. `num_lines` of the result tells how many have gone by.

    Raises:
        DataError: While iterating, if the file cannot be read to its end.
    """
    try:
        with piece.file.open() as stream:
            is_parquet = stream.read(4) == b"PAR1"
    except OSError:
        is_parquet = False  # said by whoever reads it
    return ConversationRows(piece.file) if is_parquet else Lines(piece)


class ConversationRows:
    """The rows of a Parquet file of conversations, as lines of JSON without the columns that are
    null."""

    def __init__(self, file: LogFile) -> None:
        self._rows = ParquetRows(file, None)

    @property
    def num_lines(self) -> int:
        """Rows gone by."""
        return self._rows.num_lines

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number, raw, row in self._rows:
            if isinstance(row, DataError):
                yield number, raw
            else:
                known = {name: value for name, value in row.items() if value is not None}
                yield (
                    number,
                    raw if len(known) == len(row) else msgspec.json.encode(known, enc_hook=str),
                )


# --- translation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """Where a format has its messages, and what its roles are."""

    messages: str
    role: str
    text: str
    roles: Mapping[str, str]
    """Theirs -> customer, business or ignored."""


_IGNORED = "ignored"
_SHAPES: dict[Format, Shape] = {
    "conversations": Shape(
        "messages", "role", "content", {"customer": "customer", "business": "business"}
    ),
    "openai": Shape(
        "messages",
        "role",
        "content",
        {
            "user": "customer",
            "assistant": "business",
            **dict.fromkeys(("system", "developer", "tool", "function"), _IGNORED),
        },
    ),
    "sharegpt": Shape(
        "conversations",
        "from",
        "value",
        {
            **dict.fromkeys(("human", "user"), "customer"),
            **dict.fromkeys(("gpt", "assistant", "chatgpt", "bing", "bard"), "business"),
            **dict.fromkeys(
                ("system", "tool", "function", "function_call", "observation"), _IGNORED
            ),
        },
    ),
}
_IDS = ("conversation_id", "id", "conversation_uuid", "thread_id")
_OF_CONVERSATION = (
    "outcome",
    "unfinished",
    "policy_version",
    "persona",
    "customer_id",
    "business_id",
)
_OF_MESSAGE = (
    "outcome",
    "suggestion",
    "adoption",
    "suggestion_logprob",
    "policy_version",
    "persona",
)
_PARTS = {
    "image_url": "[image]",
    "input_image": "[image]",
    "image": "[image]",
    "input_audio": "[audio]",
    "audio": "[audio]",
    "file": "[file]",
    "input_file": "[file]",
}


def line_parser(format_: str) -> Callable[[bytes], LogConversation]:
    """What reads a line of a format; it raises DataError with the reason where it cannot.

    Raises:
        KeyError: If the format is `events`, whose lines are no conversations, or none of ours.
    """
    shape = _SHAPES[cast(Format, format_)]
    if format_ == "conversations":
        return parse_line
    return lambda line: _translated(line, shape)


def _translated(line: bytes, shape: Shape) -> LogConversation:
    content = json_object(line)
    messages = content.get(shape.messages)
    if not isinstance(messages, list):
        problem = "Input should be a list" if shape.messages in content else "Field required"
        raise DataError(f"{shape.messages}: {problem}")
    neutral: dict[str, Any] = {
        name: content[name] for name in _OF_CONVERSATION if content.get(name) is not None
    }
    neutral["conversation_id"] = _id_of(content, line)
    meta = content.get("metadata", content.get("meta"))
    if meta is not None:
        neutral["meta"] = meta
    places = []
    neutral["messages"] = translated = []
    for place, message in enumerate(messages):
        role = _role(message, shape)
        if role is None:
            raise DataError(_role_problem(message, f"{shape.messages}.{place}", shape))
        if role != _IGNORED:
            try:
                translated.append(_message(message, role, shape))
            except ValueError as error:
                raise DataError(f"{shape.messages}.{place}.{error}") from None
            places.append(place)
    try:
        conversation = _checked(neutral)
    except DataError as error:
        raise DataError(_in_their_words(str(error), places, shape)) from None
    conversation.ignored = len(messages) - len(translated)
    return conversation


def _checked(neutral: dict[str, Any]) -> LogConversation:
    try:
        line = msgspec.json.encode(neutral)
    except (UnicodeEncodeError, RecursionError, msgspec.MsgspecError):  # half a character
        return check_record(neutral)
    return parse_line(line)


def _id_of(content: dict[str, Any], line: bytes) -> Any:
    """An id, or a name for a conversation that has none: two that are the same have the same."""
    for name in _IDS:
        if content.get(name) not in (None, ""):
            return content[name]
    return f"line-{hashlib.sha256(line.removeprefix(codecs.BOM_UTF8)).hexdigest()[:16]}"


def _role(message: Any, shape: Shape) -> str | None:
    role = message.get(shape.role) if isinstance(message, dict) else None
    return shape.roles.get(role) if isinstance(role, str) else None


def _role_problem(message: Any, where: str, shape: Shape) -> str:
    if not isinstance(message, dict):
        return f"{where}: Input should be an object"
    if shape.role not in message:
        return f"{where}.{shape.role}: Field required"
    role = shorten(message[shape.role])
    return f"{where}.{shape.role}: {role} is no role of this format: {', '.join(shape.roles)}"


def _message(message: dict[str, Any], role: str, shape: Shape) -> dict[str, Any]:
    fields = {name: message[name] for name in _OF_MESSAGE if name in message}
    fields["role"] = role
    if shape.text not in message and not any(name in message for name in _INSTEAD_OF_TEXT):
        raise ValueError(f"{shape.text}: Field required")
    fields["content"] = _text(message, shape)
    for name in TIMES:
        if message.get(name) is not None:
            try:
                fields["time"] = read_time(message[name])
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
            break
    return fields


_INSTEAD_OF_TEXT = ("refusal", "tool_calls", "function_call", "audio")


def _text(message: dict[str, Any], shape: Shape) -> Any:
    content = message.get(shape.text)
    if content is None:
        return message.get("refusal") or ""
    if not isinstance(content, list):
        return content
    return "\n".join(_part(part, f"{shape.text}.{place}") for place, part in enumerate(content))


def _part(part: Any, where: str) -> str:
    """Text, or what stands for the rest: a picture that was sent is something that was said."""
    if isinstance(part, str):
        return part
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{where}: Input should be a text, or an object with a type")
    for name in ("text", "refusal"):
        if isinstance(part.get(name), str):
            return str(part[name])
    return _PARTS.get(kind, f"[{kind}]")


def _in_their_words(reason: str, places: list[int], shape: Shape) -> str:
    """A reason of the neutral reader, with the place and the name that the line itself has."""

    def theirs(match: re.Match[str]) -> str:
        text = f".{shape.text}" if match[2] == ".content" else match[2] or ""
        return f"{shape.messages}.{places[int(match[1])]}{text}"

    return re.sub(r"\bmessages\.(\d+)(\.\w+)?", theirs, reason)
