"""What is read of a file of events, whatever it is written in, and what is refused."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iterppo.errors import DataError
from iterppo.logs import outcome_event_files
from iterppo.logs.outcome_event_files import (
    NO_TIME,
    EventColumns,
    hash_of,
    microseconds,
    read_events,
)
from iterppo.logs.sources import LogFile

COLUMNS = EventColumns("order", "at")
TEN = microseconds(datetime(2026, 5, 1, 10, tzinfo=UTC))
NINE_THIRTY = TEN - 30 * 60 * 1_000_000


def read(path: Path, columns: EventColumns = COLUMNS) -> list[tuple[int, int]]:
    """Hash and time of every event."""
    return [
        row
        for keys, times in read_events(LogFile(path.name, str(path)), columns)
        for row in zip(keys.tolist(), times.tolist(), strict=True)
    ]


def refusal(path: Path, columns: EventColumns = COLUMNS) -> str:
    with pytest.raises(DataError, match=r".") as raised:
        read(path, columns)
    return str(raised.value)


def parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def text(path: Path, content: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(content.encode(encoding))
    return path


def as_json(path: Path) -> Path:
    rows = [
        {"at": "2026-05-01T10:00:00Z", "order": "a-1", "items": [{"order": "no"}]},
        {"order": 17, "at": 1_777_627_800},
        {"order": "é", "at": "2026-05-01T12:00:00+02:00"},
    ]
    return text(path, "".join(json.dumps(row) + "\n\n" for row in rows))


def as_csv(path: Path) -> Path:
    return text(
        path,
        'note,order,at\r\n"two\nlines, one ""note""",a-1,2026-05-01T10:00:00Z\r\n'
        ",17,1777627800\r\nx,é,2026-05-01 12:00:00+02:00\r\n",
    )


def as_semicolons(path: Path) -> Path:
    return text(
        path,
        "at;amount, gross;order\n2026-05-01T10:00;1,5;a-1\n1777627800.0;2;17\n"
        "20260501T120000+0200;3;é\n",
        "utf-8-sig",
    )


def as_columns_under_each_other(path: Path) -> Path:
    return text(
        path,
        " note | order | at \nx|a-1| 2026-05-01T10:00:00Z\n|17| 1777627800\n"
        "|é| 2026-05-01T12:00:00+02:00\n",
    )


def as_parquet(path: Path) -> Path:
    zoned = pa.array([TEN, NINE_THIRTY, TEN], pa.timestamp("us", "Europe/Berlin"))
    return parquet(path, order=pa.array(["a-1", "17", "é"]).dictionary_encode(), at=zoned)


TEXTS = [
    pytest.param(as_json, id="JSON Lines"),
    pytest.param(as_csv, id="CSV"),
    pytest.param(as_semicolons, id="CSV as Excel writes it in Germany"),
    pytest.param(as_columns_under_each_other, id="CSV with blanks around the names"),
]
FORMATS = [*TEXTS, pytest.param(as_parquet, id="Parquet")]
EVENTS = [(hash_of("a-1"), TEN), (hash_of("17"), NINE_THIRTY), (hash_of("é"), TEN)]


@pytest.mark.parametrize("write", FORMATS)
def test_every_format_gives_the_same_events(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    assert read(write(tmp_path / "events")) == EVENTS


@pytest.mark.parametrize("write", TEXTS)
@pytest.mark.parametrize("codec", ["gzip", "zstd"])
def test_text_may_be_compressed(tmp_path: Path, write: Callable[[Path], Path], codec: str) -> None:
    plain = write(tmp_path / "events").read_bytes()
    with pa.CompressedOutputStream(tmp_path / "packed", codec) as packed:
        packed.write(plain)

    assert (tmp_path / "packed").read_bytes() != plain
    assert read(tmp_path / "packed") == EVENTS


@pytest.mark.parametrize(
    ("column", "identity"),
    [
        pytest.param(pa.array([17], pa.int16()), "17", id="an integer"),
        pytest.param(pa.array([2**63 + 1], pa.uint64()), "9223372036854775809", id="a large one"),
        pytest.param(pa.array([17.0]), "17", id="a float, as pandas makes of integers"),
        pytest.param(
            pa.array([Decimal(10**37 + 1)], pa.decimal128(38)), f"{10**37 + 1}", id="a decimal"
        ),
        pytest.param(
            pa.array([UUID(int=5).bytes], pa.uuid()),
            "00000000-0000-0000-0000-000000000005",
            id="a UUID",
        ),
        pytest.param(pa.array([" 17"]), " 17", id="text, as it is"),
    ],
)
def test_ids_that_are_no_text_are_what_the_log_has_as_text(
    tmp_path: Path, column: pa.Array, identity: str
) -> None:
    path = parquet(tmp_path / "events", order=column)

    assert read(path, EventColumns("order", None)) == [(hash_of(identity), NO_TIME)]


@pytest.mark.parametrize(
    ("column", "time"),
    [
        pytest.param(pa.array([TEN * 1000 + 999], pa.timestamp("ns")), TEN, id="nanoseconds"),
        pytest.param(pa.array([TEN // 1_000_000], pa.timestamp("s", "UTC")), TEN, id="seconds"),
        pytest.param(pa.array([date(2026, 5, 1)]), TEN - 36_000_000_000, id="a date"),
        pytest.param(pa.array([date(2026, 5, 1)], pa.date64()), TEN - 36_000_000_000, id="date64"),
        pytest.param(pa.array([1777629600]), TEN, id="an integer"),
        pytest.param(pa.array([1777629600.5]), TEN + 500_000, id="a float"),
        pytest.param(pa.array([Decimal("1777629600.5")]), TEN + 500_000, id="a decimal"),
        pytest.param(pa.array(["20260501"]), TEN - 36_000_000_000, id="a date of digits"),
        pytest.param(pa.array(["1777629600"]), TEN, id="seconds as text"),
        pytest.param(pa.array([1777629600000]), TEN, id="milliseconds"),
        pytest.param(pa.array(["2026-05-01 10:00:00 UTC"]), TEN, id="as BigQuery writes it"),
        pytest.param(pa.array([None], pa.timestamp("us")), NO_TIME, id="none"),
        pytest.param(pa.array([float("nan")]), NO_TIME, id="none, as pandas writes it"),
        pytest.param(pa.array([" "]), NO_TIME, id="blank"),
    ],
)
def test_times_may_be_written_in_many_ways(tmp_path: Path, column: pa.Array, time: int) -> None:
    path = parquet(tmp_path / "events", order=["a"], at=column)

    assert [found for _, found in read(path)] == [time]


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(pa.array(["2026-05-01 12:00"]), id="text"),
        pytest.param(pa.array([datetime(2026, 5, 1, 12)], pa.timestamp("ns")), id="timestamp"),
        pytest.param(pa.array(["2026-05-01T10:00Z"]), id="text with a zone"),
        pytest.param(pa.array([TEN], pa.timestamp("us", "UTC")), id="timestamp with a zone"),
        pytest.param(pa.array([1777629600]), id="seconds"),
    ],
)
def test_times_without_a_zone_are_in_the_one_that_is_named(
    tmp_path: Path, column: pa.Array
) -> None:
    path = parquet(tmp_path / "events", order=["a"], at=column)

    assert read(path, EventColumns("order", "at", zone=ZoneInfo("Europe/Berlin"))) == [
        (hash_of("a"), TEN)
    ]


def test_times_may_have_a_format_of_their_own(tmp_path: Path) -> None:
    path = text(tmp_path / "events", "order,at\na,01/05/2026 10h00\nb,01/05/2026 10:00\n")
    columns = EventColumns("order", "at", time_format="%d/%m/%Y %Hh%M")

    assert refusal(path, columns) == (
        "events: row 2: column 'at': '01/05/2026 10:00' is no time as %d/%m/%Y %Hh%M. Set "
        "time_format."
    )
    path.write_text(path.read_text().replace("10:00", "10h00"))
    assert [time for _, time in read(path, columns)] == [TEN, TEN]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(
            "order,at\na,2026-05-01\n,2026-05-01\n",
            "events: row 2: column 'order': an event without an id.",
            id="CSV, no id",
        ),
        pytest.param(
            "order,at\na,\\N\n\\N,2026-05-01\n",
            "events: row 2: column 'order': an event without an id.",
            id="CSV, nulls as databases write them",
        ),
        pytest.param(
            "order,at\na,NULL\nNone,2026-05-01\n",
            "events: row 2: column 'order': an event without an id.",
            id="CSV, nulls as words",
        ),
        pytest.param(
            "order,at\na,tomorrow\n",
            "events: row 1: column 'at': 'tomorrow' is no time as ISO 8601. Set time_format.",
            id="CSV, no time",
        ),
        pytest.param(
            "order,at\na,20260501100000\n",
            "events: row 1: column 'at': '20260501100000' is no time as ISO 8601. Set time_format.",
            id="CSV, a time of digits alone",
        ),
        pytest.param(
            "number;at\n1;2026-05-01\n",
            "events: no column 'order' (it has number, at). Set key_column.",
            id="CSV, no column of the id",
        ),
        pytest.param(
            "order,date\na,2026-05-01\n",
            "events: no column 'at' (it has order, date). Set time_column, or \"\" for none.",
            id="CSV, no column of the time",
        ),
        pytest.param(
            "order,at\na\n",
            "events: cannot be read as events (CSV parse error: Row #2: Expected 2 columns, got "
            "1).",
            id="CSV, a row too short",
        ),
        pytest.param(
            '\n{"order": "a", "at": 5}\n{"order": true, "at": 5}\n',
            "events: line 3: column 'order': True is no id.",
            id="JSON Lines, no id",
        ),
        pytest.param(
            '{"order": "a", "at": 5}\n{"at": 5, "number": 7}\n',
            "events: line 2: no column 'order' (it has at, number). Set key_column.",
            id="JSON Lines, no key",
        ),
        pytest.param(
            '{"order": "a", "at": [5]}',
            "events: line 1: column 'at': [5] is no time as ISO 8601. Set time_format.",
            id="JSON Lines, no time",
        ),
        pytest.param(
            '{"order": "a"}\n{"order": "b"}',
            "events: no column 'at' (no event has it). Set time_column, or \"\" for none.",
            id="JSON Lines, no time anywhere",
        ),
        pytest.param(
            '{"order": "a", "at": 5}\n{"order"\n',
            "events: line 2: Input data was truncated.",
            id="JSON Lines, half a line",
        ),
        pytest.param(
            '{"order": "a", "at": 5}\n7\n',
            "events: line 2: not a JSON object.",
            id="JSON Lines, a number",
        ),
        pytest.param(
            '[{"order": "a"}]',
            "events: is a JSON array. Write one event a line.",
            id="a JSON array",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(
    tmp_path: Path, content: str, said: str
) -> None:
    assert refusal(text(tmp_path / "events", content)) == said


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        pytest.param(
            {"order": ["a", None], "at": [5, 5]},
            "events: row 2: column 'order': an event without an id.",
            id="no id",
        ),
        pytest.param(
            {"order": [1.0, float("nan")], "at": [5, 5]},
            "events: row 2: column 'order': an event without an id.",
            id="no id, as pandas writes it",
        ),
        pytest.param(
            {"order": [17.5], "at": [5]},
            "events: row 1: column 'order': 17.5 is no id.",
            id="half an id",
        ),
        pytest.param(
            {"order": [2.0**53], "at": [5]},
            "events: row 1: column 'order': 9007199254740992.0 is no id.",
            id="an id whose last digits were lost",
        ),
        pytest.param(
            {"order": ["a", "b"], "at": pa.array([0, 2**60], pa.timestamp("us"))},
            "events: row 2: column 'at': no calendar has this time.",
            id="a time beyond the calendar",
        ),
        pytest.param(
            {"order": ["a", "b"], "at": pa.array([0, 2**60], pa.timestamp("ms"))},
            "events: row 2: column 'at': no calendar has this time.",
            id="a time beyond the calendar, in coarse units",
        ),
        pytest.param(
            {"order": ["a"]},
            "events: no column 'at' (it has order). Set time_column, or \"\" for none.",
            id="no column of the time",
        ),
    ],
)
def test_a_parquet_row_that_cannot_be_read_is_refused(
    tmp_path: Path, columns: dict[str, Any], said: str
) -> None:
    assert refusal(parquet(tmp_path / "events", **columns)) == said


def test_a_parquet_time_that_no_calendar_has_is_refused_in_every_zone(tmp_path: Path) -> None:
    path = parquet(tmp_path / "events", order=["a"], at=pa.array([2**62], pa.timestamp("us")))

    for zone in (UTC, ZoneInfo("Europe/Berlin")):
        assert refusal(path, EventColumns("order", "at", zone=zone)) == (
            "events: row 1: column 'at': no calendar has this time."
        )


@pytest.mark.parametrize("write", [as_json, as_csv], ids=["JSON Lines", "CSV"])
def test_an_event_without_a_time_is_refused_where_the_join_needs_it(
    tmp_path: Path, write: Callable[[Path], Path]
) -> None:
    path = write(tmp_path / "events")
    path.write_text(path.read_text(encoding="utf-8").replace("1777627800", '""'), encoding="utf-8")

    assert len(read(path)) == 3
    where = "line 3" if write is as_json else "row 2"
    assert refusal(path, EventColumns("order", "at", needs_time=True)) == (
        f"events: {where}: column 'at': an event without a time, which this join needs."
    )


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: gzip.compress(as_json(path).read_bytes())[:-12], id="gzip, JSON"),
        pytest.param(lambda path: gzip.compress(as_csv(path).read_bytes())[:-12], id="gzip, CSV"),
        pytest.param(lambda path: as_parquet(path).read_bytes()[:-12], id="Parquet"),
    ],
)
def test_a_file_that_was_cut_off_is_refused(
    tmp_path: Path, damage: Callable[[Path], bytes]
) -> None:
    path = tmp_path / "events"
    path.write_bytes(damage(path))

    assert refusal(path).startswith("events: ")
    assert "cannot be read" in refusal(path)


@pytest.mark.parametrize("write", FORMATS)
def test_rows_are_numbered_through_over_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Path]
) -> None:
    monkeypatch.setattr(outcome_event_files, "_ROWS_PER_BATCH", 2)
    monkeypatch.setattr(outcome_event_files, "_CSV_BLOCK_BYTES", 72)  # two rows
    path = write(tmp_path / "events")

    assert len(read(path)) == 3
    where = "line 5" if write is as_json else "row 3"
    if write is as_parquet:
        parquet(path, order=["a", "b", ""], at=[1, 2, 3])
    else:
        path.write_bytes(path.read_bytes().replace(b"\\u00e9", b" ").replace("é".encode(), b" "))
    assert refusal(path) == f"events: {where}: column 'order': an event without an id."


def test_line_breaks_within_a_csv_row_may_lie_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = "".join(f'"\n{n},\n\n{n}",o{n},{TEN // 10**6 + n}\n' for n in range(100))
    path = text(tmp_path / "events", f"note,order,at\n{rows}")

    for size_bytes in range(40, 60):
        monkeypatch.setattr(outcome_event_files, "_CSV_BLOCK_BYTES", size_bytes)
        assert read(path) == [(hash_of(f"o{n}"), TEN + n * 10**6) for n in range(100)]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["Unix", "Windows", "old Macintosh"])
def test_lines_of_a_csv_file_may_end_as_any_program_writes_them(tmp_path: Path, end: str) -> None:
    rows = ["order,at", f"a,{TEN // 10**6}", f"b,{TEN // 10**6}", ""]

    assert read(text(tmp_path / "events", end.join(rows))) == [
        (hash_of("a"), TEN),
        (hash_of("b"), TEN),
    ]


def test_a_csv_header_that_is_none_is_refused(tmp_path: Path) -> None:
    assert refusal(text(tmp_path / "events", "o" * 200_000)) == (
        "events: cannot be read as events (its first line has 200000 characters, and is no header)."
    )


def test_an_empty_file_holds_no_event(tmp_path: Path) -> None:
    assert read(text(tmp_path / "events", " \n")) == []
    assert read(text(tmp_path / "header", "order,at\n")) == []
