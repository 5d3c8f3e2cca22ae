"""Stages that are killed in the middle: no artifact is left, and a rerun ends in the same bytes."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import open_artifact
from iterppo.lm import ppo, q_fitting
from iterppo.pipeline import STAGES
from tests.conftest import ROOT
from tests.round.tiny_round import explicit, forced, manifest, run, wait_for

WORKER = """
import importlib, json, os, sys, time
from pathlib import Path

import iterppo.lm.ppo, iterppo.lm.q_fitting, iterppo.lm.first_policy, iterppo.lm.export
from iterppo.cli import main
import torch

torch.set_num_threads(1)


def stop(place, number, marker):
    module, _, path = place.partition(":")
    *outer, name = path.split(".")
    holder = importlib.import_module(module)
    for one in outer:
        holder = getattr(holder, one)
    function, calls = getattr(holder, name), []

    def counted(*arguments, **named):
        calls.append(None)
        if len(calls) == number:
            Path(marker).touch()
            time.sleep(600)
        return function(*arguments, **named)

    setattr(holder, name, counted)


print("ready", flush=True)
for line in sys.stdin:
    job = json.loads(line)
    pid = os.fork()
    if pid == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            stop(job["place"], job["number"], job["marker"])
            sys.argv = ["iterppo", *job["arguments"]]
            main()
        finally:
            os._exit(9)
    print(pid, flush=True)
    os.waitpid(pid, 0)
    print("gone", flush=True)
"""
"""Imports everything once, then runs each command in a fork of its own that stops at a place.

A stage that is to be killed in its middle must be in its middle: it says so, and waits there.
"""


@pytest.fixture(scope="module")
def worker() -> Iterator[subprocess.Popen[str]]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", WORKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def kill_in_the_middle(
    worker: subprocess.Popen[str], arguments: list[object], place: str, number: int, marker: Path
) -> None:
    assert worker.stdin is not None
    assert worker.stdout is not None
    job = {
        "place": place,
        "number": number,
        "marker": str(marker),
        "arguments": [str(argument) for argument in arguments],
    }
    worker.stdin.write(json.dumps(job) + "\n")
    worker.stdin.flush()
    pid = int(worker.stdout.readline())
    wait_for(marker.exists, f"call {number} of {place}")
    os.kill(pid, signal.SIGKILL)
    assert worker.stdout.readline() == "gone\n"


MIDDLES = [
    pytest.param("rollout", "iterppo.lm.generation:sample", 2, id="rollout, at its second turn"),
    pytest.param("ingest", "iterppo.logs.reading:decode_line", 30, id="ingest, half of the log"),
    pytest.param("init", "iterppo.lm.cloning:_loss", 10, id="init, half of the steps"),
    pytest.param("returns", "iterppo.rl.return_batches:pay", 1, id="returns, its batch"),
    pytest.param("fit-q", "iterppo.lm.q_fitting:_training_loss", 4, id="fit-q, half of the steps"),
    pytest.param("prompts", "iterppo.lm.rendering:Renderer.fit", 90, id="prompts, half of them"),
    pytest.param("ppo", "iterppo.lm.ppo:PPOTrainer._compute_loss", 3, id="ppo, its third step"),
    pytest.param("export", "iterppo.lm.export:check_export", 1, id="export, before its check"),
    pytest.param(
        "returns", "iterppo.artifact.writing:put_in_place", 1, id="returns, before its name"
    ),
    pytest.param("ppo", "iterppo.artifact.writing:put_in_place", 1, id="ppo, before its name"),
    pytest.param(
        "ingest", "iterppo.artifact.writing:put_in_place", 2, id="ingest, between its two artifacts"
    ),
]


@pytest.mark.parametrize(("stage", "place", "number"), MIDDLES)
def test_a_killed_stage_leaves_no_artifact_and_a_rerun_finishes(
    stage: str,
    place: str,
    number: int,
    first: Path,
    config: Path,
    tmp_path: Path,
    worker: subprocess.Popen[str],
) -> None:
    runs = tmp_path / "runs"
    arguments = [*explicit(stage, first, runs / "made"), "--config", config]
    begun = [*arguments, *forced(stage)]
    kill_in_the_middle(worker, begun, place, number, tmp_path / "marker")
    left = {path.name for path in runs.iterdir()}

    assert "made" not in left
    assert any(name.startswith(".made.tmp-") for name in left), "it was at work"
    assert "half-written" in run("inspect", runs / "made")

    assert "up to date" not in run(*begun)
    open_artifact(runs / "made", STAGES[stage].writes[0].kind)
    assert {path.name for path in runs.iterdir()} <= {"made", "made-rejects"}
    assert "up to date" in run(*arguments)


def test_a_killed_fit_of_q_goes_on_to_the_same_bytes(
    first: Path,
    config: Path,
    tmp_path: Path,
    worker: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = tmp_path / "runs"
    settings = ["--config", config, "--set", "fit-q.checkpoint_steps=2"]
    run(*explicit("fit-q", first, runs / "whole"), *settings)
    arguments = [*explicit("fit-q", first, runs / "made"), *settings]
    marker = tmp_path / "marker"
    kill_in_the_middle(worker, arguments, "iterppo.lm.q_fitting:_training_loss", 6, marker)
    assert (runs / ".made.checkpoint.safetensors").is_file()

    steps: list[int] = []
    loss = q_fitting._training_loss

    def counted(*given: Any) -> Any:
        steps.append(1)
        return loss(*given)

    monkeypatch.setattr(q_fitting, "_training_loss", counted)
    run(*arguments)

    assert len(steps) == 2, "four of six steps were saved"
    assert manifest(runs / "made").files == manifest(runs / "whole").files
    assert {path.name for path in runs.iterdir()} == {"made", "whole"}


def test_a_killed_ppo_goes_on_to_the_same_bytes(
    first: Path,
    config: Path,
    tmp_path: Path,
    worker: subprocess.Popen[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = tmp_path / "runs"
    settings = ["--config", config, "--set", "ppo.updates=3", "--set", "ppo.checkpoint_updates=1"]
    settings.append("--force")
    run(*explicit("ppo", first, runs / "whole"), *settings)
    arguments = [*explicit("ppo", first, runs / "made"), *settings]
    # An update has four steps: epochs by minibatches.
    kill_in_the_middle(
        worker, arguments, "iterppo.lm.ppo:PPOTrainer._compute_loss", 10, tmp_path / "marker"
    )
    left = {path.name for path in runs.iterdir()}
    assert {".made.checkpoint.safetensors", ".made.checkpoint.jsonl"} <= left

    steps: list[int] = []
    loss = ppo.PPOTrainer._compute_loss

    def counted(*given: Any) -> Any:
        steps.append(1)
        return loss(*given)

    monkeypatch.setattr(ppo.PPOTrainer, "_compute_loss", counted)
    run(*arguments)

    assert len(steps) == 4, "two of three updates were saved"
    made, whole = manifest(runs / "made"), manifest(runs / "whole")
    assert (made.files, made.metrics, made.digest) == (whole.files, whole.metrics, whole.digest)
    assert {path.name for path in runs.iterdir()} == {"made", "whole"}


def test_a_stage_killed_while_it_replaces_an_artifact_leaves_a_whole_one_or_none(
    first: Path, config: Path, tmp_path: Path, worker: subprocess.Popen[str]
) -> None:
    runs = tmp_path / "runs"
    arguments = [*explicit("returns", first, runs / "made"), "--config", config]
    run(*arguments)
    for number, place in enumerate(
        ("iterppo.artifact.writing:put_in_place", "iterppo.artifact.writing:sync")
    ):
        marker = tmp_path / f"marker {number}"
        kill_in_the_middle(worker, [*arguments, "--force"], place, 1, marker)
        open_artifact(runs / "made", "returns")  # the one before
    # Between the two renames there is none, and the next run does not mind.
    kill_in_the_middle(
        worker, [*arguments, "--force"], "pathlib:Path.rename", 2, tmp_path / "marker 2"
    )
    assert not (runs / "made").exists()
    run(*arguments)
    open_artifact(runs / "made", "returns")
    assert [path.name for path in runs.iterdir()] == ["made"]


def test_ppo_killed_as_a_plain_process_leaves_no_artifact(
    first: Path, config: Path, tmp_path: Path
) -> None:
    arguments = [*explicit("ppo", first, tmp_path / "policy"), "--config", config]
    command = [sys.executable, "-W", "ignore", "-m", "iterppo", *map(str, arguments)]
    process = subprocess.Popen(
        # No checkpoint, which would be left as well where the machine is fast.
        [*command, "--set", "ppo.updates=1000", "--set", "ppo.checkpoint_updates=1000", "--force"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    try:
        wait_for(lambda: any(tmp_path.glob(".policy.tmp-*")), "the start of the artifact")
        time.sleep(1)
        assert process.poll() is None, "it was at work"
    finally:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".policy.tmp-")
    assert left.name.endswith(f"-{process.pid}")

    run(*arguments, "--force")
    assert [path.name for path in tmp_path.iterdir()] == ["policy"]
    assert math.isfinite(float(manifest(tmp_path / "policy").metrics["q_last"] or 0))
