"""`ingest` on conversations as they really are: who speaks, at what times, which texts."""

import json
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iterppo.logs import taking
from iterppo.rl.returns import returns_of_turns
from tests.logs.ingesting import ONE, TWO, ingested, line
from tests.logs.lines import business, customer

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
    monkeypatch.setattr(taking, "_MESSAGES_PER_GROUP", messages_per_group)
    monkeypatch.setattr(taking, "_BYTES_PER_BATCH", 1)
    empty = [line("e1"), line("e2", customer(" "), business("")), line("e3")]
    one_sided = [line("s1", customer("anyone?")), line("s2", business("hello?"))]

    found = ingested(tmp_path, b"".join([empty[0], *one_sided, *empty[1:]]))

    assert found.texts() == [("anyone?", None), (None, "hello?")]
    assert found.counts["conversations"] == found.counts["lines_taken"] == 5
    assert found.counts["conversations_without_turns"] == 3
    assert found.counts["messages_blank"] == 2


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


def test_facts_are_found_in_a_map_of_parquet(tmp_path: Path) -> None:
    table = pa.table(
        {
            "conversation_id": ["c"],
            "messages": [[customer("a")]],
            "meta": pa.array([{"product": "kitchen"}], pa.map_(pa.string(), pa.string())),
        }
    )
    pq.write_table(table, tmp_path / "log.parquet")

    found = ingested(
        tmp_path, {"log.parquet": (tmp_path / "log.parquet").read_bytes()}, facts=["product"]
    )

    assert [row["facts"] for row in found.rows] == ["product: kitchen"]


def test_ingest_counts_the_conversations_that_have_each_fact(tmp_path: Path) -> None:
    metas = [{"product": "bath", "note": 1}, {"product": None}, {"product": ""}, "bath", None]
    content = b"".join(line(str(n), customer("a"), meta=meta) for n, meta in enumerate(metas))

    found = ingested(tmp_path, content, facts=["product", "budget"])

    assert found.counts["conversations_with_fact.product"] == 2
    assert found.counts["conversations_with_fact.budget"] == 0
