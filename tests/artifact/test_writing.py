"""What is written as an artifact comes back: rows in order, manifest, and the same bytes again."""

import json
from pathlib import Path

import pytest

import iterppo
from iterppo import artifact
from iterppo.artifact import MANIFEST, ArtifactWriter, open_artifact, read_manifest
from iterppo.config import IngestConfig
from tests.artifact.made import CONFIG, LOG, contents, lines_of, names, reject, write
from tests.conftest import Command


def test_rows_come_back_in_order(folder: Path) -> None:
    made = write(Path("x"), [reject(line) for line in range(20_000)])

    assert lines_of(Path("x")) == list(range(20_000))
    assert made.manifest.rows == 20_000
    assert names(folder) == ["x"]
    assert names(folder / "x") == [MANIFEST, "part-00000.parquet"]


def test_an_artifact_without_rows_still_has_its_columns(folder: Path) -> None:
    made = write(Path("x"), [])

    assert made.manifest.rows == 0
    assert list(made.rows()) == []
    assert [batch.schema.names for batch in made.batches()] in (
        [],
        [["source", "line", "reason", "raw"]],
    )
    assert [part.name for part in made.parts()] == ["part-00000.parquet"]


def test_an_empty_folder_is_taken_as_the_place_of_the_artifact(folder: Path) -> None:
    Path("deep/x").mkdir(parents=True)

    write(Path("deep/x"), [reject(1)])

    assert names(folder / "deep") == ["x"]


def test_the_manifest_tells_what_made_the_artifact_and_from_what(folder: Path) -> None:
    with ArtifactWriter(
        Path("x"), kind="rejects", stage="ingest", config=IngestConfig(seed=5), inputs=LOG
    ) as writer:
        writer.write([reject(1)])
        writer.count("lines", 7)
        writer.count("lines")
        writer.metrics["share"] = 0.5
        writer.write_json("notes.json", {"a": 1})

    found = read_manifest(Path("x"), "rejects")
    assert found == writer.manifest
    assert (found.kind, found.version, found.stage, found.seed, found.rows) == (
        "rejects",
        1,
        "ingest",
        5,
        1,
    )
    assert found.config == IngestConfig(seed=5).model_dump(mode="json")
    assert (found.config["seed"], found.config["heldout"]) == (5, 0.2)
    assert found.counts == {"lines": 8}
    assert found.metrics == {"share": 0.5}
    assert found.inputs == LOG
    assert sorted(found.files) == ["notes.json", "part-00000.parquet"]
    assert found.iterppo_version == iterppo.__version__
    assert {"pyarrow", "pydantic"} <= found.libraries.keys()
    assert found.created_at.utcoffset().total_seconds() == 0  # type: ignore[union-attr]


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of 4 rows, parts of 8."""
    monkeypatch.setattr(artifact.writing, "ROWS_PER_GROUP", 4)
    monkeypatch.setattr(artifact.reading, "_ROWS_PER_BATCH", 4)
    monkeypatch.setattr(artifact.writing, "_ROWS_PER_PART", 8)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("num_rows", [0, 3, 4, 8, 9, 16, 17])
def test_rows_are_divided_into_parts_and_none_is_lost(folder: Path, num_rows: int) -> None:
    made = write(Path("x"), [reject(line) for line in range(num_rows)])

    assert lines_of(Path("x")) == list(range(num_rows))
    assert len(made.parts()) == max(1, -(-num_rows // 8))


@pytest.mark.usefixtures("small_parts")
def test_conversations_come_whole_across_batches_and_parts(folder: Path) -> None:
    sizes = {"one": 1, "within a batch": 2, "across batches": 6, "across parts": 13, "last": 1}
    rows = [
        {
            "conversation_id": name,
            "turn": turn,
            "reward": 0.0,
            "return": None,
            "weight": 1.0,
            "horizon": None,
        }
        for name, size in sizes.items()
        for turn in range(1, size + 1)
    ]
    made = write(Path("x"), rows, "returns")

    found = list(made.conversations(["conversation_id", "turn"]))

    assert {turns[0]["conversation_id"]: len(turns) for turns in found} == sizes
    assert [row for turns in found for row in turns] == [
        {"conversation_id": row["conversation_id"], "turn": row["turn"]} for row in rows
    ]


def test_the_same_inputs_configuration_and_seed_give_the_same_bytes(folder: Path) -> None:
    rows = [reject(line) for line in range(10_000)]
    for name in ("a", "b"):
        with ArtifactWriter(
            Path(name), kind="rejects", stage="ingest", config=CONFIG, inputs=LOG
        ) as writer:
            writer.write(rows)
            writer.count("rejects", len(rows))
            writer.write_json("notes.json", {"b": 1, "a": 2})

    a, b = contents(folder / "a"), contents(folder / "b")
    first, second = (json.loads(files.pop(MANIFEST)) for files in (a, b))
    assert a == b
    assert first.pop("created_at") != second.pop("created_at")
    assert first.pop("seconds") >= 0
    assert second.pop("seconds") >= 0
    assert first == second


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")], ids=str)
def test_a_metric_that_is_no_number_can_be_read_and_shown_again(
    folder: Path, number: float, command: Command
) -> None:
    """As the AUC of held-out conversations that all ended alike."""
    with ArtifactWriter(
        Path("x"), kind="rejects", stage="test", config=CONFIG, inputs={}
    ) as writer:
        writer.metrics["auc"] = number
        writer.write_json("metrics.json", {"heldout": [number, 1.5]})

    assert open_artifact(Path("x")).manifest.metrics.keys() == {"auc"}
    assert "auc" in command("inspect", "x").stdout
    told = command("inspect", "x", "--json").stdout
    assert "auc" in json.dumps(json.loads(told, parse_constant=pytest.fail))
    curves = json.loads(Path("x/metrics.json").read_text(), parse_constant=pytest.fail)
    assert curves == {"heldout": [None, 1.5]}
