"""Messages and conversations as a log has them, and the neutral format.

    {"conversation_id", "messages": [{"role": "customer"|"business", "content", "time"?, "outcome"?,
      "suggestion"?, "adoption"?, "suggestion_logprob"?, "policy_version"?, "persona"?}],
      "outcome"?, "unfinished"?, "customer_id"?, "business_id"?, "meta"?}

A message's `outcome` is the state of the outcome just before the next message. Suggestion fields
stand on the business message that followed the suggestion. `meta.unfinished` counts as
`unfinished`; nothing else of `meta` is read unless the configuration names it, since it holds facts
that no policy may see.

Reading is msgspec's, many times faster than what can explain itself; a line that msgspec does not
take is read again by pydantic, which takes the looser forms (a time as `2026-05-01`, an outcome as
`1.0`) and says of the others what is wrong.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
)

from iterppo.errors import DataError

Role = Literal["customer", "business"]
Adoption = Literal["verbatim", "edited", "influenced", "rejected", "abstained", "not_shown"]


class LogMessage(msgspec.Struct, gc=False):
    """A message as the log has it."""

    role: Role
    content: str
    time: Any = None
    """A datetime, in UTC where it has no zone; from `decode_line`, still as it is written."""
    outcome: Literal[0, 1] | None = None
    suggestion: str | msgspec.UnsetType | None = msgspec.UNSET
    """What was suggested: null where the assistant abstained, unset where the log does not say."""
    adoption: Adoption | msgspec.UnsetType | None = msgspec.UNSET
    suggestion_logprob: float | None = None
    policy_version: str | None = None
    persona: str | None = None

    @property
    def knows_suggestion(self) -> bool:
        """Whether the log says what was suggested, be it nothing."""
        return self.role == "business" and not (
            self.suggestion is msgspec.UNSET and self.adoption is msgspec.UNSET
        )

    @property
    def is_decision(self) -> bool:
        """Whether the assistant did something, although nothing may have been sent: it suggested,
        or it abstained."""
        return (
            self.role == "business"
            and self.adoption != "not_shown"
            and bool(self.adoption or (self.suggestion and not self.suggestion.isspace()))
        )


class LogConversation(msgspec.Struct, gc=False):
    """A conversation as the log has it."""

    conversation_id: str
    messages: list[LogMessage]
    outcome: Literal[0, 1] | None = None
    unfinished: bool | None = None
    policy_version: str | None = None
    persona: str | None = None
    customer_id: str | None = None
    business_id: str | None = None
    meta: Any = None
    ignored: int = 0
    """Messages of neither side (a system's, a tool's) that the log had besides."""


def parse_line(line: bytes) -> LogConversation:
    """Read one line of the neutral format.

    Raises:
        DataError: With the reason; the caller knows file and line.
    """
    conversation = decode_line(line)
    return conversation if read_times(conversation) else check_record(parse_json(line))


def decode_line(line: bytes) -> LogConversation:
    """Read one line of the neutral format, but for the times of its messages: those are read
    together for many lines (`iterppo.logs.time_columns`), or one by one with `read_times`.

    Raises:
        DataError: With the reason.
    """
    if line.startswith(b"\xef\xbb\xbf"):  # Windows programs begin a file with a mark
        line = line[3:]
    try:
        conversation = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return check_record(parse_json(line))
    conversation.ignored = 0  # ours to count, not the log's to say
    if (
        not conversation.conversation_id
        or (conversation.meta is not None and not _unfinished_in_meta(conversation))
        or (conversation.outcome == 0 and _contradiction(conversation) is not None)
    ):
        return check_record(parse_json(line))
    return conversation


def read_times(conversation: LogConversation) -> bool:
    """Make datetimes of the times of a conversation's messages; False where one is none."""
    try:
        for message in conversation.messages:
            if message.time is not None:
                message.time = as_time(message.time)
                if not isinstance(message.time, datetime):
                    return False
    except ValueError:
        return False
    return True


def parse_json(line: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        DataError: With the reason.
    """
    try:
        content = json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise DataError(f"not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError("not a JSON object")
    return content


def check_record(content: dict[str, Any]) -> LogConversation:
    """A conversation from a dictionary with the keys of the neutral format.

    Raises:
        DataError: With the reason.
    """
    try:
        checked = _Conversation.model_validate(content)
    except ValidationError as error:
        # What has no messages is no conversation; that its id is missing too says less.
        first = min(error.errors(), key=lambda one: one["loc"] != ("messages",))
        where = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where}: {first['msg']}" if where else first["msg"]) from None
    conversation = LogConversation(
        **{name: getattr(checked, name) for name in checked.model_fields_set - {"messages"}},
        messages=[
            LogMessage(**{name: getattr(message, name) for name in message.model_fields_set})
            for message in checked.messages
        ],
    )
    if not conversation.conversation_id:
        raise DataError("conversation_id: is empty")
    _unfinished_in_meta(conversation)
    marked = _contradiction(conversation)
    if marked is not None:
        raise DataError(f"outcome: is 0, but messages.{marked} carries 1")
    return conversation


def _unfinished_in_meta(conversation: LogConversation) -> bool:
    meta = conversation.meta
    if isinstance(meta, dict) and meta.get("unfinished") is not None:
        if not isinstance(meta["unfinished"], bool):
            return False
        if conversation.unfinished is None:
            conversation.unfinished = meta["unfinished"]
    return True


def _contradiction(conversation: LogConversation) -> int | None:
    if conversation.outcome != 0:
        return None
    return next((n for n, m in enumerate(conversation.messages) if m.outcome == 1), None)


_decoder = msgspec.json.Decoder(LogConversation)

# --- what explains itself ------------------------------------------------------------------------


def _whole_characters(text: str) -> str:
    """JSON can hold half of a surrogate pair, UTF-8 and hence Parquet cannot."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half a character at {error.start}") from None
    return text


def _as_text(value: Any) -> Any:
    """Databases number their rows."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _as_integer(value: Any) -> Any:
    """`true` and `1.0` are outcomes as well as 1."""
    return int(value) if isinstance(value, bool | float) and value in (0, 1) else value


_Text = Annotated[str, AfterValidator(_whole_characters)]
_Key = Annotated[_Text, BeforeValidator(_as_text)]
_Outcome = Annotated[Literal[0, 1], BeforeValidator(_as_integer)]


class _Message(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    role: Role
    content: _Text
    time: datetime | None = None
    outcome: _Outcome | None = None
    suggestion: _Text | None = None
    adoption: Adoption | None = None
    suggestion_logprob: Annotated[float, Field(allow_inf_nan=False)] | None = None
    policy_version: _Text | None = None
    persona: _Text | None = None

    @field_validator("time", mode="before")
    @classmethod
    def _parse_time(cls, value: Any) -> Any:
        return as_time(value)


class _Conversation(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    conversation_id: _Key
    messages: list[_Message]
    outcome: _Outcome | None = None
    unfinished: bool | None = None
    policy_version: _Text | None = None
    persona: _Text | None = None
    customer_id: _Key | None = None
    business_id: _Key | None = None
    meta: Any = None

    @field_validator("meta")
    @classmethod
    def _check_unfinished(cls, value: Any) -> Any:
        if isinstance(value, dict) and not isinstance(value.get("unfinished", False), bool | None):
            raise ValueError("unfinished: Input should be a valid boolean")
        return value


def as_time(value: Any) -> Any:
    """ISO 8601 or seconds since 1970, in UTC; without a zone it is UTC already.

    Raises:
        ValueError: If no calendar has it.
    """
    try:
        if isinstance(value, str):
            if value.isdigit() and len(value) != 8:  # 1712010100000 would be a day of 1712
                raise ValueError(f"Invalid isoformat string: {value!r}")
            value = datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            value = datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime):
            value = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    except (OverflowError, OSError) as error:  # neither becomes a ValidationError by itself
        raise ValueError(str(error)) from None
    return value
