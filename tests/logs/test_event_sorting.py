"""Events in any order become conversations."""

import csv
import io
import json
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterppo.config import EventMapping, IngestConfig
from iterppo.errors import DataError
from iterppo.logs import event_sorting
from iterppo.logs.event_logs import Event, event_of, event_rows, load_mapping
from iterppo.logs.event_sorting import (
    EventConversation,
    EventShare,
    EventSpill,
    event_files,
    grouped_by_share,
    num_shares,
)
from iterppo.logs.records import LogConversation, parse_line
from iterppo.logs.sources import LogFile, Piece

DATA = Path(__file__).resolve().parents[1] / "data" / "logs"
START = datetime(2026, 5, 1, tzinfo=UTC)


def event(minute: float | None, content: str = "hi", **fields: Any) -> Event:
    """A message of conversation c, so many minutes after the start."""
    time = None if minute is None else START + timedelta(minutes=minute)
    known = {"conversation_id": "c", "role": "customer", "time": time, **fields}
    return Event(content=content, **known)


def conversations(folder: Path, events: Sequence[Event]) -> list[EventConversation]:
    spill = EventSpill(folder)
    for line, each in enumerate(events, 1):
        spill.add(each, 0, line)
    spill.close()
    return list(EventShare(folder).conversations())


def only(folder: Path, *events: Event) -> EventConversation:
    (found,) = conversations(folder, events)
    return found


def texts(found: EventConversation) -> list[str]:
    assert found.conversation is not None
    return texts_of(found.conversation)


def texts_of(conversation: LogConversation) -> list[str]:
    return [message.content for message in conversation.messages]


def rejected(found: EventConversation) -> list[tuple[int, str]]:
    return [(each.line, each.reason) for each in found.rejected]


def events_of(path: Path, mapping: EventMapping) -> list[Event]:
    """The messages of an event log that has no mistakes."""
    found = []
    config = IngestConfig(mapping=mapping)
    for _, _, row in event_rows(Piece(LogFile(str(path), str(path))), config):
        assert isinstance(row, dict), row
        found.append(event_of(row, mapping))
    return [each for each in found if each]


def in_order(found: Any) -> list[LogConversation]:
    return sorted(
        (each.conversation for each in found if not each.rejected),
        key=lambda conversation: conversation.conversation_id,
    )


# --- order ---------------------------------------------------------------------------------------


def test_messages_stand_in_the_order_of_their_times(tmp_path: Path) -> None:
    found = only(tmp_path, event(2, "c"), event(0, "a"), event(1.00001, "b"))

    assert texts(found) == ["a", "b", "c"]
    assert found.origins == [(0, 2), (0, 3), (0, 1)]


@pytest.mark.parametrize("minute", [1, None], ids=["of one time", "without times"])
def test_numbered_messages_stand_in_the_order_of_their_numbers(
    tmp_path: Path, minute: float | None
) -> None:
    found = only(
        tmp_path,
        event(minute, "c", message_id="m-10"),
        event(minute, "b", message_id="m-9"),
        event(minute, "a", message_id="8"),
    )

    assert texts(found) == ["a", "b", "c"]


@pytest.mark.parametrize("brought_together", [False, True], ids=["on disk", "in memory"])
def test_numbers_of_any_length_stand_in_their_order(tmp_path: Path, brought_together: bool) -> None:
    snowflakes = [175928847299117063 * 10 + last for last in (2, 3, 4)]
    ids = ["m-0", "0007", "m-8", *map(str, snowflakes), "9" * 30, f"1{'0' * 300}"]
    spill = EventSpill(tmp_path)
    for line, identity in enumerate(reversed(ids)):
        spill.add(event(1, identity, message_id=identity), 0, line)
    spill.close()
    (file,) = event_files(tmp_path)

    (found,) = EventShare(tmp_path).conversations(pq.read_table(file) if brought_together else None)

    assert texts(found) == ids


@pytest.mark.parametrize("ids", [("f3", "0a", "3c"), (None, None, None)], ids=["hashes", "none"])
def test_other_messages_of_one_time_stand_in_the_order_of_files_and_lines(
    tmp_path: Path, ids: tuple[str | None, ...]
) -> None:
    spill = EventSpill(tmp_path)
    for place in ((1, 1), (0, 12), (0, 9)):
        which = sorted([(0, 9), (0, 12), (1, 1)]).index(place)
        spill.add(event(1, str(place), message_id=ids[which]), *place)

    spill.close()
    (found,) = EventShare(tmp_path).conversations()

    assert found.origins == [(0, 9), (0, 12), (1, 1)]


def test_a_message_without_a_time_among_others_has_no_place(tmp_path: Path) -> None:
    found = only(tmp_path, event(1, "a"), event(None, "b"), event(0, "c"))

    assert texts(found) == ["c", "a"]
    assert rejected(found) == [
        (2, "time: is missing, and other messages of the conversation have one")
    ]
    assert json.loads(found.rejected[0].raw)["content"] == "b"


# --- twice ---------------------------------------------------------------------------------------


def test_a_row_that_is_there_twice_is_dropped_and_counted(tmp_path: Path) -> None:
    same = event(0, "a", message_id="x")

    found = only(tmp_path, same, event(1, "b"), same, event(1, "b"), event(1, "b", role="business"))

    assert texts(found) == ["a", "b", "b"]
    assert (found.num_copies, found.rejected) == (2, [])


def test_two_messages_with_one_id_contradict_each_other(tmp_path: Path) -> None:
    found = only(tmp_path, event(0, "a", message_id="x"), event(0, "b", message_id="x"))

    assert texts(found) == ["a"]
    assert rejected(found) == [
        (2, "message_id: 'x' was there before in the conversation, with another content")
    ]


def test_an_id_of_another_conversation_says_nothing(tmp_path: Path) -> None:
    events = [event(0, key, message_id="x", conversation_id=key) for key in "ab"]

    found = conversations(tmp_path, events)

    assert sorted(texts(one) for one in found) == [["a"], ["b"]]
    assert [one.rejected for one in found] == [[], []]


def test_without_id_and_time_the_same_words_are_said_again(tmp_path: Path) -> None:
    found = only(tmp_path, event(None, "hello?"), event(None, "hello?"))

    assert texts(found) == ["hello?", "hello?"]


# --- what a conversation has ---------------------------------------------------------------------


def test_a_conversation_has_what_its_rows_say_of_it(tmp_path: Path) -> None:
    found = only(
        tmp_path,
        event(0, unfinished=True),
        event(1, customer_id="17", policy_version="first", role="business"),
        event(2, customer_id="18", business_id="b", unfinished=False),
    )

    conversation = found.conversation
    assert conversation is not None
    assert (conversation.customer_id, conversation.business_id) == ("17", "b")
    assert (conversation.policy_version, conversation.persona) == ("first", None)
    assert conversation.unfinished is False
    assert [message.policy_version for message in conversation.messages] == [None] * 3


def test_where_the_policy_changed_within_a_conversation_every_message_keeps_its_own(
    tmp_path: Path,
) -> None:
    found = only(tmp_path, event(0, policy_version="a"), event(1), event(2, policy_version="b"))

    assert found.conversation is not None
    assert found.conversation.policy_version is None
    assert [m.policy_version for m in found.conversation.messages] == ["a", None, "b"]


def test_what_no_conversation_can_be_is_rejected_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_sorting, "MAX_MESSAGES", 3)
    events = [event(minute, conversation_id="0") for minute in range(9)]

    found = conversations(tmp_path, [*events, event(0), event(1), event(2)])

    refused = [each for one in found for each in one.rejected]
    assert sorted(each.line for each in refused) == list(range(1, 10))
    assert {each.reason for each in refused} == {
        f"conversation_id: '0' has more than 3 messages or {2**28} bytes, which no conversation has"
    }
    assert [texts(one) for one in found if one.conversation] == [["hi"] * 3]


# --- size ----------------------------------------------------------------------------------------


def test_many_small_files_sorted_in_many_shares_give_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    noise = random.Random(0)
    keys = ["a", "b\0", "b\0c", "ü🙂", *map(str, range(30))]
    said = {key: [f"{key} {n} " * noise.choice([1, 1, 900]) for n in range(20)] for key in keys}
    events = [
        event(minute, text, conversation_id=key)
        for key in keys
        for minute, text in enumerate(said[key])
    ]
    noise.shuffle(events)
    one, many = tmp_path / "one", tmp_path / "[many] *"
    one.mkdir()
    many.mkdir()
    whole = conversations(one, events)
    monkeypatch.setattr(event_sorting, "SPILL_BYTES", 40_000)
    monkeypatch.setattr(event_sorting, "SORT_BYTES", 100_000)
    spills = [EventSpill(many, "0"), EventSpill(many, "1")]
    for line, each in enumerate(events, 1):
        spills[line % 2].add(each, 0, line)
    for spill in spills:
        spill.close()
    events_of_all = [pq.read_table(file) for file in event_files(many)]
    brought_together = pa.concat_tables(events_of_all[::-1])

    assert list(EventShare(many).conversations()) == whole
    assert list(EventShare(many).conversations(brought_together)) == whole
    assert len(list(many.glob("events-*.parquet"))) > 5
    assert {each.conversation_id: texts_of(each) for each in in_order(whole)} == said


@pytest.mark.parametrize("of", [1, 3, 7])
def test_shares_have_every_conversation_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: int
) -> None:
    events = [event(n % 4, str(n), conversation_id=f"c{n // 4}") for n in range(160)]
    whole = conversations(tmp_path, events)
    monkeypatch.setattr(event_sorting, "SORT_BYTES", 2_000)
    shares = [EventShare(tmp_path, number, of) for number in range(of)]
    (file,) = event_files(tmp_path)
    grouped = pa.concat_tables(grouped_by_share(of, file))
    groups = [grouped.filter(pc.field("group") == number) for number in range(of)]

    found = [list(share.conversations()) for share in shares]

    assert [one for share in found for one in share] == whole
    assert [
        list(share.conversations(group)) for share, group in zip(shares, groups, strict=True)
    ] == found


def test_a_hash_at_the_edge_of_a_share_is_in_the_same_one_either_way(tmp_path: Path) -> None:
    edges = [2**32 * edge // 7 + step for edge in range(1, 7) for step in (-1, 0, 1)]
    conversations(tmp_path, [event(0, conversation_id=str(n)) for n in range(len(edges))])
    (file,) = event_files(tmp_path)
    pq.write_table(pq.read_table(file).set_column(0, "hash", pa.array(edges)), file)
    (grouped,) = grouped_by_share(7, file)

    found = [list(EventShare(tmp_path, number, 7).conversations()) for number in range(7)]

    assert [len(one) for one in found] == [
        grouped["group"].to_pylist().count(number) for number in range(7)
    ]


def test_a_spill_that_begins_again_replaces_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [event(n, str(n) * 5_000, conversation_id=f"c{n}") for n in range(9)]
    monkeypatch.setattr(event_sorting, "SPILL_BYTES", 1_000)
    killed = EventSpill(tmp_path, "4")
    for line, each in enumerate(events[:6], 1):
        killed.add(each, 0, line)
    killed.close()
    again = EventSpill(tmp_path, "4")
    for line, each in enumerate(events, 1):
        again.add(each, 0, line)
    again.close()

    found = list(EventShare(tmp_path).conversations())

    assert sorted(text for one in found for text in texts(one)) == sorted(
        each.content for each in events
    )


def test_shares_grow_in_number_with_the_events_and_not_with_their_order(tmp_path: Path) -> None:
    events = [event(n, "x" * n, conversation_id=f"c{n}") for n in range(50)]
    sizes = set()
    for name, chosen in (("0", events), ("1", events[::-1])):
        spill = EventSpill(tmp_path, name)
        for line, each in enumerate(chosen):
            spill.add(each, 0, line)
        sizes.add(spill.size_bytes)

    assert len(sizes) == 1
    assert [num_shares(size) for size in (0, 1, 2**27, 2**27 + 1, 2**30)] == [1, 1, 1, 2, 8]


def test_a_message_of_200_kilobytes_comes_back_whole(tmp_path: Path) -> None:
    long = "".join(chr(0x20 + n % 5_000) for n in range(100_000))

    assert texts(only(tmp_path, event(1, long), event(0), event(2, "x" * 200_000))) == [
        "hi",
        long,
        "x" * 200_000,
    ]


def test_a_conversation_of_2000_turns_is_one(tmp_path: Path) -> None:
    minutes = list(range(4_000))
    random.Random(0).shuffle(minutes)

    found = only(tmp_path, *(event(minute, str(minute)) for minute in minutes))

    assert texts(found) == [str(minute) for minute in range(4_000)]


def test_nothing_makes_no_conversation(tmp_path: Path) -> None:
    EventSpill(tmp_path).close()

    assert list(EventShare(tmp_path).conversations()) == []


def test_sorting_says_nothing_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    connect = duckdb.connect

    def with_a_progress_bar_at_once(config: dict[str, Any]) -> Any:
        connection = connect(config=config)
        connection.execute("SET progress_bar_time = 1")
        return connection

    monkeypatch.setattr(duckdb, "connect", with_a_progress_bar_at_once)
    events = [event(n, str(n), conversation_id=f"c{n % 500}") for n in range(20_000)]

    assert len(conversations(tmp_path, events)) == 500
    assert capfd.readouterr().out == ""


def test_where_there_is_no_room_to_sort_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_sorting, "SORT_MEMORY", "1KB")
    spill = EventSpill(tmp_path)
    for line in range(5_000):
        spill.add(event(line, str(line)), 0, line)
    spill.close()

    with pytest.raises(DataError, match="cannot be sorted") as raised:
        list(EventShare(tmp_path).conversations())

    assert "\n" not in str(raised.value)
    assert str(raised.value).endswith("Is the disk full, or one conversation_id on most of them?")


# --- the same conversations in every format ------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "mapping"), [("events.jsonl", {}), ("events.csv", load_mapping(DATA / "events.toml"))]
)
def test_the_samples_hold_the_same_conversations(
    tmp_path: Path, name: str, mapping: dict[str, Any]
) -> None:
    lines = (DATA / "conversations.jsonl").read_bytes().splitlines()

    found = conversations(tmp_path, events_of(DATA / name, EventMapping(**mapping)))

    assert in_order(found) == [parse_line(line) for line in lines]


TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]) | st.sampled_from('",\n\r\0🙂'), max_size=9
)
NAMES = st.text(st.sampled_from('a,"ü\n'), min_size=1, max_size=4)


@st.composite
def a_message(draw: Any, knows_suggestions: bool) -> dict[str, Any]:
    role = draw(st.sampled_from(["customer", "business"]))
    message = {"role": role, "content": draw(TEXTS)}
    message["outcome"] = draw(st.sampled_from([None, 0]))
    if knows_suggestions and role == "business":
        message["suggestion"] = draw(st.none() | TEXTS.filter(bool))
        message["adoption"] = draw(st.sampled_from([None, "edited", "abstained"]))
        message["suggestion_logprob"] = draw(st.none() | st.floats(-1e3, 0))
    return message


@st.composite
def a_log(draw: Any) -> tuple[bool, list[dict[str, Any]]]:
    """Whether it knows suggestions, and its conversations in the neutral format."""
    knows_suggestions = draw(st.booleans())
    log = []
    for key in draw(st.lists(NAMES, unique=True, max_size=4)):
        messages = draw(st.lists(a_message(knows_suggestions), min_size=1, max_size=5))
        moments = draw(
            st.lists(
                st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1)),
                min_size=len(messages),
                max_size=len(messages),
                unique=True,
            )
        )
        zone = draw(st.sampled_from(["+00:00", "+05:30", "-11:00"]))
        for message, moment in zip(messages, sorted(moments), strict=True):
            message["time"] = moment.isoformat() + zone
        log.append(
            {
                "conversation_id": key,
                "messages": messages,
                "unfinished": draw(st.none() | st.booleans()),
                "policy_version": draw(st.none() | NAMES),
                "persona": draw(st.none() | NAMES),
                "customer_id": draw(st.none() | NAMES),
                "business_id": draw(st.none() | NAMES),
            }
        )
    return knows_suggestions, log


def rows_of(log: list[dict[str, Any]], knows_suggestions: bool) -> list[dict[str, Any]]:
    """The log with a message a row."""
    of_suggestion = ("suggestion", "adoption", "suggestion_logprob") if knows_suggestions else ()
    return [
        dict.fromkeys(of_suggestion)
        | {name: value for name, value in conversation.items() if name != "messages"}
        | message
        for conversation in log
        for message in conversation["messages"]
    ]


@settings(max_examples=15)
@given(a_log(), st.randoms(use_true_random=False))
def test_a_log_gives_the_same_conversations_in_every_format(
    tmp_path_factory: Any, log: tuple[bool, list[dict[str, Any]]], noise: random.Random
) -> None:
    knows_suggestions, neutral = log
    expected = sorted(
        (parse_line(json.dumps(conversation).encode()) for conversation in neutral),
        key=lambda conversation: conversation.conversation_id,
    )
    rows = rows_of(neutral, knows_suggestions)
    noise.shuffle(rows)
    folder = tmp_path_factory.mktemp("formats")
    names = list(rows[0]) if rows else ["conversation_id", "role", "content", "time"]

    (folder / "log.jsonl").write_bytes(b"\n".join(json.dumps(row).encode() for row in rows))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(rows)
    (folder / "log.csv").write_bytes(text.getvalue().encode())
    table = pa.Table.from_pylist(rows) if rows else pa.table({name: [] for name in names})
    if rows:
        moments = [datetime.fromisoformat(row["time"]) for row in rows]
        times = pa.array(moments, pa.timestamp("us", "UTC"))
        table = table.set_column(table.column_names.index("time"), "time", times)
    pq.write_table(table, folder / "log.parquet")

    events = []
    for name in ("log.jsonl", "log.csv", "log.parquet"):
        for each in events_of(folder / name, EventMapping()):
            each.conversation_id = f"{name} {each.conversation_id}"
            events.append(each)
    found = in_order(conversations(folder, events))

    of_format: dict[str, list[LogConversation]] = {}
    for conversation in found:
        name, _, conversation.conversation_id = conversation.conversation_id.partition(" ")
        of_format.setdefault(name, []).append(conversation)
    assert list(of_format.values()) == [expected] * 3 if expected else not of_format


@settings(max_examples=15)
@given(st.data())
def test_the_order_of_events_and_files_does_not_matter(tmp_path_factory: Any, data: Any) -> None:
    """Where the times differ, or the ids are numbers."""
    events = data.draw(
        st.lists(
            st.builds(
                event,
                st.integers(0, 3),
                st.sampled_from(["a", "b"]),
                conversation_id=st.sampled_from(["c", "d"]),
                message_id=st.integers(0, 40).map(lambda number: f"m{number}"),
            ),
            max_size=12,
            unique_by=lambda each: each.message_id,
        )
    )
    again = data.draw(st.permutations(events))
    copies = data.draw(st.sampled_from([[], events[:2]]))
    one, other = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("other")
    spills = [EventSpill(other, "0"), EventSpill(other, "1")]
    for place, each in enumerate([*again, *copies]):
        spills[place % 2].add(each, 1 - place % 2, place)
    for spill in spills:
        spill.close()

    found = list(EventShare(other).conversations())

    assert in_order(found) == in_order(conversations(one, events))
    assert sum(each.num_copies for each in found) == len(copies)
    assert msgspec.json.encode(in_order(found))
