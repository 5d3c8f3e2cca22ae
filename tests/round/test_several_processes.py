"""Stages that several processes share: they end as one alone would, killed or not."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import ROOT
from tests.round.tiny_round import explicit, manifest, rows, run, wait_for

ZERO = (
    ("--deepspeed", ROOT / "configs" / "deepspeed" / "zero2.json")
    if importlib.util.find_spec("deepspeed")
    else ()
)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_a_killed_process_ends_the_others_and_one_alone_goes_on(
    first: Path, config: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    settings = ["--config", config, "--set", "ppo.updates=4", "--set", "ppo.checkpoint_updates=1"]
    settings.append("--force")
    arguments = [*explicit("ppo", first, runs / "made"), *settings]
    several = [*arguments, "--nproc", "2", *ZERO]
    command = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "iterppo", *map(str, several)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        saved = runs / ".made.checkpoint.safetensors"
        wait_for(saved.exists, "the first checkpoint", timeout_s=240)
        started = psutil.Process(command.pid).children(recursive=True)
        (second,) = [p for p in started if p.environ().get("RANK") == "1"]
        second.kill()
        stdout, stderr = command.communicate(timeout=60)
    finally:
        command.kill()
    assert command.returncode == 5
    assert stdout == ""
    assert "Run the same command again" in stderr.splitlines()[-1]
    _, alive = psutil.wait_procs(started, timeout=5)
    assert alive == [], "nobody is left behind"
    assert not (runs / "made").exists()

    run(*arguments)
    run(*explicit("ppo", first, runs / "whole"), *settings)
    made, whole = (weights(runs / name) for name in ("made", "whole"))
    assert made.keys() == whole.keys()
    for name, weight in whole.items():
        torch.testing.assert_close(made[name], weight, atol=1e-4, rtol=0)
    assert [row["tokens"] for row in rows(runs / "made", "policy")] == [
        row["tokens"] for row in rows(runs / "whole", "policy")
    ]
    assert {path.name for path in runs.iterdir()} == {"made", "whole"}


def test_two_processes_fit_the_q_of_one(
    first: Path, config: Path, tmp_path: Path, fresh_command: Callable[..., Any]
) -> None:
    arguments = explicit("fit-q", first, tmp_path / "q")
    done = fresh_command(*arguments, "--config", config, "--nproc", "2", *ZERO)

    assert done.status == 0
    assert done.stdout.startswith(f"{tmp_path / 'q'}: q@2")
    assert manifest(tmp_path / "q").counts == manifest(first / "q").counts
    found, expected = rows(tmp_path / "q", "q"), rows(first / "q", "q")
    for name in ("q", "q_spread", "v"):
        assert [row[name] for row in found] == pytest.approx(
            [row[name] for row in expected], abs=1e-4
        )
    assert [path.name for path in tmp_path.iterdir()] == ["q"]
