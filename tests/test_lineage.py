"""Lineage: inputs are found by content, wherever a run was moved; what is not found is said."""

import shutil
from pathlib import Path

import pytest

from iterppo.artifact import Ancestor, lineage, read_manifest
from iterppo.artifact.manifest import InputRecord
from iterppo.report.lineage_tree import lineage_content, lineage_lines
from tests.small_round import write_round


@pytest.fixture
def round_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_round(Path("runs/shop/000"), log=Path("logs/one.jsonl"))


def of(path: Path) -> tuple[Ancestor, ...]:
    return lineage(path, read_manifest(path))


def test_inputs_are_followed_to_the_log(round_folder: Path) -> None:
    trajectories, returns, policy = of(round_folder / "q")

    assert [one.found for one in (trajectories, returns, policy)] == ["found"] * 3
    assert [one.stage for one in (trajectories, returns, policy)] == ["ingest", "returns", "init"]
    (log,) = trajectories.inputs
    assert (log.kind, log.recorded_path, log.found) == ("file", "logs/one.jsonl", "found")


def test_inputs_that_were_shown_are_not_told_again(round_folder: Path) -> None:
    _, returns, policy = of(round_folder / "q")

    for one in (*returns.inputs, *policy.inputs):
        assert (one.name, one.inputs, one.inputs_left_out) == ("trajectories", (), "shown before")


def test_a_run_that_was_moved_is_looked_at_with_its_own_inputs(round_folder: Path) -> None:
    shutil.copytree("runs/shop", "copy/of/shop")

    trajectories, _, _ = of(Path("copy/of/shop/000/q"))

    assert trajectories.path is not None
    assert trajectories.path.resolve() == Path("copy/of/shop/000/trajectories").resolve()


def test_an_input_that_holds_something_else_by_now_is_said_to(round_folder: Path) -> None:
    Path("logs/one.jsonl").write_text("{}\n")

    ((log,),) = (one.inputs for one in of(round_folder / "returns"))

    assert (log.found, log.inputs) == ("changed", ())
    assert "holds something else by now" in lineage_lines([log])[0]


def test_an_input_that_is_gone_is_said_to_be(round_folder: Path) -> None:
    shutil.rmtree(round_folder / "trajectories")

    (trajectories,) = of(round_folder / "returns")

    assert (trajectories.found, trajectories.path) == ("missing", None)
    assert "not found (runs/shop/000/trajectories)" in lineage_lines([trajectories])[0]


@pytest.mark.parametrize("place", ["-", "s3://bucket/one.jsonl"], ids=["standard input", "a URL"])
def test_what_was_read_from_elsewhere_is_not_looked_up(round_folder: Path, place: str) -> None:
    manifest = read_manifest(round_folder / "trajectories")
    record = InputRecord(path=place, kind="file", digest="0" * 64)

    (log,) = lineage(
        round_folder / "trajectories", manifest.model_copy(update={"inputs": {"log 0": record}})
    )

    assert log.found == "elsewhere"
    assert place in lineage_lines([log])[0]


def test_the_tree_has_a_line_for_every_input_and_json_the_same(round_folder: Path) -> None:
    ancestors = of(round_folder / "q")

    lines = lineage_lines(ancestors)
    assert [line.partition(":")[0] for line in lines] == [
        "├─ trajectories",
        "│  └─ log 0",
        "├─ returns",
        "│  └─ trajectories",
        "└─ policy",
        "   └─ trajectories",
    ]
    content = lineage_content(ancestors)
    assert [one["name"] for one in content] == ["trajectories", "returns", "policy"]
    assert content[0]["inputs"][0]["digest"] == ancestors[0].inputs[0].digest
