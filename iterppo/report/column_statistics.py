"""Statistics of columns, in one pass over batches of rows: nulls, distinct values, the least, the
mean and the greatest.

Texts and lists are measured by their length. Memory does not grow with the rows: distinct values
are counted up to a limit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

DISTINCT_UP_TO = 100_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class ColumnStatistics:
    """What is known of one column so far."""

    def __init__(self, type_: pa.DataType) -> None:
        self.rows = 0
        self.nulls = 0
        self._type = type_
        self._seen: set[int] = set()
        self._least: float | None = None
        self._greatest: float | None = None
        self._sums: list[float] = []
        self._measured = 0

    def add(self, column: pa.Array) -> None:
        """The column of a further batch."""
        self.rows += len(column)
        self.nulls += column.null_count
        present = column.drop_null()
        if self.has_distinct and len(self._seen) <= DISTINCT_UP_TO:
            is_time = pa.types.is_timestamp(self._type)  # whose year Python may have no date for
            values = present.cast(pa.int64()) if is_time else present
            self._seen.update(map(hash, pc.unique(values).to_pylist()))
        numbers = self._measure(present)
        if numbers is None:
            return
        numbers = numbers.cast(pa.float64(), safe=False)  # an id of 19 digits may be rounded
        numbers = numbers.filter(pc.is_finite(numbers))
        if not len(numbers):
            return
        ends = pc.min_max(numbers).as_py()
        self._least = min(ends["min"], math.inf if self._least is None else self._least)
        self._greatest = max(ends["max"], -math.inf if self._greatest is None else self._greatest)
        self._sums.append(pc.sum(numbers).as_py())
        self._measured += len(numbers)

    @property
    def has_distinct(self) -> bool:
        """Whether values can be told apart at little cost."""
        return not pa.types.is_nested(self._type)

    @property
    def measure(self) -> str:
        """What least, mean and greatest are of: `value`, `length`, or nothing."""
        t = self._type
        if _is_text(t) or _is_list(t):
            return "length"
        is_number = pa.types.is_boolean(t) or pa.types.is_integer(t) or pa.types.is_floating(t)
        return "value" if is_number or pa.types.is_timestamp(t) else ""

    def told(self) -> dict[str, Any]:
        """For JSON; times are in ISO 8601, and a length is in characters or elements."""
        found: dict[str, Any] = {"rows": self.rows, "nulls": self.nulls}
        if self.has_distinct:
            found["distinct"] = min(len(self._seen), DISTINCT_UP_TO)
            found["distinct_is_at_least"] = len(self._seen) > DISTINCT_UP_TO
        if self._measured and self._least is not None and self._greatest is not None:
            mean = math.fsum(self._sums) / self._measured
            ends = (self._least, mean, self._greatest)
            found["of"] = self.measure
            found |= {
                name: self._shown(value)
                for name, value in zip(("min", "mean", "max"), ends, strict=True)
            }
        return found

    def _measure(self, present: pa.Array) -> pa.Array | None:
        if _is_text(self._type):
            return pc.utf8_length(present)
        if _is_list(self._type):
            return pc.list_value_length(present)
        if pa.types.is_timestamp(self._type):
            return present.cast(pa.timestamp("us", tz=self._type.tz), safe=False).cast(pa.int64())
        if pa.types.is_boolean(self._type):
            return present.cast(pa.int8())
        return present if self.measure else None

    def _shown(self, value: float) -> Any:
        if pa.types.is_timestamp(self._type):
            try:
                return (_EPOCH + timedelta(microseconds=value)).isoformat()
            except OverflowError:  # a year that Python has no date for
                return f"{value / 1e6:g} s since 1970"
        is_whole = pa.types.is_integer(self._type) or self.measure == "length"
        return int(value) if is_whole and value == int(value) else value


def statistics(batches: Iterable[pa.RecordBatch]) -> dict[str, dict[str, Any]]:
    """Statistics of every column of the batches, by name."""
    columns: dict[str, ColumnStatistics] = {}
    for batch in batches:
        for field, column in zip(batch.schema, batch.columns, strict=True):
            columns.setdefault(field.name, ColumnStatistics(field.type)).add(column)
    return {name: column.told() for name, column in columns.items()}


def statistics_text(told: dict[str, Any]) -> str:
    """One line.

    >>> statistics_text({"rows": 4, "nulls": 1, "distinct": 2, "distinct_is_at_least": False,
    ...                  "of": "length", "min": 3, "mean": 4.5, "max": 6})
    '1 null, 2 distinct, length 3 to 6, mean 4.5'
    """
    parts = [f"{told['nulls']} null"]
    if "distinct" in told:
        more = "more than " if told["distinct_is_at_least"] else ""
        parts.append(f"{more}{told['distinct']} distinct")
    if "of" in told:
        least, mean, greatest = (_number(told[name]) for name in ("min", "mean", "max"))
        kind = "length " if told["of"] == "length" else ""
        parts.append(f"{kind}{least} to {greatest}, mean {mean}")
    return ", ".join(parts)


def _is_text(type_: pa.DataType) -> bool:
    return pa.types.is_string(type_) or pa.types.is_large_string(type_)


def _is_list(type_: pa.DataType) -> bool:
    return pa.types.is_list(type_) or pa.types.is_large_list(type_)


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
