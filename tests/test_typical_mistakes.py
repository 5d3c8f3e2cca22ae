"""What people type wrongly: one line that says what, where, and what to do."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.data import make_artifacts
from tests.small_round import write_log

ROOT = Path(__file__).resolve().parent.parent
Command = Callable[..., Any]

MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "a command misspelt": (
        ["inges", "log.jsonl"],
        2,
        "No such command 'inges'. Did you mean 'ingest'? See: iterppo --help",
    ),
    "an option misspelt": (["ingest", "--oot", "x"], 2, "No such option: --oot"),
    "an option without its value": (["ppo", "--round"], 2, "See: iterppo"),
    "an argument left out": (["inspect"], 2, "Missing argument 'path'. See: iterppo inspect"),
    "an option left out": (["plan"], 2, "Missing option '--base-rate'. See: iterppo plan --help"),
    "an argument too many": (["status", "a", "b"], 2, "See: iterppo status --help"),
    "a choice that there is not": (
        ["ppo", "--round", "r", "--algorithm", "dpo"],
        2,
        "'dpo' is not one of 'ppo', 'grpo', 'rloo', 'mpo'. See: iterppo ppo --help",
    ),
    "a number out of range": (["inspect", "q", "--rows", "-1"], 2, "greater than or equal to 0"),
    "no place to write": (["ingest", "log.jsonl"], 2, "--out is missing. Name it, or name the"),
    "no log": (["ingest", "--out", "o"], 2, "no log is named. Name files, or the round"),
    "a log that is not there": (["ingest", "lgo.jsonl", "--out", "o"], 3, "Check the path"),
    "a folder without a log": (
        ["ingest", "empty", "--out", "o"],
        3,
        "empty: a folder, in which no log.jsonl lies. Name its files, as 'empty/*.jsonl'.",
    ),
    "an empty log": (["ingest", "empty.jsonl", "--out", "o"], 3, "(0 rejects). It is empty."),
    "a log that is no log": (
        ["ingest", "broken.jsonl", "--out", "o"],
        3,
        "(1 rejects: 1 × not JSON). See: iterppo inspect o-rejects",
    ),
    "an event log without a mapping": (
        ["ingest", "columns.csv", "--out", "o"],
        3,
        "columns.csv: has no columns 'role', 'conversation_id', 'content'; it has a, b. Name its",
    ),
    "a configuration that is not there": (
        ["returns", "--round", "r", "--config", "missing.toml"],
        2,
        "missing.toml: no such configuration file. Check --config.",
    ),
    "a configuration that is not TOML": (
        ["returns", "--round", "r", "--config", "broken.toml"],
        2,
        "broken.toml: not TOML: ",
    ),
    "a section misspelt": (
        ["returns", "--round", "r", "--config", "section.toml"],
        2,
        "section.toml: unknown section 'retruns'. Did you mean 'returns'?",
    ),
    "a setting out of range": (
        ["returns", "--round", "r", "--set", "returns.gamma=2"],
        2,
        "--set: returns.gamma: Input should be less than or equal to 1, is 2.",
    ),
    "a setting without a value": (
        ["returns", "--round", "r", "--set", "gamma"],
        2,
        "--set gamma: write section.key=value, as in --set ppo.clip=0.1",
    ),
    "a time that is none": (
        ["ingest", "log.jsonl", "--out", "o", "--cutoff", "yesterday"],
        2,
        "--cutoff: ingest.cutoff: 'yesterday' is no time; write it as 2026-05-31T00:00:00Z.",
    ),
    "a duration without a unit": (
        ["ingest", "log.jsonl", "--out", "o", "--idle", "3"],
        2,
        "--idle: ingest.idle: '3' is no duration; write 90s, 30m, 36h, 7d or 1d12h.",
    ),
    "a round that is not there": (
        ["returns", "--round", "runs/nope/000"],
        4,
        "runs/nope/000/trajectories: not found, expected an artifact of kind trajectories. Run",
    ),
    "an artifact of another kind": (
        ["returns", "--trajectories", "q", "--out", "o"],
        4,
        "q: is q@2, expected trajectories. Check the path.",
    ),
    "a place that holds something else": (
        ["ingest", "log.jsonl", "--out", "q"],
        2,
        "q: exists and is not an artifact of kind trajectories, so it is not replaced. Choose",
    ),
    "an environment that cannot be imported": (
        ["rollout", "--policy", "scripted", "--env", "nomod:Thing", "--out", "o"],
        2,
        "check its name, and that it is installed or lies in the current folder",
    ),
    "a script that the environment has not": (
        ["rollout", "--policy", "scripted:nope", "--out", "o"],
        2,
        "name one of: mediocre, expert, uniform",
    ),
    "a configuration of DeepSpeed that is not there": (
        ["ppo", "--prompts", "prompts", "--q", "q", "--policy", "policy", "--out", "o",
         "--deepspeed", "no.json", "--force"],
        2,
        "--deepspeed no.json: no such file. Check the path.",
    ),
    "a tracker misspelt": (
        ["ppo", "--prompts", "prompts", "--q", "q", "--policy", "policy", "--out", "o",
         "--set", "ppo.report_to=wandbb", "--force"],
        2,
        "ppo: report_to: 'wandbb' is no tracker. Known to transformers: ",
    ),
    "heads that do not divide the width": (
        ["init", "--trajectories", "t", "--out", "o", "--set", "init.num_heads=3"],
        2,
        "--set: init: hidden_size = 128 must be a multiple of 2 × num_heads = 6, as 126 or 132: ",
    ),
    "heads of an odd width": (
        ["init", "--trajectories", "t", "--out", "o", "--set", "init.hidden_size=60"],
        2,
        "--set: init: hidden_size = 60 must be a multiple of 2 × num_heads = 8, as 56 or 64: ",
    ),
    "a width too small for its heads": (
        ["init", "--trajectories", "t", "--out", "o", "--set", "init.hidden_size=7"],
        2,
        "--set: init: hidden_size = 7 must be a multiple of 2 × num_heads = 8, as 8: ",
    ),
    "nothing to look at": (["inspect", "nope"], 4, "nope: not found. Check the path."),
    "no run": (["status", "empty"], 4, "empty: holds no round. Name a run, as runs/shop, or"),
    "a contract that there is not": (["schema", "nope"], 2, "Kinds: trajectories, rejects,"),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with things to mistake for others."""
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    for name, text in {
        "empty.jsonl": "",
        "broken.jsonl": '{"a": 1',
        "columns.csv": "a,b\n1,2\n",
        "broken.toml": "x = [",
        "section.toml": "[retruns]\ngamma = 1\n",
    }.items():
        Path(name).write_text(text)
    for kind, version in (("q", 2), ("prompts", 1), ("policy", 1)):
        Path(kind).symlink_to(make_artifacts.FOLDER / f"{kind}-v{version}")
    write_log(Path("log.jsonl"))
    return tmp_path


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line_with_what_to_do(
    folder: Path, command: Command, mistake: str
) -> None:
    arguments, status, hint = MISTAKES[mistake]

    done = command(*arguments)

    assert (done.status, done.stdout) == (status, "")
    assert done.stderr.startswith("iterppo: ")
    assert done.stderr.count("\n") == 1
    assert hint in done.stderr


def test_a_bare_command_shows_its_help(command: Command) -> None:
    done = command()

    assert done.status == 2
    assert "Commands:" in done.stdout + done.stderr


def test_a_stage_that_is_stopped_by_hand_says_so_and_leaves_nothing(folder: Path) -> None:
    many = ["--set", "rollout.conversations=1000000", "--round", "r"]
    process = subprocess.Popen(
        [sys.executable, "-m", "iterppo", "rollout", "--policy", "scripted", *many],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell lets what it starts in the background ignore the signal, and that is inherited.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not any(Path("r").glob(".log.tmp-*/log.jsonl")) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()

    assert (process.returncode, stdout) == (130, "")
    assert stderr.startswith("iterppo: stopped. Nothing half-made was left; ")
    assert stderr.count("\n") == 1
    assert list(Path("r").iterdir()) == []
