"""Times as logs write them, as moments in UTC."""

from __future__ import annotations

import functools
import math
import re
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from iterppo.errors import UsageError

PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NUMBER = re.compile(r"[+-]?(\d+)(?:\.\d*)?(?:[eE][+-]?\d+)?", re.ASCII)
_ZONE_APART = re.compile(r"\s+(?:(UTC|GMT|Z)|([+-]\d\d(?::?\d\d)?))$", re.ASCII)
_UNIT_OF_DIGITS = {10: "s", 13: "ms", 16: "us", 19: "ns"}


def read_time(value: Any, time_format: str = "iso", zone: tzinfo = UTC) -> datetime | None:
    """The moment that a value means; None where there is none (null, "", NaN).

    Args:
        value: A text, a number, a date or a datetime.
        time_format: `iso`; `s`, `ms`, `us` or `ns` since 1970; or a pattern of strptime. Under
            `iso` a number is in seconds as well, and one of 13, 16 or 19 digits, as the moments
            from 2001 to 2286 have, in milli-, micro- or nanoseconds.
        zone: Of times without one. A time that clocks showed twice is the first of them.

    Raises:
        ValueError: If it is no time.
        UsageError: If there is no such format.

    >>> read_time("2026-05-01 10:00:00 UTC") == read_time(1777629600000)
    True
    """
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    try:
        moment = _read(value, time_format)
        moment = (moment if moment.tzinfo else moment.replace(tzinfo=zone)).astimezone(UTC)
        if 1 < moment.year < 9999:
            return moment
    except ArithmeticError:
        pass
    raise ValueError(f"{shorten(value)} is outside every calendar")


def _read(value: Any, time_format: str) -> datetime:
    if isinstance(value, datetime):
        return value
    if isinstance(value, date):
        return datetime.combine(value, time())
    is_text = isinstance(value, str)
    if isinstance(value, bool) or not (is_text or isinstance(value, int | float | Decimal)):
        raise ValueError(f"{shorten(value)} is no time")
    text = str(value).strip()
    if time_format in PER_SECOND:
        if not _NUMBER.fullmatch(text):
            raise ValueError(f"{shorten(value)} is no number of {time_format} since 1970")
        return _since_1970(text, time_format)
    if "%" in time_format:
        try:
            return datetime.strptime(text, time_format)
        except ValueError:
            raise ValueError(f"{shorten(value)} does not match {time_format!r}") from None
    if time_format != "iso":
        raise UsageError(
            f"ingest.mapping.time_format: {time_format!r} is none; write iso, s, ms, us, ns, or a "
            "pattern such as '%d/%m/%Y %H:%M:%S'."
        )
    number = _NUMBER.fullmatch(text)
    if number and not (is_text and len(text) == 8):
        digits = len(number[1]) if "e" not in text.lower() else len(str(int(float(text))))
        unit = _UNIT_OF_DIGITS.get(digits)
        if unit is None and not is_text and digits < 10:
            unit = "s"
        if unit is None:
            raise ValueError(f"{shorten(value)} is a number of no known unit")
        return _since_1970(text, unit)
    try:
        return datetime.fromisoformat(_ZONE_APART.sub(lambda m: m[2] or "+00:00", text))
    except ValueError:
        raise ValueError(f"{shorten(value)} is no time in ISO 8601") from None


def _since_1970(number: str, unit: str) -> datetime:
    microseconds = Decimal(number) * 10**6 / PER_SECOND[unit]
    return _EPOCH + timedelta(microseconds=math.floor(microseconds))


@functools.lru_cache
def zone_of(name: str) -> tzinfo:
    """The time zone of a name.

    Raises:
        UsageError: If there is none.
    """
    if name == "UTC":  # known without a database of zones
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):
        raise UsageError(
            f"ingest.mapping.time_zone: {name!r} is none that this machine knows. Write it as "
            "Europe/Berlin; where it is one, install the package tzdata."
        ) from None


_NUM_SHOWN = 59
CUT_VALUE = re.compile(rf".{{{_NUM_SHOWN}}}…", re.DOTALL)
"""What `shorten` writes of a long value."""


def shorten(value: Any) -> str:
    """A value as it is named in a reason."""
    text = repr(value)
    return text if len(text) <= _NUM_SHOWN + 1 else f"{text[:_NUM_SHOWN]}…"
