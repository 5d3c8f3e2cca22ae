"""What goes wrong at the command line is one line on standard error, and an exit status."""

import errno
import json
import shutil
from pathlib import Path

import pytest

import iterppo
from iterppo.artifact import MANIFEST
from iterppo.contracts import ROWS
from iterppo.pipeline import STAGES
from tests.conftest import Command
from tests.data import make_artifacts
from tests.short_log import one_line, snapshot, write_log


@pytest.fixture
def log(folder: Path) -> Path:
    """Two successes, a failure, an open conversation."""
    return write_log()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(
            ["returns", "--round", "r", "--set", "returns.gama=0.9"],
            2,
            "iterppo: --set: unknown key returns.gama. Did you mean 'gamma'?",
            id="a typo in a setting",
        ),
        pytest.param(
            ["returns", "--round", "r", "--config", "typo.toml"],
            2,
            "iterppo: typo.toml: unknown key returns.gama. Did you mean 'gamma'?",
            id="a typo in a file",
        ),
        pytest.param(
            ["ingest", "absent.jsonl", "--round", "r"],
            3,
            "iterppo: absent.jsonl: no such log. Check the path (quote a glob: '*.jsonl.gz').",
            id="a log that is not there",
        ),
        pytest.param(
            ["returns", "--trajectories", "damaged", "--out", "x"],
            4,
            "iterppo: damaged/part-00000.parquet: damaged, its content does not match "
            "manifest.json. "
            "Make the artifact again with --force.",
            id="a damaged artifact",
        ),
        pytest.param(
            ["returns", "--trajectories", "newer", "--out", "x"],
            4,
            f"iterppo: newer: is trajectories@99, this iterppo {iterppo.__version__} reads "
            "trajectories@1, trajectories@2. "
            "Update iterppo, or make the artifact again.",
            id="a newer artifact",
        ),
        pytest.param(
            [
                "fit-q",
                "--trajectories",
                "damaged",
                "--returns",
                "damaged",
                "--policy",
                "damaged",
                "--out",
                "x",
            ],
            4,
            "iterppo: damaged: is trajectories@1, expected returns. Check the path.",
            id="an artifact of another kind, before torch is loaded",
        ),
    ],
)
def test_trouble_is_one_line_on_standard_error_and_an_exit_status(
    folder: Path, fresh_command: Command, arguments: list[str], status: int, said: str
) -> None:
    Path("typo.toml").write_text("[returns]\ngama = 0.9\n")
    for name in ("damaged", "newer"):
        shutil.copytree(make_artifacts.FOLDER / "trajectories-v1", name)
    Path("damaged/part-00000.parquet").write_bytes(b"PAR1")
    manifest = Path("newer") / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    before = snapshot(folder)

    done = fresh_command(*arguments)

    assert (done.status, done.stdout) == (status, "")
    assert one_line(done.stderr) == said
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["returns", "--trajectories", "absent", "--out", "x"],
            "absent: not found, expected an artifact of kind trajectories. Run the stage that "
            "makes it first.",
            id="an input",
        ),
        pytest.param(
            ["fit-q", "--round", "r"],
            "r/trajectories: not found, expected an artifact of kind trajectories. Run the "
            "stage that makes it first.",
            id="an input of a round",
        ),
        pytest.param(
            ["returns", "--trajectories", "photos", "--out", "x"],
            "photos: no manifest.json, so not an artifact of kind trajectories. Check the "
            "path, or run the stage that "
            "makes it.",
            id="a folder of something else",
        ),
        pytest.param(
            ["inspect", "photos"],
            "photos: no manifest.json, so not an artifact. Check the path, or run the stage "
            "that makes it.",
            id="something else to look at",
        ),
        pytest.param(
            ["inspect", "absent"], "absent: not found. Check the path.", id="nothing to look at"
        ),
        pytest.param(
            ["compare", "absent"],
            "absent: not found, expected an artifact of kind trajectories. Run the stage that "
            "makes it first.",
            id="nothing to compare",
        ),
        pytest.param(
            ["compare", str(make_artifacts.FOLDER / "returns-v1")],
            f"{make_artifacts.FOLDER / 'returns-v1'}: is returns@1, expected trajectories. "
            "Check the path.",
            id="the wrong thing to compare",
        ),
    ],
)
def test_an_artifact_that_is_missing_or_foreign_ends_with_4(
    folder: Path, command: Command, arguments: list[str], said: str
) -> None:
    Path("photos").mkdir()

    done = command(*arguments)

    assert (done.status, done.stdout) == (4, "")
    assert one_line(done.stderr) == f"iterppo: {said}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_without_round_and_paths_says_what_is_missing(
    name: str, command: Command, folder: Path
) -> None:
    done = command(name)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == (
        f"iterppo: {name}: --out is missing. Name it, or name the round with --round runs/NAME/000."
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["ingest", "--out", "x"],
            "ingest: no log is named. Name files, or the round with --round runs/NAME/000.",
        ),
        (
            ["returns", "--out", "x"],
            "returns: --trajectories is missing. Name it, or name the round with --round "
            "runs/NAME/000.",
        ),
        (
            ["init", "--out", "x"],
            "init: a model from scratch is trained on a log. Name --trajectories, --round, or "
            "--model FOLDER.",
        ),
        (["schema", "wisdom"], f"wisdom: no such kind. Kinds: {', '.join(ROWS)}."),
        (
            ["schema", "log"],
            "log: a folder without rows, so it has no columns. Kinds with rows: "
            f"{', '.join(ROWS)}.",
        ),
        (
            ["rollout", "--policy", "scripted", "--out", "x", "--env", "shp"],
            "no environment is called 'shp'; known: shop, tutor; "
            "or give your own as module:factory",
        ),
    ],
    ids=[
        "a log",
        "an input",
        "something to learn from",
        "a kind",
        "a kind without rows",
        "an environment",
    ],
)
def test_wrong_usage_ends_with_2(
    folder: Path, command: Command, arguments: list[str], said: str
) -> None:
    done = command(*arguments)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == f"iterppo: {said}"


@pytest.mark.parametrize("arguments", [["wisdom"], ["ingest", "--oot", "x"], ["inspect"]])
def test_a_command_line_that_cannot_be_read_ends_with_2(
    command: Command, arguments: list[str]
) -> None:
    done = command(*arguments)

    assert (done.status, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "out", ["log.jsonl/x", "/proc/nowhere/x"], ids=["under a file", "where nobody can write"]
)
def test_a_place_that_cannot_be_written_is_wrong_usage(
    log: Path, command: Command, out: str
) -> None:
    done = command("ingest", log, "--out", out)

    assert (done.status, done.stdout) == (2, "")
    assert out in one_line(done.stderr)


def test_two_artifacts_cannot_have_one_place(log: Path, command: Command) -> None:
    done = command("ingest", log, "--out", "x", "--rejects", "./x")

    assert (done.status, done.stdout) == (2, "")
    assert (
        one_line(done.stderr)
        == "iterppo: ingest: x is named twice. Give --out and --rejects places of their own."
    )
    assert not Path("x").exists()


def test_an_artifact_cannot_take_the_place_of_what_it_is_made_from(
    folder: Path, command: Command
) -> None:
    for kind in ("prompts", "q", "policy"):
        shutil.copytree(make_artifacts.FOLDER / f"{kind}-v1", kind)
    before = snapshot(folder)

    done = command(
        "ppo", "--prompts", "prompts", "--q", "q", "--policy", "policy", "--out", "policy"
    )

    assert (done.status, done.stdout) == (2, "")
    assert (
        one_line(done.stderr)
        == "iterppo: ppo: policy is named twice. Give --policy and --out places of their own."
    )
    assert snapshot(folder) == before


# --- where nothing can be written, told before anything is read ----------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["ingest", "absent", "--out", "a", "--rejects", "a/rejects"],
            "ingest: --rejects a/rejects lies in --out a, which is one folder, replaced as a "
            "whole. Give them places beside each other.",
            id="an output in another one",
        ),
        pytest.param(
            ["ingest", "absent", "--rejects", "a", "--out", "a/b"],
            "ingest: --out a/b lies in --rejects a, which is one folder, replaced as a whole. "
            "Give them places beside each other.",
            id="the other way round",
        ),
        pytest.param(
            ["returns", "--trajectories", "absent", "--out", "absent/returns"],
            "returns: --out absent/returns lies in --trajectories absent, which is one folder, "
            "replaced as a whole. Give them places beside each other.",
            id="an output in an input",
        ),
        pytest.param(
            ["returns", "--trajectories", "b/absent", "--out", "b"],
            "returns: --trajectories b/absent lies in --out b, which is one folder, replaced as a "
            "whole. Give them places beside each other.",
            id="an input in an output",
        ),
        pytest.param(
            ["ingest", "absent", "--out", "made/deep/b"],
            "made/deep/b: lies in the artifact {here}/made, and would go with it. Choose a place "
            "outside of it.",
            id="an output in any artifact",
        ),
        pytest.param(
            ["ingest", "absent", "--out", "b", "--rejects", "photos"],
            "photos: exists and is not an artifact of kind rejects, so it is not replaced. Choose "
            "another place.",
            id="a foreign folder for the rejects",
        ),
        pytest.param(
            ["ingest", "absent", "--out", "."],
            ".: exists and is not an artifact of kind trajectories, so it is not replaced. Choose "
            "another place.",
            id="the current folder",
        ),
        pytest.param(
            ["ingest", "absent", "--out", "/"],
            "/: a mount point, which an artifact cannot take the place of. Name a folder below "
            "it, as /NAME.",
            id="the root",
        ),
        pytest.param(
            ["ingest", "absent", "--out", "/proc"],
            "/proc: a mount point, which an artifact cannot take the place of. Name a folder "
            "below it, as /proc/NAME.",
            id="a mount point",
        ),
        pytest.param(
            ["ingest", "absent", "--out", "n" * 230],
            f"{'n' * 230}: the name is longer than the 200 bytes that leave room for a hidden "
            "folder beside it. Choose a shorter one.",
            id="a name that is too long beside its hidden folder",
        ),
        pytest.param(
            ["ingest", "absent", "--out", "n" * 300 + "/x"],
            f"{'n' * 300}/x: cannot be written there (File name too long). "
            "Choose another place, or see who may use it.",
            id="a name that is too long",
        ),
    ],
)
def test_a_place_that_cannot_be_taken_is_refused_before_anything_is_read(
    folder: Path, command: Command, arguments: list[str], said: str
) -> None:
    shutil.copytree(make_artifacts.FOLDER / "trajectories-v1", "made")
    Path("photos").mkdir()
    Path("photos/one.jpg").touch()
    before = snapshot(folder)

    done = command(*arguments)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == f"iterppo: {said.replace('{here}', str(folder.resolve()))}"
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    "arguments",
    [["ingest", "absent", "--out", "loop"], ["returns", "--trajectories", "loop", "--out", "loop"]],
    ids=["by itself", "as an input too"],
)
def test_links_that_lead_to_each_other_are_no_place(
    folder: Path, command: Command, arguments: list[str]
) -> None:
    Path("loop").symlink_to("loop")

    done = command(*arguments)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr).startswith("iterppo: loop: cannot be written there (Symlink loop")


@pytest.mark.parametrize("out", [".", "../x", "../x/../x"])
def test_the_current_folder_is_not_replaced_but_may_be_up_to_date(
    log: Path, command: Command, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    arguments = ["ingest", f"../{log}", "--out", out, "--rejects", "../x-rejects"]
    Path("x").mkdir()
    monkeypatch.chdir("x")

    for _ in range(2):  # an empty folder, and an artifact
        done = command(*arguments, "--force")
        assert (done.status, done.stdout) == (2, "")
        assert one_line(done.stderr) == (
            f"iterppo: {out}: the current folder lies there, and would be replaced. Name a folder "
            f"of its own, as {Path(out) / 'NAME'}."
        )
        monkeypatch.chdir("..")
        assert command("ingest", log, "--out", "x").status == 0
        monkeypatch.chdir("x")
    assert "up to date" in command(*arguments).stdout


LONG = "n" * 300


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(
            ["ingest", LONG, "--out", "x"],
            3,
            f"{LONG}: cannot be looked at (File name too long). Check the path, and who may use "
            "it.",
            id="a log",
        ),
        pytest.param(
            ["returns", "--trajectories", LONG, "--out", "x"],
            2,
            f"{LONG}: File name too long. Check the path, who may use it and what room is left "
            "there.",
            id="an artifact, where nobody expected it",
        ),
    ],
)
def test_what_the_system_refuses_is_one_line(
    folder: Path, command: Command, arguments: list[str], status: int, said: str
) -> None:
    done = command(*arguments)

    assert (done.status, done.stdout) == (status, "")
    assert one_line(done.stderr) == f"iterppo: {said}"


def test_an_error_of_a_library_in_several_lines_is_one_line(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError("tiny is no model.\nIs it private?")

    monkeypatch.setattr("iterppo.execution.load_config", refused)
    done = command("returns", "--round", "r")

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == "iterppo: tiny is no model. Is it private?"


@pytest.mark.parametrize("option", ["--out", "--rejects"])
def test_a_folder_that_may_not_be_entered_is_no_place(
    log: Path, command: Command, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    exists = Path.exists

    def locked(path: Path) -> bool:
        if "locked" in path.parts:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return exists(path)

    monkeypatch.setattr(Path, "exists", locked)
    done = command("ingest", log, "--out", "y", option, "locked/x")

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == (
        "iterppo: locked/x: cannot be written there (Permission denied). Choose another place, or "
        "see who may use it."
    )
    assert not Path("y").exists()


def test_a_link_to_nothing_is_a_place_and_the_artifact_lies_where_it_leads_to(
    log: Path, command: Command
) -> None:
    Path("x").symlink_to("disk")

    assert command("ingest", log, "--out", "x").status == 0
    assert (Path("disk") / MANIFEST).is_file()
    assert Path("x").is_symlink()
    assert "up to date" in command("ingest", log, "--out", "x").stdout


def test_notes_in_an_artifact_are_not_replaced_and_do_not_make_it_out_of_date(
    log: Path, command: Command
) -> None:
    assert command("ingest", log, "--out", "x").status == 0
    Path("x-rejects/notes.txt").write_text("mine")

    assert "up to date" in command("ingest", log, "--out", "x").stdout
    done = command("ingest", log, "--out", "x", "--force")

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == (
        "iterppo: x-rejects: holds notes.txt, which is no file of the artifact and would be lost "
        "with it. Move it away, or choose another place."
    )
    assert Path("x-rejects/notes.txt").read_text() == "mine"
