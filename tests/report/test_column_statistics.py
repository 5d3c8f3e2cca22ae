"""Statistics of columns: the same in one batch or in many, equal to those of the whole column."""

from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.report import column_statistics
from iterppo.report.column_statistics import ColumnStatistics, statistics, statistics_text


def told(values: list[Any], type_: pa.DataType, *, batch: int = 3) -> dict[str, Any]:
    column = ColumnStatistics(type_)
    for start in range(0, len(values), batch):
        column.add(pa.array(values[start : start + batch], type=type_))
    return column.told()


@given(
    st.lists(st.one_of(st.none(), st.integers(-(2**31), 2**31 - 1)), max_size=30),
    st.integers(1, 7),
)
def test_numbers_are_those_of_the_whole_column(values: list[int | None], batch: int) -> None:
    known = [value for value in values if value is not None]

    found = told(values, pa.int64(), batch=batch)

    assert found["nulls"] == values.count(None)
    assert found["distinct"] == len(set(known))
    if known:
        assert (found["min"], found["max"]) == (min(known), max(known))
        assert found["mean"] == pytest.approx(sum(known) / len(known), abs=1e-6)
    else:
        assert "min" not in found


@pytest.mark.parametrize(
    ("values", "type_", "expected"),
    [
        pytest.param(
            ["ab", None, "äöü🙂", "ab"],
            pa.string(),
            {"nulls": 1, "distinct": 2, "of": "length", "min": 2, "mean": 8 / 3, "max": 4},
            id="texts by their characters",
        ),
        pytest.param(
            [[1, 2], [], None],
            pa.list_(pa.int32()),
            {"nulls": 1, "of": "length", "min": 0, "mean": 1, "max": 2},
            id="lists by their elements",
        ),
        pytest.param(
            [True, False, False, True],
            pa.bool_(),
            {"nulls": 0, "distinct": 2, "of": "value", "min": 0.0, "mean": 0.5, "max": 1.0},
            id="truth by its share",
        ),
        pytest.param(
            [float("nan"), 1.0, float("inf"), 3.0],
            pa.float64(),
            {"nulls": 0, "of": "value", "min": 1.0, "mean": 2.0, "max": 3.0},
            id="numbers that are none, left out",
        ),
        pytest.param(
            [datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 3, tzinfo=UTC)],
            pa.timestamp("us", tz="UTC"),
            {
                "nulls": 0,
                "distinct": 2,
                "of": "value",
                "min": "2026-01-01T00:00:00+00:00",
                "mean": "2026-01-02T00:00:00+00:00",
                "max": "2026-01-03T00:00:00+00:00",
            },
            id="times",
        ),
        pytest.param([], pa.string(), {"nulls": 0, "distinct": 0}, id="nothing"),
    ],
)
def test_every_type_has_its_measure(
    values: list[Any], type_: pa.DataType, expected: dict[str, Any]
) -> None:
    found = told(values, type_)

    assert {key: found.get(key) for key in expected} == expected


def test_values_beyond_what_python_or_a_float_can_hold_do_not_end_the_look() -> None:
    ids = told([2**63 - 1, 2**63 - 2], pa.int64())
    times = told([2**62], pa.timestamp("us"))

    assert (ids["distinct"], ids["max"]) == (2, 2**63)  # the nearest float
    assert times["max"] == "4.61169e+12 s since 1970"


@pytest.mark.parametrize(
    "type_",
    [pa.binary(), pa.date32(), pa.decimal128(5), pa.null(), pa.struct({"a": pa.int8()})],
    ids=str,
)
def test_a_type_without_a_measure_has_its_nulls_counted(type_: pa.DataType) -> None:
    found = told([None, None], type_)

    assert (found["rows"], found["nulls"]) == (2, 2)
    assert "min" not in found
    assert statistics_text(found).startswith("2 null")


def test_distinct_values_are_counted_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_statistics, "DISTINCT_UP_TO", 5)

    exact, beyond = (told([str(n) for n in range(number)], pa.string()) for number in (5, 50))

    assert (exact["distinct"], exact["distinct_is_at_least"]) == (5, False)
    assert (beyond["distinct"], beyond["distinct_is_at_least"]) == (5, True)
    assert "more than 5 distinct" in statistics_text(beyond)


def test_batches_of_a_table_are_told_by_column() -> None:
    table = pa.table({"a": [1, 2, 3], "b": ["x", None, "x"]})

    found = statistics(table.to_batches(max_chunksize=2))

    assert statistics_text(found["a"]) == "0 null, 3 distinct, 1 to 3, mean 2"
    assert statistics_text(found["b"]) == "1 null, 1 distinct, length 1 to 1, mean 1"
