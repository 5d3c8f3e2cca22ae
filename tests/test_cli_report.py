"""`iterppo report`, as it is typed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.report.page.made_run import write_turns

Command = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a run of one round's logs in it."""
    monkeypatch.chdir(tmp_path)
    write_turns(Path("runs/shop/000/trajectories"), version="p0", outcomes=10)
    return tmp_path


def test_report_writes_one_file_and_says_the_decision(folder: Path, command: Command) -> None:
    done = command("report", "runs/shop", "--out", "report.html")

    assert (done.status, done.stderr) == (0, "")
    first, second = done.stdout.splitlines()
    assert first.startswith("Nothing to decide yet: No policy was trained")
    assert second == "report.html: 0.0 MB"
    assert Path("report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_report_lies_in_the_run_unless_it_is_told_where_and_json_has_the_decision(
    folder: Path, command: Command
) -> None:
    done = command("report", "runs/shop", "--json")

    found = json.loads(done.stdout)
    assert found["report"] == "runs/shop/report.html"
    assert (found["decision"], found["evidence"]) == ("nothing to decide yet", [])
    assert Path("runs/shop/report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(["nowhere"], 4, "nowhere: not found. Name a run's folder", id="no folder"),
        pytest.param(["empty"], 4, "empty: nothing to report: no artifact in it.", id="empty"),
        pytest.param(
            ["runs/shop/000/trajectories"], 4, "is one artifact", id="an artifact of a run"
        ),
        pytest.param(["runs/shop", "--out", "empty"], 2, "--out empty: is a folder", id="out"),
    ],
)
def test_what_cannot_be_reported_is_one_line(
    folder: Path, command: Command, arguments: list[str], status: int, said: str
) -> None:
    Path("empty").mkdir()
    done = command("report", *arguments)

    assert (done.status, done.stdout) == (status, "")
    assert done.stderr.startswith("iterppo: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(Path().glob("*.html"))


def test_a_run_of_which_nothing_can_be_read_is_one_line(folder: Path, command: Command) -> None:
    shutil.copy("runs/shop/000/trajectories/manifest.json", "manifest.json")
    Path("runs/shop/000/trajectories/manifest.json").write_text("{")
    done = command("report", "runs/shop")

    assert done.status == 4
    assert "damaged" in done.stderr
    assert done.stderr.count("\n") == 1
