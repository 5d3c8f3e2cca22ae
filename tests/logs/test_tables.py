"""Rows of CSV and Parquet files, and what is said of broken ones."""

import csv
import datetime
import gzip
import io
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.errors import DataError
from iterppo.logs import tables
from iterppo.logs.sources import LogFile
from iterppo.logs.tables import CsvRows, ParquetRows, layout_of

COLUMNS = {"a": True, "b": True, "c": False}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name: str, content: bytes) -> LogFile:
    Path(name).write_bytes(content)
    return LogFile(name, name)


def rows_of(content: bytes, columns: Mapping[str, bool] = COLUMNS) -> list[Any]:
    """Number, and row or reason, of a CSV file's rows."""
    rows = CsvRows(written("log.csv", content), columns)
    return [(number, str(row) if isinstance(row, DataError) else row) for number, _, row in rows]


# --- layouts -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "layout"),
    [
        pytest.param("log", b'\n {"a": 1}\n', "lines", id="JSON"),
        pytest.param("log", b"a,b\n1,2\n", "csv", id="a header with the columns"),
        pytest.param("log.txt", b"\xef\xbb\xbfx\tb\ta\n", "csv", id="a header with tabs"),
        pytest.param("log", b"a,c\n1,2\n", "lines", id="a header with other columns"),
        pytest.param("LOG.CSV", b"what it is", "csv", id="the name"),
        pytest.param("log.tsv.gz", gzip.compress(b"what it is"), "csv", id="the name, compressed"),
        pytest.param("log.gz", gzip.compress(b"b;a\n"), "csv", id="a compressed header"),
        pytest.param("log", b"PAR1...", "parquet", id="the first bytes of Parquet"),
        pytest.param("log", b"", "lines", id="nothing"),
        pytest.param("log", b"\xff\xfe\x00", "lines", id="noise"),
    ],
)
def test_the_layout_of_a_file_is_known_by(
    folder: Path, name: str, content: bytes, layout: str
) -> None:
    assert layout_of(written(name, content), {"a", "b"}) == layout


def test_a_file_that_is_not_there_has_no_layout(folder: Path) -> None:
    with pytest.raises(DataError, match=r"^absent: cannot be read \("):
        layout_of(LogFile("absent", "absent"), {"a"})


# --- CSV -----------------------------------------------------------------------------------------


def test_a_row_has_the_columns_that_are_asked_for_and_the_line_that_it_begins_in(
    folder: Path,
) -> None:
    content = b'\xef\xbb\xbfa, b ,x\r\n1,"two\r\nlines",3\r\n\r\n"say ""so""",5" pipe,\r\n'

    assert rows_of(content) == [
        (2, {"a": "1", "b": "two\r\nlines"}),
        (5, {"a": 'say "so"', "b": '5" pipe'}),
    ]


def test_a_null_as_databases_write_it_is_one(folder: Path) -> None:
    content = b'a,b\n1,\\N\n"\\N",\\None\n\\N\\N,NULL\n'

    assert [row for _, row in rows_of(content)] == [
        {"a": "1", "b": None},
        {"a": None, "b": r"\None"},
        {"a": r"\N\N", "b": "NULL"},
    ]


def test_the_word_null_is_one_where_no_text_stands(folder: Path) -> None:
    content = b"a,b\nNULL,NULL\nNone,None\nNaT,null\nNone.,NONE\n\\N,\\N\n"

    rows = CsvRows(written("log.csv", content), COLUMNS, no_texts=["a"])

    assert [row for _, _, row in rows] == [
        {"a": None, "b": "NULL"},
        {"a": None, "b": "None"},
        {"a": None, "b": "null"},
        {"a": "None.", "b": "NONE"},
        {"a": None, "b": None},
    ]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_fields_are_separated_by_what_separates_the_header(folder: Path, delimiter: str) -> None:
    content = 'b_a\n"x,;\t|y"_2\n'.replace("_", delimiter).encode()

    assert rows_of(content) == [(2, {"b": "x,;\t|y", "a": "2"})]


def test_the_raw_form_of_a_row_is_its_lines(folder: Path) -> None:
    rows = CsvRows(written("log.csv", b'a,b\r\n1,"x\ny"\r\n1,2,3\r\n'), COLUMNS)

    assert [raw for _, raw, _ in rows] == [b'1,"x\ny"', b"1,2,3"]
    assert rows.num_lines == 4


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"1,2,3", "has 3 fields, the header has 2", id="a field too many"),
        pytest.param(b"1", "has 1 fields, the header has 2", id="a field too few"),
        pytest.param(b'"1"x,2', "not CSV: ',' expected after '\"'", id="text behind a quotation"),
        pytest.param(b'1,"2', "not CSV: a quotation mark is not closed", id="an open quotation"),
        pytest.param(b"1,\xff", "not UTF-8 at byte 2", id="no UTF-8"),
        pytest.param(
            b"1\r,2", "not CSV: a carriage return outside quotation marks", id="half a line end"
        ),
    ],
)
def test_a_broken_row_costs_its_own_line_only(folder: Path, line: bytes, reason: str) -> None:
    rows = rows_of(b"a,b\n3,4\n" + line + b"\n5,6\n7,8\n")

    assert rows == [
        (2, {"a": "3", "b": "4"}),
        (3, reason),
        (4, {"a": "5", "b": "6"}),
        (5, {"a": "7", "b": "8"}),
    ]


def test_lines_that_a_broken_row_had_swallowed_are_read_again(folder: Path) -> None:
    rows = rows_of(b'a,b\n1,"open\n2,fine\n3,"whole"\n')

    assert rows == [
        (2, "not CSV: ',' expected after '\"'"),
        (3, {"a": "2", "b": "fine"}),
        (4, {"a": "3", "b": "whole"}),
    ]


def test_a_field_that_never_ends_is_not_held_in_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "MAX_FIELD_CHARACTERS", 50)
    rows = rows_of(b'a,b\n1,"' + 30 * b"x\n" + b"2,fine\n3," + 150 * b"y" + b"\n4,5\n")

    assert rows[0] == (2, "not CSV: a quotation mark is not closed")
    assert rows[-3:] == [
        (32, {"a": "2", "b": "fine"}),
        (33, "not CSV: a quotation mark is not closed"),
        (34, {"a": "4", "b": "5"}),
    ]


def test_a_message_of_200_kilobytes_and_one_with_nul_are_read(folder: Path) -> None:
    long = "ü" * 100_000

    assert rows_of(f"a,b\n{long},\0\n".encode()) == [(2, {"a": long, "b": "\0"})]


@pytest.mark.parametrize("content", [b"", b"a,b\n"], ids=["nothing", "a header"])
def test_a_file_without_rows_has_none(folder: Path, content: bytes) -> None:
    assert rows_of(content) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(
            b"a,x,y\n1,2,3\n",
            "log.csv: has no column 'b'; it has a, x, y. Name its columns in "
            "ingest.mapping.columns.",
            id="lacks a column",
        ),
        pytest.param(
            b"Thread, old;a;Body Text\n1;2;3\n",
            "log.csv: has no column 'b'; it has Thread, old, a, Body Text. Name its columns in "
            "ingest.mapping.columns.",
            id="lacks one, and separates by semicolons",
        ),
        pytest.param(
            b"x\ty\tz\n",
            "log.csv: has no columns 'a', 'b'; it has x, y, z. Name its columns in "
            "ingest.mapping.columns.",
            id="lacks several",
        ),
        pytest.param(b"a,b,b\n", "log.csv: has more than one column 'b'.", id="has one twice"),
        pytest.param(
            b'"a,b\n',
            "log.csv: line 1: no header of a CSV file: unexpected end of data",
            id="has no header",
        ),
    ],
)
def test_a_file_is_refused_that(folder: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=r"log\.csv") as raised:
        rows_of(content)

    assert str(raised.value) == reason


def test_a_truncated_file_says_so(folder: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"".join(f"{n},{n * n % 997}\n".encode() for n in range(9999)))
    rows = CsvRows(written("log.csv.gz", whole[: len(whole) // 2]), COLUMNS)

    with pytest.raises(DataError, match=r"^log\.csv\.gz: line \d+: cannot be read .* whole\?$"):
        list(rows)


FIELDS = st.text(st.sampled_from('a",;\n\r\t\0ü🙂 '), max_size=8)


@given(st.lists(st.tuples(FIELDS, FIELDS.filter(bool)), max_size=8))
def test_what_was_written_as_csv_is_read(tmp_path_factory: Any, written_rows: list[Any]) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_ALL)
    writer.writerows([("a", "b"), *written_rows])
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    path.write_bytes(text.getvalue().encode())

    rows = list(CsvRows(LogFile(str(path), str(path)), COLUMNS))

    assert [row for _, _, row in rows] == [{"a": a, "b": b} for a, b in written_rows]


@given(st.binary(max_size=60), st.lists(st.sampled_from([b'"', b",", b"\n", b"x"]), max_size=40))
def test_every_line_of_a_file_is_in_one_row(
    tmp_path_factory: Any, noise: bytes, marks: list[bytes]
) -> None:
    path = tmp_path_factory.mktemp("csv") / "log.csv"
    content = b"a,b\n" + b"".join(marks) + noise
    path.write_bytes(content)

    rows = CsvRows(LogFile(str(path), str(path)), COLUMNS)
    raws = [(number, raw) for number, raw, _ in rows]

    lines = content.removesuffix(b"\n").split(b"\n")
    assert rows.num_lines == len(lines)
    in_rows = [n + k for n, raw in raws for k in range(raw.count(b"\n") + 1)]
    assert in_rows == sorted(set(in_rows))
    blank = {n for n, line in enumerate(lines, 1) if not line.strip(b"\r")}
    assert set(range(2, rows.num_lines + 1)) - set(in_rows) <= blank


# --- Parquet -------------------------------------------------------------------------------------


def test_rows_of_parquet_are_numbered_from_one_and_their_raw_form_is_json(folder: Path) -> None:
    moment = datetime.datetime(2026, 5, 1, 10, tzinfo=datetime.UTC)
    table = pa.table(
        {
            "x": ["not", "read"],
            "b": ["ü", None],
            "a": pa.array([moment, None], pa.timestamp("ns", "UTC")),
            "c": pa.array([Decimal("1"), None], pa.decimal128(38, 0)),
        }
    )
    pq.write_table(table, "log.parquet")
    rows = ParquetRows(LogFile("log.parquet", "log.parquet"), COLUMNS)

    assert list(rows) == [
        (
            1,
            '{"b":"ü","a":"2026-05-01T10:00:00Z","c":"1"}'.encode(),
            {"b": "ü", "a": moment, "c": Decimal(1)},
        ),
        (2, b'{"b":null,"a":null,"c":null}', {"b": None, "a": None, "c": None}),
    ]
    assert rows.num_lines == 2


def test_nanoseconds_within_lists_are_read_as_well(folder: Path) -> None:
    type_ = pa.list_(pa.struct({"time": pa.timestamp("ns"), "n": pa.int64()}))
    pq.write_table(pa.table({"a": pa.array([[{"time": 1_999, "n": 3}]], type_)}), "log.parquet")

    ((_, _, row),) = ParquetRows(LogFile("log.parquet", "log.parquet"), None)

    assert row == {"a": [{"time": datetime.datetime(1970, 1, 1, 0, 0, 0, 1), "n": 3}]}


def test_a_map_is_an_object(folder: Path) -> None:
    maps = [{"product": "kitchen", "budget": None}, {}, None, [("twice", "1"), ("twice", "2")]]
    type_ = pa.map_(pa.string(), pa.string())
    pq.write_table(pa.table({"meta": pa.array(maps, type_)}), "log.parquet")

    rows = [row for _, _, row in ParquetRows(LogFile("log.parquet", "log.parquet"), None)]

    assert rows[:3] == [{"meta": each} for each in maps[:3]]
    assert str(rows[3]).startswith("holds what cannot be read: ")
    assert "duplicate key was 'twice'" in str(rows[3])


def test_a_value_that_cannot_be_read_costs_its_own_row_only(folder: Path) -> None:
    times = pa.array([0, 2**62, 1], pa.int64()).view(pa.timestamp("us"))
    texts = pa.array([b"x", b"y", b"\xff"]).view(pa.string())
    pq.write_table(pa.table({"a": times, "b": texts}), "log.parquet")

    rows = [row for _, _, row in ParquetRows(LogFile("log.parquet", "log.parquet"), COLUMNS)]

    assert rows[0] == {"a": datetime.datetime(1970, 1, 1), "b": "x"}
    assert [str(row).partition(":")[0] for row in rows[1:]] == ["holds what cannot be read"] * 2


def test_a_parquet_file_that_is_none_or_lacks_a_column_is_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"^log: cannot be read \(.*\)\. Is the file whole\?$"):
        list(ParquetRows(written("log", b"PAR1 and then noise"), COLUMNS))
    pq.write_table(pa.table({"a": [1]}), "log.parquet")
    with pytest.raises(DataError, match=r"^log\.parquet: has no column 'b'; it has a\. Name its"):
        list(ParquetRows(LogFile("log.parquet", "log.parquet"), COLUMNS))
