"""Whole logs against the slow `tests.logs.reference`: rows, counts, rejects, returns."""

import csv
import io
import json
import tempfile
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterppo.config import IngestConfig
from iterppo.logs.censoring import is_censored
from iterppo.logs.conversations import Cut, TurnTable
from iterppo.logs.labelling import labellers_of
from iterppo.logs.outcomes import from_conversation, from_marks, label_all
from iterppo.logs.reading import Reader, Task
from iterppo.logs.records import parse_line
from iterppo.logs.rejects import rejected_tables
from iterppo.logs.repetitions import repeated
from iterppo.logs.sources import LogFile, pieces
from iterppo.logs.suggestions import Adoptions
from iterppo.rl.returns import returns_of_turns
from tests.logs import generated, reference
from tests.logs.ingesting import ingested
from tests.logs.reference import Log, Rules

# --- turns of a batch ----------------------------------------------------------------------------


@given(
    batch=generated.batches(), thresholds=st.sampled_from([(0.5, 0.5), (0.25, 0.75), (0.0, 1.0)])
)
def test_ingest_makes_the_turns_of_a_batch_that_the_reference_makes_one_by_one(
    batch: list[dict[str, Any]], thresholds: tuple[float, float]
) -> None:
    conversations = [parse_line(line) for line in generated.as_lines(batch)]
    table = TurnTable(Adoptions(*thresholds))
    labels = label_all(conversations, [from_marks, from_conversation])
    for conversation, label in zip(conversations, labels, strict=True):
        table.add(Cut(conversation, label, is_censored(conversation, label, None), "train"))
    rules = Rules(edited_up_to=thresholds[0], influenced_up_to=thresholds[1], heldout=0)
    expected, counts = [], Counter[str]()
    for one in batch:
        rows, counted = reference.read_conversation(one, rules)
        expected += rows
        counts += counted

    assert table.take().to_pylist() == expected
    assert +table.counts == counts


@given(
    rewards=st.lists(st.lists(st.sampled_from([0.0, 0.0, 1.0, -0.5]), min_size=1, max_size=12)),
    gamma=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
)
def test_returns_of_a_batch_are_the_sums_that_the_paper_has(
    rewards: list[list[float]], gamma: float
) -> None:
    turn_T = np.array([turn for one in rewards for turn in range(1, len(one) + 1)], dtype=np.int32)
    reward_T = np.array([reward for one in rewards for reward in one])

    found = returns_of_turns(reward_T, turn_T, gamma=gamma)

    expected = [value for one in rewards for value in reference.returns(one, gamma)]
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


# --- whole logs ----------------------------------------------------------------------------------


def read(content: bytes, config: IngestConfig, *, piece_bytes: int) -> Log:
    """What the tasks of a file make of it, in pieces of so many bytes."""
    reader = Reader(config, labellers_of(config, (), lambda outcome: lambda texts: []))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "log").write_bytes(content)
        groups = pieces([LogFile("log", str(folder / "log"))], piece_bytes=piece_bytes)
        tasks = [
            Task(
                part=folder / f"part-{number}",
                rejects=folder / f"rejects-{number}",
                pieces=tuple((piece, "conversations") for piece in group),
                first_piece=sum(map(len, groups[:number])),
            )
            for number, group in enumerate(groups)
        ]
        done = [reader.read(task) for task in tasks]
        for number, places in repeated([one.identities for one in done]).items():
            done[number] = reader.read(replace(tasks[number], repeated=places))
        log = Log()
        for task, one in zip(tasks, done, strict=True):
            log.rows += pq.read_table(task.part).to_pylist()
            log.counts += one.counts
        for table in rejected_tables(
            [piece for group in groups for piece in group],
            [number for one in done for number in one.num_lines],
            [task.rejects for task in tasks],
        ):
            log.rejects += [(row["line"], row["reason"]) for row in table.to_pylist()]
    return log


def config_of(rules: Rules) -> IngestConfig:
    """The configuration that says the same as the rules."""
    clock: dict[str, Any] = {}
    if rules.cutoff:
        clock = {"cutoff": rules.cutoff.isoformat(), "idle": f"{rules.idle.seconds}s"}
    return IngestConfig(
        **clock,
        edited_up_to=rules.edited_up_to,
        influenced_up_to=rules.influenced_up_to,
        split_by=rules.split_by,
        heldout=rules.heldout,
        seed=rules.seed,
    )


RULES = st.builds(
    Rules,
    cutoff=st.sampled_from([None, generated.NOON]),
    idle=st.just(timedelta(hours=6)),
    edited_up_to=st.just(0.3),
    influenced_up_to=st.just(0.6),
    split_by=st.sampled_from(["conversation", "opening", "customer"]),
    heldout=st.sampled_from([0.0, 0.5]),
    seed=st.integers(0, 3),
)


@settings(max_examples=60)
@given(lines=generated.log_lines(), rules=RULES, piece_bytes=st.sampled_from([200, 1_000, 10**9]))
def test_ingest_makes_of_a_log_what_the_reference_makes_in_whatever_pieces(
    lines: list[bytes], rules: Rules, piece_bytes: int
) -> None:
    expected = reference.read_log(lines, rules)

    found = read(b"\n".join(lines), config_of(rules), piece_bytes=piece_bytes)

    rejects = sorted(found.rejects)
    assert [line for line, _ in rejects] == [line for line, _ in expected.rejects]
    for (_, reason), (_, word) in zip(rejects, expected.rejects, strict=True):
        assert word in reason
    assert found.rows == expected.rows
    assert +found.counts == expected.counts


# --- every line ends somewhere, in every format --------------------------------------------------

CUTOFF = generated.NOON + timedelta(minutes=50_000)
OF_TEST = Rules(cutoff=CUTOFF, idle=timedelta(hours=6), edited_up_to=0.3, influenced_up_to=0.6)


def as_csv(rows: list[dict[str, Any]], broken: list[int]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, generated.EVENT_COLUMNS)
    writer.writeheader()
    for number, row in enumerate(rows):
        writer.writerow(row)
        if number in broken:
            text.write("too,few\r\n")
    return text.getvalue().encode()


def as_parquet(rows: list[dict[str, Any]], broken: list[int]) -> bytes:
    """Among them rows of nobody."""
    all_rows = []
    for number, row in enumerate(rows):
        all_rows.append(row)
        if number in broken:
            all_rows.append({"content": "whose?"})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(all_rows, schema=EVENT_SCHEMA), sink)
    return sink.getvalue()


EVENT_SCHEMA = pa.schema(
    [
        (name, {"outcome": pa.int64(), "unfinished": pa.bool_()}.get(name, pa.string()))
        for name in generated.EVENT_COLUMNS
    ]
)


def as_json(rows: list[dict[str, Any]], broken: list[int]) -> bytes:
    lines = []
    for number, row in enumerate(rows):
        lines.append(json.dumps(row).encode())
        if number in broken:
            lines += [b"{", b" "]
    return b"\n".join(lines)


class Written(NamedTuple):
    """A log in a file, and what is in it besides three broken lines."""

    name: str
    content: bytes
    num_lines: int
    num_copies: int
    num_messages: int
    num_of_systems: int


BROKEN_AT = [10, 40, 150]


def write_lines(conversations: list[dict[str, Any]], format_: str) -> Written:
    num_of_systems = 0
    if format_ == "conversations":
        lines = generated.as_lines(conversations)
    else:
        lines = generated.as_foreign_lines(conversations, format_)
        num_of_systems = len(conversations)
    for place in BROKEN_AT:
        lines[place:place] = [b"{", b""]
    lines += lines[:5]
    num_messages = sum(len(one["messages"]) for one in conversations) + num_of_systems
    num_lines = sum(map(bool, lines))
    return Written("a.jsonl", b"\n".join(lines), num_lines, 5, num_messages, num_of_systems)


def write_events(conversations: list[dict[str, Any]], format_: str) -> Written:
    rows = generated.as_event_rows(conversations)
    rows += rows[7:12]
    # The same message at the same time is a copy; what a system writes is passed over as it comes.
    num_copies = sum(row["role"] != "system" for row in rows[7:12])
    num_of_systems = sum(row["role"] == "system" for row in rows)
    write = {"events.jsonl": as_json, "events.csv": as_csv, "events.parquet": as_parquet}[format_]
    num_lines = len(rows) + len(BROKEN_AT)
    num_messages = len(rows) - num_copies
    content = write(rows, BROKEN_AT)
    return Written(format_, content, num_lines, num_copies, num_messages, num_of_systems)


@pytest.mark.parametrize(
    "format_",
    ["conversations", "openai", "sharegpt", "events.jsonl", "events.csv", "events.parquet"],
)
def test_every_line_that_ingest_reads_ends_in_one_place_whatever_the_format(
    format_: str, tmp_path: Path
) -> None:
    conversations = generated.many_conversations(200, seed=1)
    if format_.startswith("events"):
        conversations = [one for one in conversations if one["messages"]]
        log = write_events(conversations, format_)
    else:
        log = write_lines(conversations, format_)

    found = ingested(
        tmp_path,
        {log.name: log.content},
        cutoff=CUTOFF.isoformat(),
        idle="6h",
        edited_up_to=0.3,
        influenced_up_to=0.6,
    )

    counts = found.counts
    assert counts["rejects"] == 3
    assert (counts["lines"], counts["copies"]) == (log.num_lines, log.num_copies)
    assert counts["lines_taken"] == log.num_lines - log.num_copies - 3
    assert counts["conversations"] == len(conversations)
    assert counts["messages_ignored"] == log.num_of_systems
    assert log.num_messages == (
        counts["messages"] + counts["messages_ignored"] + counts["messages_after_cutoff"]
    )
    for name in ("after_cutoff", "cut_after_outcome", "blank", "joined"):
        assert counts[f"messages_{name}"] > 20
    expected = reference.read_log(generated.as_lines(conversations), OF_TEST).rows
    if format_.startswith("events"):  # which come in the order of a hash
        found.rows.sort(key=place_of)
        expected.sort(key=place_of)
    assert found.rows == expected


def place_of(row: dict[str, Any]) -> tuple[str, int]:
    return row["conversation_id"], row["turn"]
