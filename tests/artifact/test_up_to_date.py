"""Lineage, and whether a stage is up to date or runs again."""

import os
from pathlib import Path
from typing import Any

import pytest

from iterppo import artifact
from iterppo.artifact import (
    MANIFEST,
    InputRecord,
    Manifest,
    file_records,
    fingerprint,
    is_up_to_date,
    read_manifest,
)
from iterppo.execution import execute
from tests.artifact.made import LOG, contents, reject, write


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
