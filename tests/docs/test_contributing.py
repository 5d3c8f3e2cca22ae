"""CONTRIBUTING.md: each worked example, added to a copy of the package and used."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.conftest import Command
from tests.docs.blocks import ROOT, Block, blocks_of, text_of

LOG = {
    "short": [("customer", 0), ("business", 30)],
    "long": [("customer", 0), ("business", 90), ("customer", 95)],
}
"""Who wrote after how many seconds, by conversation."""


def example(heading: str) -> list[Block]:
    """The blocks under a heading."""
    _, _, rest = text_of("CONTRIBUTING.md").partition(f"\n## {heading}\n")
    return blocks_of(re.split(r"\n## ", rest)[0])


def typed(heading: str) -> list[list[str]]:
    """Commands under a heading, as modules that Python runs."""
    lines = [
        line
        for block in example(heading)
        if block.language in ("bash", "text")
        for line in block.text.splitlines()
    ]
    return [shlex.split(line.removeprefix("python -m ")) for line in lines]


def run(folder: Path, *arguments: object, package: Path) -> str:
    """A command of the package, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, arguments)],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def copy_with(blocks: list[Block], folder: Path) -> Path:
    """The package with what the blocks add and change."""
    package = folder / "package"
    for name in ("iterppo", "stages", "schemas"):
        shutil.copytree(ROOT / name, package / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", package)
    for block in blocks:
        if block.title:
            (package / block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "diff":
            subprocess.run(
                ["git", "apply", "-"], cwd=package, input=block.text, text=True, check=True
            )
    return package


def write_log(folder: Path) -> None:
    start = datetime(2026, 5, 1, 10, tzinfo=UTC)
    lines = []
    for conversation_id, messages in LOG.items():
        told = [
            {
                "role": role,
                "content": "Hello.",
                "time": (start + timedelta(seconds=seconds)).isoformat(),
            }
            for role, seconds in messages
        ]
        lines.append({"conversation_id": conversation_id, "messages": told, "outcome": 0})
    text = "".join(f"{json.dumps(line)}\n" for line in lines)
    (folder / "log.jsonl").write_text(text, encoding="utf-8")


def rows(folder: Path, columns: str) -> list[tuple[Any, ...]]:
    return duckdb.sql(f"SELECT {columns} FROM '{folder}/*.parquet' ORDER BY ALL").fetchall()


def test_the_environment_of_the_page_makes_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    (module,) = (block for block in example("Add an environment") if block.title)
    (tmp_path / module.title).write_text(module.text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    for line in typed("Add an environment"):
        assert command(*line[1:]).status == 0

    found = rows(tmp_path / "trajectories", "turn, reward")
    assert Counter(turn for turn, _ in found) == {1: 50, 2: 50}
    assert 30 < sum(reward for _, reward in found) < 50


def test_the_labeller_of_the_page_labels(tmp_path: Path) -> None:
    package = copy_with(example("Add a labeller"), tmp_path)
    write_log(tmp_path)
    (tmp_path / "log.jsonl").rename(tmp_path / "log")

    for line in typed("Add a labeller"):
        run(tmp_path, *line, package=package)

    assert rows(tmp_path / "trajectories", "conversation_id, reward") == [
        ("long", 1.0),
        ("short", 0.0),
    ]


def test_the_stage_of_the_page_runs(tmp_path: Path) -> None:
    package = copy_with(example("Add a stage"), tmp_path)
    write_log(tmp_path)
    publish, use = typed("Add a stage")
    ingest = ("iterppo", "ingest", "log.jsonl", "--out", "trajectories")

    told = run(tmp_path, *publish, package=package)
    run(tmp_path, *ingest, package=package)
    run(tmp_path, *use, package=package)

    assert told.split() == [str(package / "schemas" / "waiting" / "v1.json")]
    assert rows(tmp_path / "waiting", "conversation_id, waited_s") == [
        ("long", 90.0),
        ("long", None),  # the last message of the customer, which nobody has answered
        ("short", 30.0),
    ]
    assert "up to date" in run(tmp_path, *use, package=package)


@pytest.mark.skipif(find_spec("ruff") is None, reason="ruff is not here: make setup EXTRAS=lint")
def test_the_code_of_the_examples_is_in_the_style_of_the_house(tmp_path: Path) -> None:
    examples = [*example("Add a labeller"), *example("Add a stage")]
    package = copy_with(examples, tmp_path)
    (environment,) = (block for block in example("Add an environment") if block.title)
    (package / environment.title).write_text(environment.text, encoding="utf-8")

    for check in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *check, "--no-cache"]
        done = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
