"""Streaming whole conversations out of an artifact, whatever its parts and row groups are."""

import itertools
import pickle
import tempfile
from pathlib import Path
from unittest import mock

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from iterppo.artifact import Artifact, ArtifactWriter, open_artifact, writing
from iterppo.config import ReturnsConfig
from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema

COLUMNS = ["conversation_id", "turn"]


def write(out: Path, lengths: list[int], rows_per_group: int) -> Artifact:
    """An artifact of conversations of these lengths; row groups end anywhere."""
    rows = [
        {"conversation_id": f"c{number}", "turn": turn, "reward": 0.0, "weight": 1.0}
        for number, length in enumerate(lengths)
        for turn in range(1, length + 1)
    ]
    table = pa.Table.from_pylist(rows, arrow_schema(ROWS["returns"]))
    with ArtifactWriter(
        out, kind="returns", stage="returns", config=ReturnsConfig(), inputs={}
    ) as writer:
        for start in range(0, len(table), rows_per_group):
            writer.write_table(table.slice(start, rows_per_group))
    return open_artifact(out, "returns")


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 12), max_size=12),
    rows_per_group=st.integers(1, 20),
    rows=st.integers(1, 20),
)
def test_tables_hold_whole_conversations_and_all_of_them_in_order(
    lengths: list[int], rows_per_group: int, rows: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        artifact = write(Path(folder, "x"), lengths, rows_per_group)

        tables = list(artifact.whole_batches(COLUMNS, rows=rows))

        expected = list(artifact.rows(COLUMNS))
    assert [row for table in tables for row in table.to_pylist()] == expected
    for table in tables:
        assert table["turn"][0].as_py() == 1
    for table in tables[:-1]:
        assert len(table) >= rows


@settings(max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 12), max_size=12),
    rows_per_group=st.integers(1, 8),
    rows_per_part=st.integers(1, 20),
)
def test_stretches_hold_whole_conversations_and_all_parts_in_order(
    lengths: list[int], rows_per_group: int, rows_per_part: int
) -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        mock.patch.object(writing, "_ROWS_PER_PART", rows_per_part),
    ):
        artifact = write(Path(folder, "x"), lengths, rows_per_group)

        stretches = pickle.loads(pickle.dumps(artifact.stretches()))

        found = [list(stretch.conversations(COLUMNS)) for stretch in stretches]
        expected = list(artifact.conversations(COLUMNS))
        tables = [table for one in stretches for table in one.whole_batches(COLUMNS)]
        rows_of_parts = [pq.read_metadata(part).num_rows for part in artifact.parts()]
    assert [part for stretch in stretches for part in stretch.parts()] == artifact.parts()
    assert [turns for stretch in found for turns in stretch] == expected
    assert sum(len(table) for table in tables) == sum(lengths)
    first_turns = [stretch[0][0]["turn"] for stretch in found if stretch]
    assert first_turns == [1] * len(first_turns)
    starts = set(itertools.accumulate(lengths))
    ends_of_parts = itertools.accumulate(rows_of_parts[:-1])
    assert len(stretches) == 1 + sum(end in starts for end in ends_of_parts)


def test_no_more_is_held_than_asked_for_but_for_the_conversation_at_the_edge(
    tmp_path: Path,
) -> None:
    artifact = write(tmp_path / "x", [7] * 300, 50)

    sizes = [len(table) for table in artifact.whole_batches(COLUMNS, rows=100)]

    assert sum(sizes) == 2100
    assert max(sizes) < 100 + 100 + 7


def test_a_conversation_longer_than_any_batch_stays_whole(tmp_path: Path) -> None:
    artifact = write(tmp_path / "x", [3, 2_000, 3], 64)

    sizes = [len(table) for table in artifact.whole_batches(COLUMNS, rows=100)]

    assert sizes == [2_003, 3]


def test_an_artifact_without_rows_has_no_batches(tmp_path: Path) -> None:
    assert list(write(tmp_path / "x", [], 1).whole_batches(COLUMNS)) == []
