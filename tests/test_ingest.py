"""`ingest` on logs as they really are: what is in them, what is said of it, what is left behind."""

import gzip
import io
import json
import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from operator import itemgetter
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pyarrow.parquet as pq
import pytest

from iterppo.artifact import open_artifact
from iterppo.errors import DataError
from iterppo.logs import event_logs, reading, sources
from iterppo.logs.sources import Lines, LogFile, Piece, find_logs
from iterppo.rl.returns import returns_of_turns
from iterppo.stages import ingest
from tests.conftest import Command
from tests.logs import generated
from tests.logs.ingesting import Ingested, ingested

Message = dict[str, Any]


def said(role: str, content: str, **fields: Any) -> Message:
    return {"role": role, "content": content, **fields}


def customer(content: str, **fields: Any) -> Message:
    return said("customer", content, **fields)


def business(content: str, **fields: Any) -> Message:
    return said("business", content, **fields)


def line(identity: str, *messages: Message, outcome: int | None = 0, **fields: Any) -> bytes:
    """A line of the neutral format."""
    content = {"conversation_id": identity, "messages": messages, "outcome": outcome, **fields}
    return json.dumps(content).encode() + b"\n"


ONE = line("one", customer("hi"), business("hello"))
TWO = line("two", customer("hey"), business("ho"))


def ingested_in_pieces(
    folder: Path, files: Mapping[str, bytes], piece_bytes: int, **settings: Any
) -> Ingested:
    with mock.patch.object(sources, "PIECE_BYTES", piece_bytes):
        return ingested(folder, files, **settings)


# --- who speaks ----------------------------------------------------------------------------------


def test_ingest_takes_a_conversation_that_the_business_opens(tmp_path: Path) -> None:
    found = ingested(tmp_path, line("c", business("welcome"), customer("hi"), business("so?")))

    assert found.texts() == [(None, "welcome"), ("hi", "so?")]


def test_ingest_joins_a_side_that_speaks_twice_and_counts_it(tmp_path: Path) -> None:
    found = ingested(
        tmp_path, line("c", customer("a"), customer("b"), business("c"), business("d"))
    )

    assert found.texts() == [("a\nb", "c\nd")]
    assert found.counts["messages_joined"] == 2


@pytest.mark.parametrize("messages_per_group", [1, 65_536], ids=["small groups", "large groups"])
def test_ingest_counts_empty_and_one_sided_conversations_wherever_they_stand(
    messages_per_group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "_MESSAGES_PER_GROUP", messages_per_group)
    monkeypatch.setattr(reading, "_BYTES_PER_BATCH", 1)
    empty = [line("e1"), line("e2", customer(" "), business("")), line("e3")]
    one_sided = [line("s1", customer("anyone?")), line("s2", business("hello?"))]

    found = ingested(tmp_path, b"".join([empty[0], *one_sided, *empty[1:]]))

    assert found.texts() == [("anyone?", None), (None, "hello?")]
    assert found.counts["conversations"] == found.counts["lines_taken"] == 5
    assert found.counts["conversations_without_turns"] == 3
    assert found.counts["messages_blank"] == 2


# --- ids that are there before -------------------------------------------------------------------

OTHER_ONE = line("one", customer("something else"))


@pytest.mark.parametrize(
    "piece_bytes", [10**9, len(ONE), 10], ids=["one part", "a part a line", "several pieces a line"]
)
def test_ingest_takes_the_first_of_an_id_drops_copies_and_refuses_the_rest(
    piece_bytes: int, tmp_path: Path
) -> None:
    content = ONE + TWO + OTHER_ONE + ONE + TWO

    found = ingested_in_pieces(tmp_path, {"a.jsonl": content}, piece_bytes)

    assert found.texts() == [("hi", "hello"), ("hey", "ho")]
    assert found.reasons() == [(3, "conversation_id: 'one' was there before")]
    assert (found.counts["lines"], found.counts["copies"]) == (5, 2)


def test_ingest_finds_an_id_again_in_another_file(tmp_path: Path) -> None:
    files = {"a.jsonl": ONE, "b.jsonl.gz": gzip.compress(TWO + ONE), "c.jsonl": TWO + OTHER_ONE}

    found = ingested_in_pieces(tmp_path, files, 10)

    assert found.texts() == [("hi", "hello"), ("hey", "ho")]
    assert found.counts["copies"] == 2
    assert [(row["source"], row["line"]) for row in found.rejects] == [("c.jsonl", 2)]


@pytest.mark.parametrize("piece_bytes", [10**9, 10], ids=["one part", "many parts"])
@pytest.mark.parametrize(
    ("rejected", "settings", "why"),
    [
        pytest.param(
            line("one", customer("hi", time="yesterday")),
            {},
            "messages.0.time: Value error, Invalid isoformat string: 'yesterday'",
            id="for its times",
        ),
        pytest.param(
            line("one", customer("hi"), customer_id=None, business_id="b"),
            {"split_by": "customer"},
            "customer_id: is missing, and ingest.split_by = 'customer' needs it",
            id="for want of a key",
        ),
        pytest.param(
            line("one", meta={"product": "\ud83d"}),
            {"facts": ["product"]},
            "meta.product: half a character at 0",
            id="for a fact",
        ),
    ],
)
def test_an_id_that_ingest_rejected_for_itself_is_still_free(
    rejected: bytes, settings: dict[str, Any], why: str, piece_bytes: int, tmp_path: Path
) -> None:
    taken = line("one", customer("again"), customer_id="k")

    found = ingested_in_pieces(tmp_path, {"a.jsonl": rejected + taken}, piece_bytes, **settings)

    assert found.texts() == [("again", None)]
    assert found.reasons() == [(1, why)]


# --- times ---------------------------------------------------------------------------------------


def test_times_that_run_backwards_leave_the_order_of_the_log_and_are_counted(
    tmp_path: Path,
) -> None:
    early, late = "2026-05-01T10:00:00Z", "2026-05-01T11:00:00Z"
    forward = line("f", customer("a", time=late), customer("b"), business("c", time=late))
    backward = line("b", customer("a", time=late), customer("b"), business("c", time=early))
    within_a_side = line("w", customer("a", time=late), customer("b", time=early))
    after_the_outcome = line(
        "o",
        customer("a", time=late),
        business("b", outcome=1),
        business("c", time=early),
        outcome=1,
    )
    next_is_earlier = line("n", customer("a", time=early), business("b", time=early))

    found = ingested(
        tmp_path, forward + backward + within_a_side + after_the_outcome + next_is_earlier
    )

    assert found.texts() == [
        ("a\nb", "c"),
        ("a\nb", "c"),
        ("a\nb", None),
        ("a", "b"),
        ("a", "b"),
    ]
    assert found.counts["conversations_with_times_backwards"] == 2


def test_ingest_reads_times_of_several_zones_and_spellings_as_one_clock(tmp_path: Path) -> None:
    noon = datetime(2026, 5, 1, 12, tzinfo=UTC)
    times = [
        "2026-05-01T12:00:00Z", "2026-05-01T14:00:00+02:00", "2026-05-01 06:30:00-05:30",
        "2026-05-01T12:00:00", "20260501T120000Z", noon.timestamp(), int(noon.timestamp()),
    ]  # fmt: skip
    content = b"".join(line(str(n), customer("a", time=time)) for n, time in enumerate(times))

    found = ingested(tmp_path, content)

    assert [row["customer_time"] for row in found.rows] == [noon] * len(times)


# --- texts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("one\ntwo\r\nthree\u2028four\x85five\x0b", id="line breaks"),
        pytest.param("👩‍👩‍👧‍👦 ☹️ 🇩🇪", id="emoji"),
        pytest.param("a\0b\0\0", id="NUL"),
        pytest.param("\0", id="only NUL"),
        pytest.param("e\u0301 \u202eright to left \ufeff \uffff \U0010ffff", id="odd characters"),
        pytest.param('","content":"', id="what looks like JSON"),
        pytest.param("x" * 200_000 + "🙂", id="200 kB"),
    ],
)
def test_ingest_keeps_a_text_to_the_last_character(text: str, tmp_path: Path) -> None:
    messages = [customer(text), business(text, suggestion=text)]

    found = ingested(tmp_path, line("c", *messages) + TWO)

    row = found.rows[0]
    assert row["customer"] == row["sent"] == row["suggestion"] == text
    assert (row["adoption"], row["edit_distance"]) == ("verbatim", 0)
    assert len(found.rows) == 2


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        (line("c", customer("\ud83d")), "messages.0.content: "),
        (line("c\udc00"), "conversation_id: "),
        (line("c", meta={"product": ["\ud83d"]}), "meta.product: half a character at 2"),
    ],
    ids=["a text", "an id", "a fact"],
)
def test_ingest_rejects_half_a_character_that_it_would_have_to_write(
    broken: bytes, why: str, tmp_path: Path
) -> None:
    found = ingested(tmp_path, ONE + broken + TWO, facts=["product"])

    ((number, reason),) = found.reasons()
    assert number == 2
    assert reason.startswith(why)
    assert len(found.rows) == 2


def test_ingest_passes_over_half_a_character_where_it_reads_nothing(tmp_path: Path) -> None:
    found = ingested(tmp_path, line("c", customer("a"), meta={"note": "\ud83d"}, more="\ud83d"))

    assert found.texts() == [("a", None)]


def test_ingest_takes_a_conversation_of_2000_turns(tmp_path: Path) -> None:
    messages = [
        message
        for number in range(2_000)
        for message in (customer(f"c{number}"), business(f"m{number}"))
    ]

    found = ingested(tmp_path, line("c", *messages, outcome=1))

    assert [row["turn"] for row in found.rows] == list(range(1, 2_001))
    assert found.texts() == [(f"c{number}", f"m{number}") for number in range(2_000)]
    rewards = np.array([row["reward"] for row in found.rows])
    turns = np.array([row["turn"] for row in found.rows])
    returns = returns_of_turns(rewards, turns, gamma=0.99)
    assert returns.tolist() == pytest.approx([0.99 ** (1_999 - n) for n in range(2_000)])


@pytest.mark.parametrize(
    "name", ["conversation_id", "customer_id", "business_id", "policy_version", "persona"]
)
def test_a_name_that_is_a_whole_text_is_rejected_since_every_row_would_repeat_it(
    name: str, tmp_path: Path
) -> None:
    long = json.loads(line("c", customer("a"))) | {name: "x" * 1_001}
    short = json.loads(line("d", customer("b"))) | {name: "x" * 990}

    found = ingested(tmp_path, json.dumps(long).encode() + b"\n" + json.dumps(short).encode())

    assert found.texts() == [("b", None)]
    assert found.reasons() == [
        (1, f"{name}: is too long, names have up to 1000 characters together")
    ]


def test_a_fact_that_no_policy_could_read_is_rejected(tmp_path: Path) -> None:
    content = b"".join(
        line(f"{size}", customer("a"), meta={"product": "x" * size}) for size in (10_000, 10_001)
    )

    found = ingested(tmp_path, content, facts=["product"])

    assert [row["conversation_id"] for row in found.rows] == ["10000"]
    assert found.reasons() == [(2, "meta.product: is longer than 10000 characters")]


# --- lines and files -----------------------------------------------------------------------------


@pytest.fixture
def at_most_1000(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sources, reading, event_logs):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1_000)


@pytest.mark.usefixtures("at_most_1000")
@pytest.mark.parametrize("piece_bytes", [10**9, 300], ids=["one part", "many parts"])
@pytest.mark.parametrize("size", [1_000, 1_001, 1_999, 2_000, 50_000])
def test_ingest_rejects_a_line_that_is_too_long_and_goes_on_with_the_next(
    size: int, piece_bytes: int, tmp_path: Path
) -> None:
    long = line("c", customer("x")).rstrip()
    long = long.replace(b'"x"', b'"' + b"x" * (size - len(long) + 1) + b'"')
    assert len(long) == size

    found = ingested_in_pieces(tmp_path, {"a.jsonl": ONE + long + b"\n" + TWO}, piece_bytes)

    assert found.texts() == [("hi", "hello"), ("hey", "ho")]
    assert found.reasons() == [(2, "longer than 1000 bytes")]


@pytest.mark.usefixtures("at_most_1000")
@pytest.mark.parametrize("size", [996, 997])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["unix", "windows"])
def test_ingest_takes_a_line_of_just_the_largest_size_and_the_next(
    size: int, ending: bytes, tmp_path: Path
) -> None:
    long = line("c", customer("x")).rstrip()
    long = long.replace(b'"x"', b'"' + b"x" * (size - len(long) + 1) + b'"')

    found = ingested(tmp_path, long + ending + TWO)

    assert [row["conversation_id"] for row in found.rows] == ["c", "two"]


def test_every_line_up_to_the_largest_is_whole_and_none_is_lost_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 10)
    for size in range(1, 25):
        (tmp_path / "log").write_bytes(b"x" * size + b"\n" + b"next\n")
        lines = list(Lines(Piece(LogFile("log", str(tmp_path / "log")))))
        assert lines == [(1, b"x" * min(size, 10)), (2, b"next")]


def test_blanks_that_go_on_for_too_long_are_no_blank_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 10)
    (tmp_path / "log").write_bytes(b" " * 20 + b"something\n")

    assert list(Lines(Piece(LogFile("log", str(tmp_path / "log"))))) == [(1, b" " * 10)]


def test_pieces_in_the_middle_of_an_endless_line_read_no_more_than_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "_SKIPPED_AT_ONCE", 2**12)
    num_read = 0

    class Counted(io.RawIOBase):
        position = 0

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            assert whence == 0
            self.position = offset
            return offset

        def readinto(self, buffer: Any) -> int:
            nonlocal num_read
            size = max(0, min(len(buffer), 2**22 - self.position))
            buffer[:size] = b"x" * size
            self.position += size
            num_read += size
            return size

    class Endless(LogFile):
        def open(self) -> Any:
            return io.BufferedReader(Counted(), 2**12)

    for start in range(2**16, 2**22, 2**16):
        assert list(Lines(Piece(Endless("log", "log"), start, start + 2**16))) == []

    assert num_read < 2 * 2**22


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbf" + ONE + TWO, id="a mark of Windows at the beginning"),
        pytest.param(ONE + b"\xef\xbb\xbf" + TWO, id="a mark in the middle, of a file behind it"),
        pytest.param((ONE + TWO).replace(b"\n", b"\r\n"), id="carriage returns"),
        pytest.param((ONE + TWO).rstrip(), id="no line break at the end"),
        pytest.param(b"\n\n" + ONE + b" \t\r\n" + TWO + b"\n\n", id="blank lines"),
        pytest.param(ONE + TWO + b"\xef\xbb\xbf" + ONE, id="the same line with a mark"),
    ],
)
def test_ingest_takes_the_lines_of_every_system(content: bytes, tmp_path: Path) -> None:
    found = ingested(tmp_path, content)

    assert found.texts() == [("hi", "hello"), ("hey", "ho")]
    assert found.counts["lines_taken"] == 2


def test_a_copy_is_one_although_a_mark_of_windows_stands_before_it(tmp_path: Path) -> None:
    found = ingested(tmp_path, {"a.jsonl": ONE, "b.jsonl": b"\xef\xbb\xbf" + ONE + TWO})

    assert (found.counts["copies"], found.rejects) == (1, [])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param({"a": b""}, "a: no conversation in it was taken (0 rejects)", id="empty"),
        pytest.param(
            {"a": b"", "b": b"\n\n", "c": b"\xef\xbb\xbf", "d": gzip.compress(b"")},
            "a … (4 logs): no conversation in it was taken (0 rejects)",
            id="only empty ones",
        ),
        pytest.param(
            {"a": (ONE + TWO).decode().encode("utf-16")},
            "a: no conversation in it was taken (3 rejects: 2 × not JSON; 1 × not UTF-8 at byte N)",
            id="UTF-16",
        ),
        pytest.param(
            {"a": b"[" * 100_000 + b"\n" + b'{"a":' * 10_000},
            "a: no conversation in it was taken (2 rejects: 2 × not JSON)",
            id="deeply nested",
        ),
        pytest.param(
            {"a": (ONE + TWO).replace(b"\n", b"\r")},
            "a: no conversation in it was taken (1 rejects: 1 × not JSON)",
            id="carriage returns alone",
        ),
    ],
)
def test_a_log_without_a_conversation_is_refused(
    files: dict[str, bytes], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no conversation") as raised:
        ingested(tmp_path, files)

    is_empty = said.endswith("(0 rejects)")
    see = "It is empty." if is_empty else f"See: iterppo inspect {tmp_path / 'rejects'}"
    assert str(raised.value) == f"{said}. {see}"
    assert raised.value.exit_status == 3
    assert not (tmp_path / "trajectories").exists()


@pytest.mark.parametrize("depth", [100, 900, 960, 970, 980, 990, 1_000, 3_000, 100_000])
def test_nesting_of_whatever_depth_is_taken_or_rejected(depth: int, tmp_path: Path) -> None:
    deep = b"[" * depth + b"]" * depth
    contents = [
        b'{"conversation_id": "d", "messages": [], "meta": {"fact": %s}}\n' % deep,
        b'{"conversation_id": "e", "messages": [], "more": %s}\n' % deep,
        b'{"conversation_id": "f", "messages": [{"role": "customer", "content": %s}]}\n' % deep,
        b'{"conversation_id": "g", "messages": [{"role": "customer", "content": "a", '
        b'"time": %s}]}\n' % deep,
    ]

    found = ingested(tmp_path, ONE + b"".join(contents), facts=["fact"], redact=True)

    assert found.counts["lines"] == 5
    assert {number for number, _ in found.reasons()} >= {4, 5}


def test_a_file_whose_name_is_no_text_is_read_and_named(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    Path(path).write_bytes(ONE + b"broken\n")

    ingest.run(
        ingest.IngestConfig(max_reject_rate=1.0),
        logs=find_logs([str(tmp_path / "*.jsonl")], None),
        out=tmp_path / "x",
        rejects=tmp_path / "r",
    )

    (row,) = open_artifact(tmp_path / "r", "rejects").rows()
    assert row["source"] == f"{tmp_path}/caf\\xe9.jsonl"


def test_the_places_of_logs_order_them_however_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one/a.jsonl", "two/b.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "one/link.jsonl").symlink_to(tmp_path / "two/b.jsonl")
    monkeypatch.chdir(tmp_path / "one")

    for names in (
        ["../two/b.jsonl", "a.jsonl"],
        [f"{tmp_path}/*/*", "../two/b.jsonl"],
        ["link.jsonl", "../two/b.jsonl", "a.jsonl"],
    ):
        logs = find_logs(names, None)
        assert [Path(log.location).resolve().name for log in logs] == ["a.jsonl", "b.jsonl"]


# --- what is rejected ----------------------------------------------------------------------------


def test_more_rejects_than_are_allowed_end_with_3_and_the_five_commonest_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    broken = [
        *[b"{"] * 7,
        *[b"[]"] * 2,
        *[line("", customer("a"))] * 6,
        *[line(f"t{n}", customer("a"), customer("b", time=f"at {n}")) for n in range(5)],
        *[line(f"r{n}", *[customer("a")] * n, said("agent", "a")) for n in range(4)],
        *[line("one", customer(f"no {n}")) for n in range(3)],
        b"\xff",
    ]
    Path("bad.jsonl").write_bytes(ONE + b"\n".join(one.rstrip() for one in broken))

    done = command("ingest", "bad.jsonl", "--out", "x", "--max-reject-rate", "0.5")

    assert (done.status, done.stdout) == (3, "")
    assert done.stderr == (
        "iterppo: 28 of 29 lines were not taken, more than ingest.max_reject_rate = 0.5 allows: "
        "7 × not JSON; "
        "6 × conversation_id: is empty; "
        "5 × messages.N.time: Value error, Invalid isoformat string: '…'; "
        "4 × messages.N.role: Input should be 'customer' or 'business'; "
        "3 × conversation_id: '…' was there before. "
        "See: iterppo inspect x-rejects\n"
    )
    assert not Path("x").exists()
    assert open_artifact(Path("x-rejects"), "rejects").manifest.rows == 28
    assert command("ingest", "bad.jsonl", "--out", "x", "--max-reject-rate", "1").status == 0


def test_the_share_of_rejects_that_is_allowed_may_be_used_up(tmp_path: Path) -> None:
    content = TWO + b"".join(line(f"c{n}") for n in range(98))

    assert ingested(tmp_path / "a", content + b"{", max_reject_rate=0.01).counts["rejects"] == 1
    with pytest.raises(DataError, match=r"^2 of 101 lines were not taken"):
        ingested(tmp_path / "b", content + b"{\n{", max_reject_rate=0.01)


def test_a_thousand_kinds_of_reasons_are_told_apart_and_no_more(tmp_path: Path) -> None:
    content = b"\n".join(
        json.dumps({"messages": [said(f"role {n}x", "a")], "id": n}).encode() for n in range(1_100)
    )

    with pytest.raises(DataError, match=r"100 × other reasons; 1 × messages.N.role: 'role 0x' is"):
        ingested(tmp_path, content, format="openai")

    assert open_artifact(tmp_path / "rejects").manifest.rows == 1_100


def test_long_rejects_are_written_a_few_at_a_time(tmp_path: Path) -> None:
    broken = [b"{" + bytes([97 + n]) * 900_000 for n in range(12)]

    found = ingested(tmp_path, ONE + b"\n".join(broken))

    assert [row["raw"] for row in found.rejects] == [one.decode() for one in broken]
    with pq.ParquetFile(tmp_path / "rejects" / "part-00000.parquet") as file:
        assert file.num_row_groups == 3


def test_what_is_too_long_to_be_kept_is_cut_without_half_an_address(tmp_path: Path) -> None:
    head = '{"role": "agent", "text": "Zoë anna@example.com", "more": "'.encode()
    long = head + b"." * (2**20 - len(head) - 9) + b'bertha@example.com"}'

    plain = ingested(tmp_path / "a", ONE + long)
    masked = ingested(tmp_path / "b", ONE + long, redact=True)

    assert plain.rejects[0]["raw"].endswith(f".bertha@ex … ({len(long)} bytes)")
    assert masked.rejects[0]["raw"] == (
        f'{{"role": "agent", "text": "Zoë [EMAIL]", "more":  … ({len(long)} bytes)'
    )


# --- splits --------------------------------------------------------------------------------------


def opening_of(conversation: dict[str, Any]) -> str:
    spoken = [m["content"] for m in conversation["messages"] if m["content"].strip()]
    return " ".join(spoken[0].lower().split()) if spoken else ""


KEYS: dict[str, Callable[[dict[str, Any]], str]] = {
    "conversation": itemgetter("conversation_id"),
    "customer": itemgetter("customer_id"),
    "business": itemgetter("business_id"),
    "opening": opening_of,
}


def log_with_shared_openings(number: int) -> list[dict[str, Any]]:
    conversations = generated.many_conversations(number, seed=3)
    for place, one in enumerate(conversations):
        if one["messages"] and place % 3:
            openings = [" Hello ", "hello", "Good  DAY", "good day", "Hi", "Hej"]
            one["messages"][0]["content"] = openings[place % len(openings)]
    return conversations


@pytest.mark.parametrize("by", KEYS)
def test_ingest_puts_no_key_into_two_splits(by: str, tmp_path: Path) -> None:
    conversations = log_with_shared_openings(300)
    content = b"\n".join(generated.as_lines(conversations))

    found = ingested_in_pieces(
        tmp_path, {"a.jsonl": content}, 40_000, split_by=by, heldout=0.4, seed=2
    )

    key_of = {one["conversation_id"]: KEYS[by](one) for one in conversations}
    keys_of: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for row in found.rows:
        keys_of[row["split"]].add(key_of[row["conversation_id"]])
    assert keys_of["train"]
    assert keys_of["heldout"]
    assert not keys_of["train"] & keys_of["heldout"]
    num_keys = len(keys_of["train"] | keys_of["heldout"])
    num_conversations = len({row["conversation_id"] for row in found.rows})
    assert num_keys == num_conversations if by == "conversation" else num_keys < num_conversations


# What is held out today stays so in every round: Q must not be judged on what it was fitted on.
HELD_OUT = {
    "conversation": [6, 18, 26],
    "customer": [2, 8, 11],
    "business": [8, 13, 16, 18, 20, 21, 28],
    "opening": [4, 10, 16, 28],
}


@pytest.mark.parametrize("by", KEYS)
def test_a_split_is_the_same_in_every_round_and_on_every_machine(by: str, tmp_path: Path) -> None:
    conversations = log_with_shared_openings(40)
    first = b"\n".join(generated.as_lines(conversations[:30]))
    later = b"\n".join(reversed(generated.as_lines(conversations[15:])))

    in_first = ingested(tmp_path / "a", first, split_by=by, heldout=0.3)
    in_later = ingested(
        tmp_path / "b", later, split_by=by, heldout=0.3, cutoff="2026-06-01T00:00:00", idle="1d"
    )

    splits = {row["conversation_id"]: row["split"] for row in in_first.rows}
    held_out = [int(one.split("/")[1]) for one, split in splits.items() if split == "heldout"]
    assert held_out == HELD_OUT[by]
    for row in in_later.rows:
        assert row["split"] == splits.get(row["conversation_id"], row["split"])


@pytest.mark.parametrize("key", ["customer", "business"])
@pytest.mark.parametrize("value", [None, ""], ids=["null", "empty"])
def test_a_conversation_without_the_key_of_its_split_is_rejected(
    key: str, value: str | None, tmp_path: Path
) -> None:
    name = f"{key}_id"
    content = line("a", customer("x"), **{name: value}) + line("b", customer("y"), **{name: "k"})

    found = ingested(tmp_path, content, split_by=key)

    assert found.texts() == [("y", None)]
    assert found.reasons() == [(1, f"{name}: is missing, and ingest.split_by = '{key}' needs it")]
