"""What goes wrong at the command line is one line on standard error, and an exit status."""

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
