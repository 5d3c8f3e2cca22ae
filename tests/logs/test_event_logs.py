"""Rows of an event log as messages, by a mapping."""

import gzip
import io
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.config import EventMapping, IngestConfig
from iterppo.errors import DataError, UsageError
from iterppo.logs.event_logs import Event, event_of, event_rows, layout_of_events, load_mapping
from iterppo.logs.sources import LogFile, Piece
from tests.logs.ingesting import ingested

DATA = Path(__file__).resolve().parents[1] / "data" / "logs"
TEN = datetime(2026, 5, 1, 10, tzinfo=UTC)
DEFAULT = EventMapping()
SAY_HOW = "; say how times are written in ingest.mapping.time_format"
ROW = {"conversation_id": "c", "role": "agent", "content": "hi", "time": "2026-05-01T10:00:00Z"}


def event(row: dict[str, Any], **mapping: Any) -> Event:
    found = event_of(row, EventMapping(**mapping))
    assert found is not None
    return found


def reason(row: dict[str, Any], **mapping: Any) -> str:
    with pytest.raises(DataError, match=r".") as raised:
        event_of(row, EventMapping(**mapping))
    assert raised.value.exit_status == 3
    return str(raised.value)


# --- values --------------------------------------------------------------------------------------


def test_a_row_under_our_own_names_needs_no_mapping() -> None:
    row = ROW | {
        "message_id": 7,
        "outcome": 1,
        "unfinished": False,
        "suggestion": "hello",
        "adoption": "edited",
        "suggestion_logprob": -3,
        "policy_version": "first",
        "persona": "bold",
        "customer_id": 5,
        "business_id": "b",
        "other": object(),
    }

    assert event(row) == Event(
        conversation_id="c",
        role="business",
        content="hi",
        time=TEN,
        message_id="7",
        outcome=1,
        unfinished=False,
        suggestion="hello",
        adoption="edited",
        suggestion_logprob=-3.0,
        policy_version="first",
        persona="bold",
        customer_id="5",
        business_id="b",
    )


def test_what_a_row_does_not_have_its_message_does_not_have() -> None:
    assert event(ROW) == Event("c", "business", "hi", TEN)
    assert event(ROW).suggestion is msgspec.UNSET


@pytest.mark.parametrize("nothing", [None, ""], ids=["null", "empty"])
def test_where_there_is_a_column_of_suggestions_nothing_means_that_none_was_made(
    nothing: Any,
) -> None:
    found = event(ROW | {"suggestion": nothing, "adoption": nothing, "outcome": nothing})

    assert (found.suggestion, found.adoption, found.outcome) == (None, None, None)


def test_a_column_that_the_mapping_names_is_there_although_an_exporter_left_out_its_null() -> None:
    assert event(ROW, columns={"suggestion": "proposal"}).suggestion is None
    assert event(ROW, columns={"outcome": "sold"}).outcome is None


def test_what_a_customers_row_says_of_suggestions_is_passed_over() -> None:
    row = ROW | {"role": "user", "suggestion": "x", "adoption": "edited", "suggestion_logprob": -1}

    assert event(row) == Event("c", "customer", "hi", TEN)


@pytest.mark.parametrize(
    ("value", "roles", "side"),
    [
        pytest.param("Customer", None, "customer", id="ours, in another case"),
        pytest.param("SYSTEM", None, None, id="one that is ignored"),
        pytest.param("visitor", {"Visitor": "customer"}, "customer", id="theirs, in another case"),
        pytest.param(1, {"1": "business"}, "business", id="a number"),
        pytest.param(1.0, {"1": "business"}, "business", id="a number with nulls beside it"),
        pytest.param(Decimal("1"), {"1": "business"}, "business", id="a decimal"),
        pytest.param(True, {"true": "business"}, "business", id="a truth value"),
    ],
)
def test_a_role_is_read_as_the_mapping_says(value: Any, roles: Any, side: str | None) -> None:
    mapping = EventMapping(**({"roles": roles} if roles else {}))

    found = event_of(ROW | {"role": value}, mapping)

    assert (found.role if found else None) == side


def test_of_a_row_whose_role_is_ignored_nothing_else_is_read() -> None:
    assert event_of({"role": "system", "content": 3}, DEFAULT) is None


@pytest.mark.parametrize(
    ("value", "key"),
    [
        pytest.param(17, "17", id="an integer"),
        pytest.param(17.0, "17", id="an integer with nulls beside it"),
        pytest.param(Decimal("9" * 38), "9" * 38, id="a decimal of 38 digits"),
        pytest.param(UUID(int=1), "00000000-0000-0000-0000-000000000001", id="a UUID"),
        pytest.param("ü".encode(), "ü", id="bytes"),
        pytest.param(" c ", " c ", id="a text with blanks"),
    ],
)
def test_an_id_is_a_text(value: Any, key: str) -> None:
    assert event(ROW | {"conversation_id": value}).conversation_id == key


@pytest.mark.parametrize(
    ("value", "outcome"),
    [
        *((value, 1) for value in (1, 1.0, True, Decimal("1.00"), "1", "1.0", "TRUE", "t", "yes")),
        *((value, 0) for value in (0, 0.0, False, "0", " false ", "F", "no")),
        *((value, None) for value in (None, "", float("nan"))),
    ],
)
def test_an_outcome_is_read_in_the_forms_that_it_has_in_files(value: Any, outcome: Any) -> None:
    found = event(ROW | {"outcome": value, "unfinished": value})

    assert found.outcome == outcome
    assert found.unfinished is (None if outcome is None else outcome == 1)


@pytest.mark.parametrize(
    ("value", "adoption"),
    [
        pytest.param("Abstained ", "abstained", id="ours, in another case"),
        pytest.param("SENT AS IS", "verbatim", id="theirs, in another case"),
        pytest.param(2, "rejected", id="a number"),
    ],
)
def test_an_adoption_is_read_as_the_mapping_says(value: Any, adoption: str) -> None:
    theirs = {"sent as is": "verbatim", "2": "rejected"}

    assert event(ROW | {"adoption": value}, adoptions=theirs).adoption == adoption


@pytest.mark.parametrize("value", ["-9.1", -9.1, Decimal("-9.1")], ids=["text", "float", "decimal"])
def test_a_log_probability_is_a_number(value: Any) -> None:
    assert event(ROW | {"suggestion_logprob": value}).suggestion_logprob == -9.1
    assert event(ROW | {"suggestion_logprob": float("nan")}).suggestion_logprob is None


@pytest.mark.parametrize(
    ("value", "mapping"),
    [
        pytest.param(TEN, {}, id="a timestamp of Parquet"),
        pytest.param(TEN.replace(tzinfo=None), {}, id="one without a zone"),
        pytest.param("1777629600000", {"time_format": "ms"}, id="milliseconds"),
        pytest.param(
            "01.05.2026 12:00",
            {"time_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"},
            id="a pattern and a zone",
        ),
    ],
)
def test_a_time_is_read_as_the_mapping_says(value: Any, mapping: Any) -> None:
    assert event(ROW | {"time": value}, **mapping).time == TEN


def test_a_day_is_its_first_moment() -> None:
    assert event(ROW | {"time": date(2026, 5, 1)}).time == datetime(2026, 5, 1, tzinfo=UTC)


@pytest.mark.parametrize("name", ["timestamp", "created_at", "create_time"])
def test_a_time_is_found_under_its_usual_names(name: str) -> None:
    row = {"conversation_id": "c", "role": "user", "content": "", name: 1777629600}

    assert event(row).time == TEN
    assert event(row, columns={"time": "when"}).time is None


def test_a_log_without_times_has_to_say_so() -> None:
    row = {"conversation_id": "c", "role": "user", "content": "hi", "sent_at": "2026-05-01"}

    assert reason(row) == "time: is missing; name its column in the mapping, or none: time = ''"
    assert event(row, columns={"time": ""}).time is None


@pytest.mark.parametrize("row", [ROW, ROW | {"": "x"}], ids=["no such name", "an empty name"])
def test_a_column_that_the_mapping_calls_nothing_is_not_there(row: dict[str, Any]) -> None:
    columns = dict.fromkeys(("suggestion", "adoption", "outcome", "customer_id"), "")

    found = event(row, columns=columns)

    assert found.suggestion is found.adoption is msgspec.UNSET
    assert found.outcome is found.customer_id is None


@pytest.mark.parametrize("empty", [None, ""], ids=["null", "empty"])
def test_a_message_may_be_empty(empty: Any) -> None:
    assert event(ROW | {"content": empty}).content == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"conversation_id": None}, "conversation_id: is missing"),
        ({"conversation_id": ""}, "conversation_id: is missing"),
        ({"conversation_id": True}, "conversation_id: True is no text"),
        ({"conversation_id": 1.5}, "conversation_id: 1.5 is no text"),
        ({"role": None}, "role: is missing"),
        (
            {"role": "narrator"},
            "role: 'narrator' is no role of the mapping: customer, user, business, agent, "
            "assistant, system",
        ),
        ({"content": 3}, "content: 3 is no text"),
        ({"content": b"\xff"}, "content: is not UTF-8 at byte 0"),
        ({"content": "a\ud800"}, "content: half a character at 1"),
        ({"time": "soon"}, f"time: 'soon' is no time in ISO 8601{SAY_HOW}"),
        (
            {"time": "20260501100000"},
            f"time: '20260501100000' is a number of no known unit{SAY_HOW}",
        ),
        ({"time": []}, "time: [] is no time"),
        ({"outcome": 2}, "outcome: 2 is neither 0 nor 1, neither true nor false"),
        ({"outcome": "bought"}, "outcome: 'bought' is neither 0 nor 1, neither true nor false"),
        ({"unfinished": []}, "unfinished: [] is neither 0 nor 1, neither true nor false"),
        ({"suggestion": 3}, "suggestion: 3 is no text"),
        (
            {"adoption": "used"},
            "adoption: 'used' is none of taken, verbatim, edited, influenced, rejected, abstained, "
            "not_shown",
        ),
        ({"suggestion_logprob": "low"}, "suggestion_logprob: 'low' is no number"),
        ({"suggestion_logprob": True}, "suggestion_logprob: True is no number"),
        ({"suggestion_logprob": "-inf"}, "suggestion_logprob: '-inf' is not finite"),
    ],
)
def test_a_value_that_is_none_is_refused_with_its_column(change: Any, said: str) -> None:
    assert reason(ROW | change, adoptions={"taken": "verbatim"}) == said


def test_a_reason_names_the_column_as_the_file_does() -> None:
    columns = {"conversation_id": "thread", "content": "body", "role": "who", "time": "at"}

    assert reason({}, columns=columns) == "who: is missing"
    assert reason({"who": "user"}, columns=columns) == "thread: is missing"
    assert reason({"who": "user", "thread": 1}, columns=columns) == "body: is missing"
    assert reason({"who": "user", "thread": 1, "body": "", "at": "x"}, columns=columns) == (
        f"at: 'x' is no time in ISO 8601{SAY_HOW}"
    )


@pytest.mark.parametrize(
    ("value", "time_format", "said"),
    [
        ("2026-05-01", "%d/%m/%Y", "'2026-05-01' does not match '%d/%m/%Y'"),
        ("soon", "ms", "'soon' is no number of ms since 1970"),
        (1777629600000, "s", "1777629600000 is outside every calendar"),
    ],
)
def test_a_time_in_another_format_than_the_mapping_names_is_refused_with_the_setting(
    value: Any, time_format: str, said: str
) -> None:
    assert reason(ROW | {"time": value}, time_format=time_format) == f"time: {said}{SAY_HOW}"


def test_a_wrong_setting_is_not_the_rows_fault() -> None:
    for wrong in (EventMapping(time_format="ISO"), EventMapping(time_zone="Nowhere")):
        with pytest.raises(UsageError, match=r"^ingest\.mapping\.time_"):
            event_of(ROW, wrong)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=3,
)


@given(
    st.dictionaries(st.sampled_from([*Event.__struct_fields__]), VALUES),
    st.sampled_from(["iso", "ms", "%Y"]),
)
def test_any_row_is_a_message_or_refused(change: dict[str, Any], time_format: str) -> None:
    try:
        found = event_of(ROW | change, EventMapping(time_format=time_format))
    except DataError:
        return
    assert found is not None
    assert msgspec.convert(msgspec.to_builtins(found), Event) == found


# --- files ---------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(name: str, content: bytes) -> LogFile:
    Path(name).write_bytes(content)
    return LogFile(name, name)


def zstd(content: bytes) -> bytes:
    return bytes(pa.Codec("zstd").compress(content, asbytes=True))


CSV = b"conversation_id,role,content,time,other\nc,agent,hi,2026-05-01T10:00:00Z,x\n"
JSON = json.dumps(ROW | {"other": "x"}).encode() + b"\n"


def parquet() -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([ROW | {"time": TEN, "other": "x"}]), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "number"),
    [
        pytest.param("log.jsonl", JSON, 1, id="JSON Lines"),
        pytest.param("log.jsonl.gz", gzip.compress(b"\n" + JSON), 2, id="JSON Lines in gzip"),
        pytest.param("log.csv", CSV, 2, id="CSV"),
        pytest.param("log.csv.gz", gzip.compress(CSV), 2, id="CSV in gzip"),
        pytest.param("log.csv.zst", zstd(CSV), 2, id="CSV in zstd"),
        pytest.param("log", CSV.replace(b",", b"\t"), 2, id="tabs, without a name"),
        pytest.param("log.parquet", parquet(), 1, id="Parquet"),
    ],
)
def test_rows_are_read_from(folder: Path, name: str, content: bytes, number: int) -> None:
    rows = event_rows(Piece(written(name, content)), IngestConfig())

    ((found_number, raw, row),) = rows
    assert isinstance(row, dict)
    assert event_of(row, DEFAULT) == Event("c", "business", "hi", TEN)
    assert (found_number, rows.num_lines) == (number, number)
    assert b"hi" in raw


@pytest.mark.parametrize("word", ["NULL", "None", "nan", "<NA>"])
def test_the_word_null_in_csv_is_one_but_where_somebody_may_have_said_it(
    folder: Path, word: str
) -> None:
    columns = Event.__struct_fields__
    fields = dict.fromkeys(columns, word) | {"conversation_id": "c", "role": "agent"}
    content = f"{','.join(columns)}\n{','.join(fields.values())}\n".encode()

    ((_, _, row),) = event_rows(Piece(written("log.csv", content)), IngestConfig())

    assert isinstance(row, dict)
    assert event_of(row, DEFAULT) == Event(
        "c", "business", word, suggestion=word, adoption=None, outcome=None
    )


def test_the_word_null_in_csv_is_no_id(folder: Path) -> None:
    content = b"thread,role,content,time\nNULL,agent,hi,\n"
    mapping = EventMapping(columns={"conversation_id": "thread"})

    ((_, _, row),) = event_rows(Piece(written("log.csv", content)), IngestConfig(mapping=mapping))

    assert isinstance(row, dict)
    assert reason(row, columns=mapping.columns) == "thread: is missing"


def test_the_word_null_in_csv_means_what_the_mapping_says(folder: Path) -> None:
    content = b"conversation_id,role,content,time,adoption\nc,None,hi,,none\nc,None,hi,,None\n"
    mapping = EventMapping(roles={"None": "business"}, adoptions={"none": "not_shown"})

    rows = event_rows(Piece(written("log.csv", content)), IngestConfig(mapping=mapping))

    for _, _, row in rows:
        assert isinstance(row, dict)
        found = event_of(row, mapping)
        assert found is not None
        assert (found.role, found.adoption) == ("business", "not_shown")


def test_the_word_null_in_a_row_of_json_is_a_word(folder: Path) -> None:
    content = json.dumps(ROW | {"customer_id": "None"}).encode()

    ((_, _, row),) = event_rows(Piece(written("log.jsonl", content)), IngestConfig())

    assert isinstance(row, dict)
    assert event(row).customer_id == "None"


def test_suggestions_that_are_the_word_null_are_counted(folder: Path) -> None:
    rows = [f"c,{role},hi,2026-05-01T10:0{n}:00Z,None" for n, role in enumerate(["user", "agent"])]
    content = "\n".join(["conversation_id,role,content,time,suggestion", *rows]).encode()

    found = ingested(folder, {"log.csv": content})

    assert [row["suggestion"] for row in found.rows] == ["None"]
    assert found.counts["suggestions_like_null"] == 1


def test_pieces_of_json_lines_hold_every_row_once(folder: Path) -> None:
    lines = [json.dumps(ROW | {"message_id": n}).encode() for n in range(20)]
    file = written("log.jsonl", b"\n".join(lines))
    size = file.size_bytes()
    cuts = [0, 70, 71, 500, size]

    read = [
        row["message_id"]
        for start, end in pairwise(cuts)
        for _, _, row in event_rows(Piece(file, start, end), IngestConfig())
        if isinstance(row, dict)
    ]

    assert read == list(range(20))


def test_a_line_that_is_no_row_is_said_to_be_none(folder: Path) -> None:
    content = b'\xef\xbb\xbf{"a": 1}\n[]\n{"a": \n\xff\n{"a": "\\ud800"}\n'
    rows = event_rows(Piece(written("log.jsonl", content)), IngestConfig(format="events"))

    said = [str(row) if isinstance(row, DataError) else row for _, _, row in rows]

    assert said[:2] == [{"a": 1}, "not a JSON object"]
    assert str(said[2]).startswith("not JSON: ")
    assert said[3:] == ["not UTF-8 at byte 0", {"a": "\ud800"}]


@pytest.mark.parametrize(
    ("name", "layout"),
    [("events.jsonl", "lines"), ("events.csv", "csv"), ("conversations.jsonl", "lines")],
)
def test_only_lines_can_be_cut_into_pieces(name: str, layout: str) -> None:
    path = str(DATA / name)

    assert layout_of_events(LogFile(path, path), DEFAULT) == layout


def test_a_table_without_a_column_that_the_mapping_names_is_refused(folder: Path) -> None:
    mapping = EventMapping(columns={"suggestion": "proposal", "time": ""})
    with pytest.raises(DataError, match=r"^log\.csv: has no column 'proposal'; it has conv"):
        list(event_rows(Piece(written("log.csv", CSV)), IngestConfig(mapping=mapping)))


# --- the mapping file ----------------------------------------------------------------------------


def test_a_mapping_file_holds_the_settings_of_the_mapping() -> None:
    mapping = EventMapping(**load_mapping(DATA / "events.toml"))

    assert mapping.columns["conversation_id"] == "thread"
    assert mapping.roles == {"visitor": "customer", "staff": "business", "bot": "ignore"}
    assert (mapping.time_format, mapping.time_zone) == ("%d/%m/%Y %H:%M:%S", "Europe/Berlin")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("colums = {}", "unknown key colums. Did you mean 'columns'?", id="a key"),
        pytest.param(
            "[columns]\ncontnet = 'x'",
            "unknown key columns.contnet. Did you mean 'content'?",
            id="a column",
        ),
        pytest.param(
            "[columns]\ncontent = 3",
            "columns.content: Input should be a valid string, is 3.",
            id="a name that is none",
        ),
        pytest.param(
            "[columns]\ncontent = ''",
            "columns: content = '' names no column; write what yours is called.",
            id="no column where one is needed",
        ),
        pytest.param(
            "[roles]\nbot = 'machine'",
            "roles.bot: Input should be 'customer', 'business' or 'ignore', is 'machine'.",
            id="a role",
        ),
        pytest.param(
            "time_format = 'ISO'",
            "time_format: 'ISO' is none; write iso, s, ms, us, ns, or a pattern such as "
            "'%d/%m/%Y %H:%M:%S'.",
            id="a format of times",
        ),
        pytest.param(
            "time_zone = 'Berlin'",
            "time_zone: 'Berlin' is none that this machine knows. Write it as Europe/Berlin; where "
            "it is one, install the package tzdata.",
            id="a zone",
        ),
        pytest.param("[columns", "Expected ']' at the end of a table declaration", id="TOML"),
    ],
)
def test_a_mistake_in_a_mapping_file_is_named(folder: Path, text: str, said: str) -> None:
    Path("map.toml").write_text(text, encoding="utf-8")

    with pytest.raises(UsageError, match=r"^map\.toml: ") as raised:
        load_mapping(Path("map.toml"))

    assert str(raised.value).startswith(f"map.toml: {said}")
    assert "\n" not in str(raised.value)


def test_a_mapping_file_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(UsageError, match="no such") as raised:
        load_mapping(Path("map.toml"))

    assert str(raised.value) == "map.toml: no such mapping file. Check --mapping."
