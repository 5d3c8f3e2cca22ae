"""What every section of the configuration is made of: the base classes, and constrained types."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


class Settings(BaseModel):
    """A section of the configuration, or a table within one."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )


class StageConfig(Settings):
    """What every stage's configuration has."""

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random in the stage; numpy takes no larger one."""


_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def parse_duration(text: str) -> timedelta:
    """A duration such as `90s`, `30m`, `36h`, `7d`, `2w`, or a sum as `1d12h`.

    Raises:
        ValueError: If it is none.

    >>> parse_duration("1d12h")
    datetime.timedelta(days=1, seconds=43200)
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([smhdw])", text)
    if not parts or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"{text!r} is no duration; write 90s, 30m, 36h, 7d or 1d12h")
    try:
        return sum(
            (timedelta(**{_UNITS[unit]: float(number)}) for number, unit in parts), timedelta()
        )
    except OverflowError:
        raise ValueError(f"{text!r} is longer than any calendar") from None


def _duration(text: str) -> str:
    parse_duration(text)
    return text


def _written_out(value: object) -> object:
    """TOML has moments of its own, without quotes."""
    return value.isoformat().replace("+00:00", "Z") if isinstance(value, date) else value


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no time; write it as 2026-05-31T00:00:00Z") from None
    try:
        moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except OverflowError:
        raise ValueError(f"{text!r} lies outside of every calendar, seen from UTC") from None
    return text


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"no regular expression: {error}") from None
    return text


Duration = Annotated[str, AfterValidator(_duration)]
Moment = Annotated[str, BeforeValidator(_written_out), AfterValidator(_moment)]
Pattern = Annotated[str, AfterValidator(_pattern)]
