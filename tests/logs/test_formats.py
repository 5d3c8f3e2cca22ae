"""Which format a file is in, and how its lines become conversations."""

import gzip
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.config import EventMapping, IngestConfig
from iterppo.errors import DataError
from iterppo.logs.event_logs import load_mapping
from iterppo.logs.formats import conversation_lines, line_parser, recognise
from iterppo.logs.records import LogConversation, parse_line
from iterppo.logs.sources import LogFile, Piece

DATA = Path(__file__).resolve().parents[1] / "data" / "logs"
AUTO = IngestConfig()


def sample(name: str) -> LogFile:
    return LogFile(name, str(DATA / name))


def said(conversation: LogConversation) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in conversation.messages]


def openai(*messages: Any, **fields: Any) -> LogConversation:
    return line_parser("openai")(json.dumps({"messages": messages, **fields}).encode())


def reason(parse: Callable[[bytes], LogConversation], line: Any) -> str:
    with pytest.raises(DataError, match=r".") as raised:
        parse(line if isinstance(line, bytes) else json.dumps(line).encode())
    assert "\n" not in str(raised.value)
    return str(raised.value)


# --- recognition ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "format_"),
    [
        ("conversations.jsonl", "conversations"),
        ("openai.jsonl", "openai"),
        ("sharegpt.jsonl", "sharegpt"),
        ("events.jsonl", "events"),
        ("events.csv", "events"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
def test_a_sample_is_recognised(tmp_path: Path, name: str, format_: str, compressed: bool) -> None:
    content = (DATA / name).read_bytes()
    path = tmp_path / "log"
    path.write_bytes(gzip.compress(content) if compressed else content)
    named = f"{name}.gz" if compressed else name

    assert recognise(LogFile(named, str(path)), AUTO) == format_


@pytest.mark.parametrize(
    ("content", "format_"),
    [
        pytest.param('\n\ufeff{"messages": [{"role": "user"}]}', "openai", id="after blanks"),
        pytest.param('{broken\n[]\n{"messages": [{"role": "agent"}]}\n'
                     '{"messages": []}\n{"messages": [3, {"role": "user"}]}',
                     "openai", id="by the first line that shows one"),
        pytest.param('{"messages": [{"role": "system"}]}', "openai", id="by a system message"),
        pytest.param('{"messages": [{"role": ["user"]}]}', "conversations", id="by nothing"),
        pytest.param('{"conversations": [{"from": "human"}]}', "sharegpt", id="by who speaks"),
        pytest.param('{"conversations": [{"by": "user"}]}', "conversations", id="by no speaker"),
        pytest.param(
            '{"conversation_id": 1, "role": 2, "content": 3}', "events", id="by a flat object"
        ),
        pytest.param('{"conversation_id": 1, "content": 3}', "conversations", id="without a role"),
        pytest.param("hello", "conversations", id="by no line at all"),
        pytest.param("", "conversations", id="in an empty file"),
    ],
)  # fmt: skip
def test_a_format_is_recognised(tmp_path: Path, content: str, format_: str) -> None:
    path = tmp_path / "log"
    path.write_bytes(content.encode())

    assert recognise(LogFile("log", str(path)), AUTO) == format_


def test_an_event_log_is_recognised_by_the_columns_of_the_mapping(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("thread;sender_type;body\n", encoding="utf-8")
    file = LogFile("log", str(path))

    assert recognise(file, AUTO) == "conversations"
    mapping = EventMapping(**load_mapping(DATA / "events.toml"))
    assert recognise(file, IngestConfig(mapping=mapping)) == "events"


@pytest.mark.parametrize(
    ("column", "format_"),
    [
        pytest.param({"messages": [[{"role": "customer", "content": "a"}]]}, "conversations",
                     id="neutral"),
        pytest.param({"messages": [[{"role": "user", "content": "a"}]]}, "openai", id="openai"),
        pytest.param({"conversations": [[{"from": "gpt", "value": "a"}]]}, "sharegpt",
                     id="sharegpt"),
        pytest.param({"content": ["a"], "messages": ["b"]}, "events", id="events"),
    ],
)  # fmt: skip
def test_a_parquet_file_is_recognised_by_its_columns(
    tmp_path: Path, column: dict[str, Any], format_: str
) -> None:
    path = tmp_path / "log.parquet"
    pq.write_table(pa.table(column), path)

    assert recognise(LogFile("log.parquet", str(path)), AUTO) == format_


def test_the_configured_format_wins() -> None:
    assert recognise(sample("openai.jsonl"), IngestConfig(format="events")) == "events"


def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(DataError, match=r"^absent\.jsonl: .*cannot be read"):
        recognise(sample("absent.jsonl"), AUTO)


# --- OpenAI --------------------------------------------------------------------------------------


def test_openai_conversations_are_read() -> None:
    first, second = map(line_parser("openai"), (DATA / "openai.jsonl").read_bytes().splitlines())
    bathrooms, hello = map(parse_line, (DATA / "conversations.jsonl").read_bytes().splitlines())

    spoken = [side for side in said(first) if side[1]]
    assert spoken == said(bathrooms)
    assert [m.time for m in first.messages if m.content] == [m.time for m in bathrooms.messages]
    assert (first.conversation_id, first.outcome, first.ignored) == ("k-1", 1, 2)
    assert first.meta == {"product": "bathroom"}
    assert said(second)[0] == said(hello)[0]
    assert said(second)[1] == ("customer", "[image]\nWrong number, sorry.")
    assert (second.outcome, second.ignored) == (0, 0)


@pytest.mark.parametrize(
    ("message", "content"),
    [
        pytest.param({"content": "a\nb"}, "a\nb", id="a text"),
        pytest.param({"content": None}, "", id="null"),
        pytest.param({"tool_calls": [{}]}, "", id="a call of a tool"),
        pytest.param({"content": None, "refusal": "no"}, "no", id="a refusal"),
        pytest.param({"content": []}, "", id="no parts"),
        pytest.param(
            {"content": [{"type": "text", "text": "a"}, {"type": "output_text", "text": "b"}, "c"]},
            "a\nb\nc",
            id="parts of text",
        ),
        pytest.param(
            {
                "content": [
                    {"type": "image_url", "image_url": {"url": "data:..."}},
                    {"type": "input_audio", "input_audio": {}},
                    {"type": "file", "file": {}},
                    {"type": "refusal", "refusal": "no"},
                    {"type": "sticker"},
                ]
            },
            "[image]\n[audio]\n[file]\nno\n[sticker]",
            id="parts of other kinds",
        ),
    ],
)
def test_the_content_of_a_message_becomes_text(message: dict[str, Any], content: str) -> None:
    assert said(openai({"role": "assistant", **message})) == [("business", content)]


@pytest.mark.parametrize("role", ["system", "developer", "tool", "function"])
def test_messages_that_no_customer_saw_are_left_out_and_counted(role: str) -> None:
    conversation = openai({"role": role, "content": 3}, {"role": "user", "content": "a"})

    assert (said(conversation), conversation.ignored) == ([("customer", "a")], 1)


def test_what_our_own_format_knows_is_read_under_its_names() -> None:
    conversation = openai(
        {"role": "user", "content": "a", "outcome": 0},
        {
            "role": "assistant",
            "content": "b",
            "suggestion": None,
            "adoption": "abstained",
            "suggestion_logprob": -1.5,
            "policy_version": "second",
            "persona": "bold",
        },
        id="c",
        outcome=True,
        unfinished=None,
        policy_version="first",
        customer_id=17,
    )

    expected = {
        "conversation_id": "c",
        "messages": [
            {"role": "customer", "content": "a", "outcome": 0},
            {
                "role": "business",
                "content": "b",
                "suggestion": None,
                "adoption": "abstained",
                "suggestion_logprob": -1.5,
                "policy_version": "second",
                "persona": "bold",
            },
        ],
        "outcome": 1,
        "policy_version": "first",
        "customer_id": "17",
    }
    assert conversation == parse_line(json.dumps(expected).encode())
    first, second = conversation.messages
    assert (first.knows_suggestion, second.knows_suggestion) == (False, True)


@pytest.mark.parametrize(
    ("fields", "identity"),
    [
        ({"conversation_id": "a", "id": "b"}, "a"),
        ({"conversation_id": None, "id": 7}, "7"),
        ({"conversation_uuid": "u", "thread_id": "t"}, "u"),
        ({"id": "", "thread_id": "t"}, "t"),
    ],
)
def test_an_id_is_found_under_its_usual_names(fields: dict[str, Any], identity: str) -> None:
    assert openai(**fields).conversation_id == identity


def test_a_conversation_without_an_id_is_named_by_what_it_says() -> None:
    one, other = openai({"role": "user", "content": "a"}), openai({"role": "user", "content": "b"})

    assert one.conversation_id == "line-aa1c6283f816c655"
    assert other.conversation_id != one.conversation_id
    line = b'{"messages": [{"role": "user", "content": "a"}]}'
    marked = line_parser("openai")(b"\xef\xbb\xbf" + line)
    assert marked.conversation_id == one.conversation_id


@pytest.mark.parametrize("name", ["time", "timestamp", "created_at", "create_time"])
def test_times_are_found_under_their_usual_names_in_any_unit(name: str) -> None:
    moment = datetime(2026, 5, 1, 10, tzinfo=UTC)
    for value in (1777629600, 1777629600000, "2026-05-01T12:00:00+02:00", None):
        (message,) = openai({"role": "user", "content": "", name: value}).messages
        assert message.time == (moment if value else None)


@pytest.mark.parametrize("name", ["meta", "metadata"])
def test_meta_may_say_that_a_conversation_is_unfinished(name: str) -> None:
    conversation = openai(**{name: {"unfinished": True, "x": 1}})

    assert (conversation.unfinished, conversation.meta["x"]) == (True, 1)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ([], "not a JSON object"),
        (b"\xff", "not UTF-8 at byte 0"),
        ({"id": "c"}, "messages: Field required"),
        ({"messages": {}}, "messages: Input should be a list"),
        ({"messages": [3]}, "messages.0: Input should be an object"),
        ({"messages": [{"content": "a"}]}, "messages.0.role: Field required"),
        (
            {"messages": [{"role": "narrator", "content": "a"}]},
            "messages.0.role: 'narrator' is no role of this format: user, assistant, system, "
            "developer, tool, function",
        ),
        ({"messages": [{"role": "user"}]}, "messages.0.content: Field required"),
        (
            {"messages": [{"role": "user", "content": ["a", 3]}]},
            "messages.0.content.1: Input should be a text, or an object with a type",
        ),
        (
            {"messages": [{"role": "user", "content": "a", "created_at": "soon"}]},
            "messages.0.created_at: 'soon' is no time in ISO 8601",
        ),
        ({"id": ["c"], "messages": []}, "conversation_id: Input should be a valid string"),
        (
            {"outcome": 0, "messages": [{"role": "user", "content": "a", "outcome": 1}]},
            "outcome: is 0, but messages.0 carries 1",
        ),
    ],
)
def test_a_line_that_cannot_be_read_is_refused_with_the_reason(line: Any, expected: str) -> None:
    assert reason(line_parser("openai"), line) == expected


def test_a_reason_names_the_message_by_its_place_in_the_line() -> None:
    system = {"role": "system", "content": "s"}
    message = {"role": "user", "content": 3}
    turn = {"from": "system", "value": "s"}

    assert reason(line_parser("openai"), {"messages": [system, system, message]}) == (
        "messages.2.content: Input should be a valid string"
    )
    assert reason(
        line_parser("sharegpt"), {"conversations": [turn, {"from": "gpt", "value": 3}]}
    ) == ("conversations.1.value: Input should be a valid string")
    half = b'{"messages": [{"role": "system"}, {"role": "user", "content": "\\ud800"}]}'
    assert "messages.1.content: " in reason(line_parser("openai"), half)
    assert "half a character at 0" in reason(line_parser("openai"), half)


# --- ShareGPT, and the neutral format ------------------------------------------------------------


def test_sharegpt_conversations_are_read() -> None:
    found = [
        line_parser("sharegpt")(line)
        for line in (DATA / "sharegpt.jsonl").read_bytes().splitlines()
    ]
    expected = [
        parse_line(line) for line in (DATA / "conversations.jsonl").read_bytes().splitlines()
    ]

    assert [said(each) for each in found] == [said(each) for each in expected]
    assert [each.conversation_id for each in found] == ["k-1", "k-2"]
    assert [(each.outcome, each.ignored) for each in found] == [(None, 1), (0, 0)]
    assert [message.outcome for message in found[0].messages] == [None, None, 1]


@pytest.mark.parametrize(
    ("speaker", "side"),
    [
        *((name, ["customer"]) for name in ("human", "user")),
        *((name, ["business"]) for name in ("gpt", "assistant", "chatgpt", "bing", "bard")),
        *((name, []) for name in ("system", "tool")),
    ],
)
def test_a_speaker_of_sharegpt_is_a_side(speaker: str, side: list[str]) -> None:
    line = json.dumps({"conversations": [{"from": speaker, "value": "a"}]}).encode()

    assert [message.role for message in line_parser("sharegpt")(line).messages] == side


def test_an_unknown_speaker_is_refused() -> None:
    assert reason(
        line_parser("sharegpt"), {"conversations": [{"from": "narrator", "value": "a"}]}
    ).startswith("conversations.0.from: 'narrator' is no role of this format: human, user, gpt")


def test_lines_of_the_neutral_format_are_its_own_readers() -> None:
    assert line_parser("conversations") is parse_line


def test_a_line_of_an_event_log_is_no_conversation() -> None:
    with pytest.raises(KeyError):
        line_parser("events")


# --- Parquet -------------------------------------------------------------------------------------


def test_conversations_in_parquet_are_read_as_lines(tmp_path: Path) -> None:
    lines = (DATA / "conversations.jsonl").read_bytes().splitlines()
    records = [msgspec.json.decode(line) for line in lines]
    for record in records:
        for message in record["messages"]:
            message["time"] = datetime.fromisoformat(message["time"])
            if message["role"] == "business":
                message.setdefault("suggestion", None)
    records[0]["unfinished"], records[1]["unfinished"] = None, True
    path = tmp_path / "log.parquet"
    pq.write_table(pa.Table.from_pylist(records + records[:1]), path)

    rows = conversation_lines(Piece(LogFile("log.parquet", str(path))))
    found = [(number, line_parser("conversations")(line)) for number, line in rows]

    assert [number for number, _ in found] == [1, 2, 3]
    assert rows.num_lines == 3
    expected = [parse_line(line) for line in lines]
    assert [said(each) for _, each in found[:2]] == [said(each) for each in expected]
    assert [[m.time for m in each.messages] for _, each in found[:2]] == [
        [m.time for m in each.messages] for each in expected
    ]
    assert [each.unfinished for _, each in found] == [None, True, None]
    assert [[m.suggestion for m in each.messages if m.role == "business"] for _, each in found] == [
        ["Yes! Shall we come for a visit?"],
        [None, "No problem."],
        ["Yes! Shall we come for a visit?"],
    ]


def test_lines_of_a_text_file_are_its_lines() -> None:
    file = sample("openai.jsonl")

    lines = (DATA / "openai.jsonl").read_bytes().splitlines()
    assert list(conversation_lines(Piece(file))) == list(enumerate(lines, 1))


# --- whatever comes ------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "messages", "conversations", "role", "from", "content", "value", "time",
                 "type", "text", "outcome", "metadata", "suggestion", "refusal"]
            ),
            inner | st.sampled_from(["user", "assistant", "human", "gpt", "text", "image_url"]),
            max_size=4,
        )
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    JSON.map(json.dumps).map(str.encode)
    | st.lists(st.fixed_dictionaries({"role": st.just("user"), "content": JSON})).map(
        lambda messages: json.dumps({"messages": messages}).encode()
    )
    | st.binary()
)
def test_any_line_is_a_conversation_or_refused(line: bytes) -> None:
    for format_ in ("openai", "sharegpt"):
        try:
            conversation = line_parser(format_)(line)
        except DataError:
            continue
        assert conversation.conversation_id
        assert msgspec.json.encode(said(conversation))
