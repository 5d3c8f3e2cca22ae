"""Artifacts are whole or not there at all: writing, killing, damage, lineage, up to date or not."""

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import iterppo
from iterppo import artifact
from iterppo.artifact import (
    MANIFEST,
    Artifact,
    ArtifactWriter,
    InputRecord,
    Manifest,
    file_records,
    fingerprint,
    is_up_to_date,
    open_artifact,
    read_manifest,
)
from iterppo.artifact.writing import process_lives
from iterppo.config import IngestConfig, ReturnsConfig
from iterppo.errors import ArtifactError, UsageError
from iterppo.execution import execute
from tests.conftest import Command

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ReturnsConfig()
LOG = {"log 0": InputRecord(path="a.jsonl", kind="file", digest="d" * 64)}


def reject(line: int) -> dict[str, Any]:
    return {"source": "a.jsonl", "line": line, "reason": "broken", "raw": "x" * (line % 7)}


def write(out: Path, rows: list[dict[str, Any]], kind: str = "rejects") -> Artifact:
    with ArtifactWriter(out, kind=kind, stage="test", config=CONFIG, inputs=LOG) as writer:
        writer.write(rows)
    return open_artifact(out, kind)


def lines_of(out: Path) -> list[int]:
    return [row["line"] for row in open_artifact(out, "rejects").rows()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def change_manifest(out: Path, **changes: Any) -> None:
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(manifest | changes))


def message(path: Path, kind: str | None = None) -> str:
    """What is said when an artifact is refused: one line, exit status 4."""
    with pytest.raises(ArtifactError, match=r".") as raised:
        open_artifact(path, kind)
    assert raised.value.exit_status == 4
    assert isinstance(raised.value, OSError)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


# --- writing and reading -------------------------------------------------------------------------


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


# --- exceptions and kills ------------------------------------------------------------------------


def fail_after(out: Path, rows: list[dict[str, Any]]) -> None:
    def rows_then_failure() -> Iterator[dict[str, Any]]:
        yield from rows
        raise RuntimeError("no more")

    with (
        pytest.raises(RuntimeError, match="no more"),
        ArtifactWriter(out, kind="rejects", stage="test", config=CONFIG, inputs={}) as writer,
    ):
        writer.write(rows_then_failure())


@pytest.mark.parametrize(
    "num_rows", [0, 1, 20_000], ids=["at once", "before a write", "after a write"]
)
def test_an_exception_leaves_nothing_behind(folder: Path, num_rows: int) -> None:
    fail_after(Path("x"), [reject(line) for line in range(num_rows)])

    assert names(folder) == []


def test_an_exception_leaves_the_artifact_that_was_there(folder: Path) -> None:
    write(Path("x"), [reject(1)])
    before = contents(folder)

    fail_after(Path("x"), [reject(line) for line in range(20_000)])

    assert names(folder) == ["x"]
    assert contents(folder) == before


def test_rows_that_break_the_contract_at_the_very_end_leave_nothing_behind(folder: Path) -> None:
    write(Path("x"), [reject(1)])
    before = contents(folder)

    with (
        pytest.raises(ValueError, match="rejects: column reason must not be null"),
        ArtifactWriter(Path("x"), kind="rejects", stage="test", config=CONFIG, inputs={}) as writer,
    ):
        writer.write([reject(1) | {"reason": None}])

    assert names(folder) == ["x"]
    assert contents(folder) == before


WRITE_AND_WAIT = """
import sys, time
from pathlib import Path
from iterppo.artifact import ArtifactWriter
from iterppo.config import ReturnsConfig

settings = dict(kind="rejects", stage="test", config=ReturnsConfig(), inputs={})
with ArtifactWriter(Path("x"), **settings) as writer:
    writer.write({"source": "b", "line": n, "reason": "b", "raw": "b"} for n in range(20_000))
    (writer.folder / "model").mkdir()
    (writer.folder / "model" / "weights").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(60)
"""

# The process kills itself just before its n-th rename, where one artifact takes another's place.
KILL_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from iterppo.artifact import ArtifactWriter
from iterppo.config import ReturnsConfig

rename, left = os.rename, [int(sys.argv[1])]

def rename_or_die(*arguments, **options):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(*arguments, **options)

os.rename = rename_or_die
settings = dict(kind="rejects", stage="test", config=ReturnsConfig(), inputs={})
with ArtifactWriter(Path("x"), **settings) as writer:
    writer.write([{"source": "b", "line": 99, "reason": "b", "raw": "b"}])
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def writing() -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing the artifact `x`."""
    process = start(WRITE_AND_WAIT)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "existed", [False, True], ids=["a new artifact", "one that replaces another"]
)
def test_a_kill_in_the_middle_leaves_no_half_artifact_and_the_next_run_cleans_up(
    folder: Path, existed: bool
) -> None:
    if existed:
        write(Path("x"), [reject(1)])
    before = contents(folder / "x") if existed else {}

    with writing() as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    leftover = f".x.tmp-{process.pid}"
    assert names(folder) == sorted([leftover, *(["x"] if existed else [])])
    assert existed == Path("x").exists()
    assert (contents(folder / "x") if existed else {}) == before
    if not existed:
        assert (
            message(Path("x"))
            == "x: not found, expected an artifact. Run the stage that makes it first."
        )
    # Not even the half one that is left passes as an artifact.
    assert f"{leftover}: no {MANIFEST}, so not an artifact." in message(Path(leftover))

    write(Path("x"), [reject(2)])
    assert names(folder) == ["x"]
    assert lines_of(Path("x")) == [2]


@pytest.mark.parametrize(
    "rename", [1, 2], ids=["before the old one moves", "between the two renames"]
)
def test_a_kill_while_one_artifact_replaces_another_never_shows_half_of_one(
    folder: Path, rename: int
) -> None:
    write(Path("x"), [reject(1)])

    with start(KILL_AT_RENAME, str(rename)) as process:
        assert process.wait() == -signal.SIGKILL

    if rename == 1:
        assert lines_of(Path("x")) == [1]
    else:
        assert not Path("x").exists()
        assert lines_of(Path(f".x.old-{process.pid}")) == [1]
        assert lines_of(Path(f".x.tmp-{process.pid}")) == [99]
    write(Path("x"), [reject(2)])
    assert names(folder) == ["x"]
    assert lines_of(Path("x")) == [2]


def test_what_a_living_process_is_writing_is_left_alone(folder: Path) -> None:
    with writing() as process:
        write(Path("x"), [reject(2)])

        assert names(folder) == [f".x.tmp-{process.pid}", "x"]


def test_leftovers_of_other_artifacts_are_left_alone(folder: Path) -> None:
    for name in (".y.tmp-99999999", ".x.tmp-notes", ".xx.tmp-99999999"):
        Path(name).mkdir()

    write(Path("x"), [])

    assert names(folder) == [".x.tmp-notes", ".xx.tmp-99999999", ".y.tmp-99999999", "x"]


def test_a_name_that_looks_like_a_glob_is_cleaned_up_as_any_other(folder: Path) -> None:
    Path(".x[1].tmp-99999999").mkdir()
    Path(".x1.tmp-99999999").mkdir()

    write(Path("x[1]"), [])

    assert names(folder) == [".x1.tmp-99999999", "x[1]"]


# --- refusals ------------------------------------------------------------------------------------


@pytest.fixture
def x(folder: Path) -> Path:
    """An artifact of kind rejects."""
    write(Path("x"), [reject(1)])
    return Path("x")


def test_an_artifact_that_is_not_there_is_named() -> None:
    assert message(Path("absent/x"), "returns") == (
        "absent/x: not found, expected an artifact of kind returns. Run the stage that makes "
        "it first."
    )


def test_a_folder_of_something_else_is_no_artifact(folder: Path) -> None:
    Path("photos").mkdir()

    assert message(Path("photos"), "q") == (
        "photos: no manifest.json, so not an artifact of kind q. Check the path, or run the "
        "stage that makes it."
    )


def test_a_file_is_no_artifact(folder: Path) -> None:
    Path("file").touch()

    assert message(Path("file")) == (
        "file: no manifest.json, so not an artifact. Check the path, or run the stage that "
        "makes it."
    )


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '"iterppo"', '{"format": "webpack"}'],
    ids=["empty", "a list", "a text", "another"],
)
def test_a_manifest_of_another_program_is_foreign(x: Path, text: str) -> None:
    (x / MANIFEST).write_text(text)

    assert message(x) == "x/manifest.json: not written by iterppo. Check the path."


def test_an_artifact_of_another_kind_is_refused(x: Path) -> None:
    assert message(x, "returns") == "x: is rejects@1, expected returns. Check the path."


def test_an_artifact_of_a_newer_version_is_refused(x: Path) -> None:
    change_manifest(x, version=99, a_field_of_the_future=True)

    assert message(x, "rejects") == (
        f"x: is rejects@99, this iterppo {iterppo.__version__} reads rejects@1. "
        "Update iterppo, or make the artifact again."
    )


def test_an_artifact_of_a_kind_of_the_future_is_refused(x: Path) -> None:
    change_manifest(x, kind="wisdom")

    assert message(x) == (
        f"x: is wisdom@1, this iterppo {iterppo.__version__} reads no such kind. "
        "Update iterppo, or make the artifact again."
    )


def test_a_manifest_that_is_cut_off_is_damaged(x: Path) -> None:
    (x / MANIFEST).write_text('{"format": ')

    assert message(x) == (
        "x/manifest.json: damaged (Expecting value: line 1 column 12 (char 11)). Make the "
        "artifact again with --force."
    )


def test_a_manifest_that_is_not_text_is_damaged(x: Path) -> None:
    (x / MANIFEST).write_bytes(b"\xff\xff")

    assert message(x) == (
        "x/manifest.json: damaged ('utf-8' codec can't decode byte 0xff in position 0: "
        "invalid start byte). "
        "Make the artifact again with --force."
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            {"rows": "many"}, "rows: Input should be a valid integer", id="a count in words"
        ),
        pytest.param(
            {"surprise": 1}, "surprise: Extra inputs are not permitted", id="an unknown field"
        ),
        pytest.param(
            {"files": {"part-00000.parquet": {"sha256": "0"}}},
            "files.part-00000.parquet.size_bytes: Field required",
            id="half a record",
        ),
    ],
)
def test_a_manifest_with_a_wrong_field_is_damaged(
    x: Path, change: dict[str, Any], said: str
) -> None:
    change_manifest(x, **change)

    assert message(x).startswith(f"x/manifest.json: damaged, {said}")
    assert message(x).endswith(". Make the artifact again with --force.")


def test_a_missing_file_is_named(x: Path) -> None:
    (x / "part-00000.parquet").unlink()

    assert message(x, "rejects") == (
        "x/part-00000.parquet: missing, listed in manifest.json. Make the artifact again with "
        "--force."
    )


@pytest.mark.parametrize("where", [0, 100, -1], ids=["first byte", "in the middle", "last byte"])
def test_one_changed_byte_is_found(x: Path, where: int) -> None:
    part = x / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[where] ^= 1
    part.write_bytes(content)

    assert message(x, "rejects") == (
        "x/part-00000.parquet: damaged, its content does not match manifest.json. Make the "
        "artifact again with --force."
    )


def test_a_shortened_file_is_found(x: Path) -> None:
    part = x / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])

    assert message(x, "rejects") == (
        "x/part-00000.parquet: damaged, its content does not match manifest.json. Make the "
        "artifact again with --force."
    )


@pytest.mark.parametrize(
    "what", ["a folder with files", "a file", "another kind", "a damaged manifest"]
)
def test_what_is_not_an_artifact_of_the_kind_is_never_replaced(folder: Path, what: str) -> None:
    out = Path("x")
    if what == "a file":
        out.write_text("mine")
    elif what == "another kind":
        write(out, [], "returns")
    else:
        out.mkdir()
        (out / ("thesis.txt" if what == "a folder with files" else MANIFEST)).write_text("mine")
    before = contents(folder)

    with pytest.raises(UsageError, match="not replaced") as raised:
        write(out, [reject(1)])

    assert str(raised.value) == (
        "x: exists and is not an artifact of kind rejects, so it is not replaced. Choose "
        "another --out."
    )
    assert raised.value.exit_status == 2
    assert contents(folder) == before


# --- lineage and the up-to-date check ------------------------------------------------------------


def test_the_fingerprint_depends_on_stage_configuration_and_inputs_by_content() -> None:
    other = InputRecord(path="a.jsonl", kind="file", digest="e" * 64)
    moved = LOG["log 0"].model_copy(update={"path": "elsewhere/b.jsonl"})
    exported = LOG["log 0"].model_copy(update={"kind": "export"})
    base = fingerprint("returns", {"gamma": 0.9, "seed": 0}, LOG)

    assert fingerprint("returns", {"seed": 0, "gamma": 0.9}, {"log 0": moved}) == base
    changed = [
        fingerprint("ingest", {"gamma": 0.9, "seed": 0}, LOG),
        fingerprint("returns", {"gamma": 0.8, "seed": 0}, LOG),
        fingerprint("returns", {"gamma": 0.9, "seed": 1}, LOG),
        fingerprint("returns", {"gamma": 0.9, "seed": 0}, {"log 0": other}),
        fingerprint("returns", {"gamma": 0.9, "seed": 0}, {"log 0": exported}),
        fingerprint("returns", {"gamma": 0.9, "seed": 0}, {"log 1": LOG["log 0"]}),
        fingerprint("returns", {"gamma": 0.9, "seed": 0}, {}),
    ]
    assert len({base, *changed}) == 8


def test_files_are_inputs_by_their_content(folder: Path) -> None:
    Path("a").write_bytes(b"hello\n")

    assert file_records("log", [Path("a")]) == {
        "log 0": InputRecord(
            path="a",
            kind="file",
            digest="5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        )
    }


def test_the_digest_of_an_artifact_is_that_of_its_files_alone(folder: Path) -> None:
    a, b = write(Path("a"), [reject(1)]), write(Path("b"), [reject(1)])

    assert a.manifest.digest == b.manifest.digest
    assert write(Path("c"), [reject(2)]).manifest.digest != a.manifest.digest
    assert a.record() == InputRecord(path="a", kind="rejects", digest=a.manifest.digest)


def test_an_artifact_is_up_to_date_only_whole_and_with_its_fingerprint(x: Path) -> None:
    expected = read_manifest(x).fingerprint

    assert is_up_to_date(x, expected)
    assert not is_up_to_date(x, "0" * 64)
    assert not is_up_to_date(Path("absent"), expected)
    (x / "part-00000.parquet").write_bytes(b"damaged")
    assert not is_up_to_date(x, expected)


CONVERSATION = (
    '{"conversation_id": "ID", "messages": [{"role": "customer", "content": "hi"}, '
    '{"role": "business", "content": "yes"}], "outcome": 1}\n'
)


def run_stages(**changes: Any) -> list[bool]:
    """Runs ingest and returns on what lies in the current folder; whether each did anything."""
    made = []
    for stage, inputs, extra in (
        ("ingest", {}, {"logs": ["log.jsonl"]}),
        ("returns", {"trajectories": None}, {}),
    ):
        settings = changes.get("settings", [])
        force = changes.get("force", False)
        _, _, done = execute(
            stage,
            inputs=inputs,
            outputs={},
            round_folder=Path("round"),
            config_file=None,
            settings=settings,
            force=force,
            extra=extra,
        )
        made.append(done)
    return made


def test_a_stage_runs_again_only_where_something_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("log.jsonl").write_text(CONVERSATION)

    assert run_stages() == [True, True]
    first = contents(folder / "round")
    assert run_stages() == [False, False]
    assert contents(folder / "round") == first

    assert run_stages(settings=["returns.gamma=0.5"]) == [False, True]
    assert run_stages(settings=["ppo.clip=0.5"]) == [False, True], "back to the first gamma"
    assert run_stages(force=True) == [True, True]
    assert run_stages() == [False, False]

    Path("log.jsonl").write_text(CONVERSATION + CONVERSATION.replace("ID", "ID2"))
    assert run_stages() == [True, True]

    # Another split changes the trajectories' content, so the returns are made anew.
    assert run_stages(settings=["seed=12"]) == [True, True]

    monkeypatch.setattr(artifact.manifest, "code_digest", lambda: "another release")
    assert run_stages(settings=["seed=12"]) == [True, True]


def test_a_log_that_moved_changes_nothing(folder: Path) -> None:
    Path("log.jsonl").write_text(CONVERSATION)
    run_stages()
    Path("round").rename("elsewhere")
    Path("elsewhere").rename("round")
    os.utime("log.jsonl", (0, 0))

    assert run_stages() == [False, False]


def test_a_damaged_artifact_is_made_again_by_its_stage(folder: Path) -> None:
    Path("log.jsonl").write_text(CONVERSATION)
    run_stages()
    good = contents(folder / "round")
    (folder / "round/trajectories/part-00000.parquet").write_bytes(b"")

    assert run_stages() == [True, False]
    found = contents(folder / "round")
    changed = {name for name in good if found[name] != good[name]}
    assert changed == {f"trajectories/{MANIFEST}", f"rejects/{MANIFEST}"}, "new but for the times"


def test_stages_write_the_same_bytes_but_for_the_time(folder: Path) -> None:
    Path("log.jsonl").write_text(
        "".join(CONVERSATION.replace("ID", f"c{n}") for n in range(500)) + "broken\n"
    )
    run_stages()
    first = contents(folder / "round")
    run_stages(force=True)
    second = contents(folder / "round")

    assert first.keys() == second.keys()
    for name in first:
        if not name.endswith(MANIFEST):
            assert first[name] == second[name]
    for kind in ("trajectories", "rejects", "returns"):
        before, after = (
            Manifest.model_validate_json(files[f"{kind}/{MANIFEST}"]) for files in (first, second)
        )
        when = {"created_at", "seconds"}
        assert before.model_dump(exclude=when) == after.model_dump(exclude=when)


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="the system's"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), id="a quota's"),
        pytest.param(
            RuntimeError("I/O error: No space left on device (os error 28)"), id="a library's"
        ),
    ],
)
@pytest.mark.parametrize("when", ["while it is written", "at its end"])
def test_a_full_disk_is_a_line_and_leaves_what_was_there(
    error: Exception, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    settings: dict[str, Any] = {
        "kind": "log",
        "stage": "rollout",
        "config": CONFIG,
        "inputs": {},
    }
    with ArtifactWriter(out, **settings) as before:
        before.write_json("kept.json", 1)

    def full(*_: Any) -> None:
        raise error

    if when == "at its end":
        monkeypatch.setattr("iterppo.artifact.writing._sync", full)

    def write() -> None:
        with ArtifactWriter(out, **settings):
            if when == "while it is written":
                full()

    with pytest.raises(UsageError, match="no space left on the disk") as raised:
        write()

    assert str(out) in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "kept.json").exists()


def test_a_process_lives_until_it_has_ended() -> None:
    child = subprocess.Popen(["true"])
    assert process_lives(child.pid)
    child.wait()
    assert not process_lives(child.pid)
    assert process_lives(os.getpid())
