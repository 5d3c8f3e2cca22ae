"""Lines of a log that are not taken, each with its reason."""

import pytest

from iterppo.errors import DataError
from iterppo.logs.records import parse_line
from tests.logs.lines import C1, M1, REACHED, customer, line


def reason(broken: bytes) -> str:
    with pytest.raises(DataError, match=r".") as raised:
        parse_line(broken)
    assert raised.value.exit_status == 3
    return str(raised.value)


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        pytest.param(b"", "not JSON: Expecting value: line 1 column 1 (char 0)", id="empty"),
        pytest.param(
            b'{"conversation_id": ',
            "not JSON: Expecting value: line 1 column 21 (char 20)",
            id="cut off",
        ),
        pytest.param(b'{"a": "\xff"}', "not UTF-8 at byte 7", id="not UTF-8"),
        pytest.param(b"[1]", "not a JSON object", id="a list"),
        pytest.param(b"{}", "messages: Field required", id="nothing"),
        pytest.param(b'{"messages": []}', "conversation_id: Field required", id="no id"),
        pytest.param(b'{"conversation_id": "c"}', "messages: Field required", id="no messages"),
        pytest.param(
            b'{"conversation_id": 7.5, "messages": []}',
            "conversation_id: Input should be a valid string",
            id="an id that is a fraction",
        ),
        pytest.param(
            b'{"conversation_id": "", "messages": []}',
            "conversation_id: is empty",
            id="an empty id",
        ),
        pytest.param(
            line(C1, {"role": "agent", "content": "x"}),
            "messages.1.role: Input should be 'customer' or 'business'",
            id="another role",
        ),
        pytest.param(
            line(C1, {"role": "business"}), "messages.1.content: Field required", id="no content"
        ),
        pytest.param(
            line({"role": "business", "content": None}),
            "messages.0.content: Input should be a valid string",
            id="null content",
        ),
        pytest.param(
            line(C1 | {"outcome": 2}), "messages.0.outcome: Input should be 0 or 1", id="outcome 2"
        ),
        pytest.param(
            line(C1, outcome="1"), "outcome: Input should be 0 or 1", id="outcome as text"
        ),
        pytest.param(
            line(C1 | {"time": "yesterday"}),
            "messages.0.time: Value error, Invalid isoformat string: 'yesterday'",
            id="a time in words",
        ),
        pytest.param(
            line(C1 | {"time": 1_700_000_000_000}),
            "messages.0.time: Value error, year 55840 is out of range",
            id="a time in milliseconds",
        ),
        pytest.param(
            line(C1 | {"time": True}),
            "messages.0.time: Input should be a valid datetime",
            id="a time that is true",
        ),
        pytest.param(
            line(M1 | {"adoption": "taken"}),
            "messages.0.adoption: Input should be 'verbatim', 'edited', 'influenced', "
            "'rejected', 'abstained' or "
            "'not_shown'",
            id="another adoption",
        ),
        pytest.param(
            line(C1, unfinished="maybe"),
            "unfinished: Input should be a valid boolean",
            id="unfinished in words",
        ),
        pytest.param(
            line(C1, M1 | REACHED, outcome=0),
            "outcome: is 0, but messages.1 carries 1",
            id="a contradiction",
        ),
    ],
)
def test_a_broken_line_is_refused_with_its_reason(broken: bytes, expected: str) -> None:
    assert reason(broken) == expected


def test_the_number_that_a_database_gives_is_an_id() -> None:
    assert parse_line(b'{"conversation_id": 7, "messages": []}').conversation_id == "7"


@pytest.mark.parametrize("time", ["1e20", "-1e300", "1e999", "1" + "0" * 400])
def test_a_time_that_no_calendar_has_is_refused_like_any_other_broken_value(time: str) -> None:
    broken = line(C1 | {"time": "TIME"}).replace(b'"TIME"', time.encode())

    assert reason(broken).startswith("messages.0.time: Value error, ")


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
def test_a_time_that_leaves_the_calendar_in_utc_is_refused(time: str) -> None:
    assert reason(line(C1 | {"time": time})).startswith("messages.0.time: Value error, ")


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        pytest.param(line(customer("\ud83d half an emoji")), "messages.0.content", id="content"),
        pytest.param(
            line(C1, M1 | {"suggestion": "\udc00"}), "messages.1.suggestion", id="suggestion"
        ),
        pytest.param(b'{"conversation_id": "\\ud800", "messages": []}', "conversation_id", id="id"),
        pytest.param(line(C1, persona="\ud800"), "persona", id="persona"),
    ],
)
def test_half_a_character_is_refused_since_no_parquet_can_hold_it(
    broken: bytes, where: str
) -> None:
    assert reason(broken).startswith(f"{where}: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_log_probability_that_is_no_number_is_refused(number: str) -> None:
    broken = line(C1, M1 | {"suggestion_logprob": "X"}).replace(b'"X"', number.encode())

    assert reason(broken)


def test_a_line_nested_too_deeply_is_refused() -> None:
    assert reason(b"[" * 100_000).startswith("not JSON: ")


def test_the_mark_that_windows_programs_write_before_a_file_is_passed_over() -> None:
    assert parse_line(b"\xef\xbb\xbf" + line(C1)) == parse_line(line(C1))
