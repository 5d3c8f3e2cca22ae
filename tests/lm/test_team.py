"""Several processes make of a policy what one makes of it: plain, and under DeepSpeed's ZeRO.

All of their trainings run in one start of two processes, which is what takes the time.
"""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("team_worker.py")
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(
    not HAS_DEEPSPEED, reason="DeepSpeed is not installed: pip install 'iterppo[deepspeed]'"
)

FULL: dict[str, Any] = {}
ADAPTERS = {"lora_rank": 4}
WATCHED = {"watched": True, "watch_updates": 1, "best_of": 2}
TOLERANCE = 1e-4


def zero(stage: int) -> dict[str, str]:
    return {"deepspeed": str(ROOT / "configs" / "deepspeed" / f"zero{stage}.json")}


class Result(NamedTuple):
    weights: dict[str, torch.Tensor]
    samples: list[dict[str, Any]]


def load_worker() -> Any:
    spec = importlib.util.spec_from_file_location("team_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(out: Path) -> Result:
    return Result(
        load_file(out.with_suffix(".safetensors")),
        json.loads(out.with_suffix(".json").read_text(encoding="utf-8")),
    )


Trained = dict[str, Result]


@pytest.fixture(scope="module")
def trained(
    make_policy: Callable[..., Path],
    prompts: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Trained:
    """Results by name: "start", "one …" of one process, "plain …" and "zero N …" of two."""
    folder = tmp_path_factory.mktemp("team")
    policy = make_policy(steps=40)
    worker = load_worker()
    jobs: dict[str, dict[str, Any]] = {"plain": FULL}
    if HAS_DEEPSPEED:
        for stage in (1, 2, 3):
            jobs |= {
                f"zero {stage} full": zero(stage),
                f"zero {stage} adapters": {**zero(stage), **ADAPTERS},
            }
        jobs["zero 3 watched"] = {**zero(3), **WATCHED}
        # Of what one process saved, two make the rest; and the other way round, below.
        for stage in (2, 3):
            saved = str(folder / f"for zero {stage}")
            worker.train(policy, prompts, folder / "stopped", checkpoint=saved, stop_behind=1)
            jobs[f"one, then zero {stage}"] = {**zero(stage), "checkpoint": saved}
        saved = str(folder / "for one")
        jobs["stopped"] = {**zero(3), "checkpoint": saved, "stop_behind": 1}
    alone = {"one full": FULL, "one adapters": ADAPTERS, "one watched": WATCHED}
    for name, settings in alone.items():
        worker.train(policy, prompts, folder / name, **settings)
    start(
        folder,
        [
            {"policy": str(policy), "prompts": prompts, "out": str(folder / name), **settings}
            for name, settings in jobs.items()
        ],
    )
    names = [*alone, *jobs]
    if HAS_DEEPSPEED:
        worker.train(policy, prompts, folder / "zero 3, then one", checkpoint=saved)
        names.append("zero 3, then one")
    AcceleratorState._reset_state(reset_partial_state=True)
    found = {name: read(folder / name) for name in names}
    return {"start": Result(load_file(policy / "model.safetensors"), []), **found}


def start(folder: Path, jobs: list[dict[str, Any]]) -> None:
    """Two processes, which do all jobs."""
    (folder / "jobs.json").write_text(json.dumps(jobs), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", str(WORKER), str(folder / "jobs.json")],
            env={
                **os.environ,
                **address,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "DS_ACCELERATOR": "cpu",
                "WORLD_SIZE": "2",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [process.communicate(timeout=300)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], said


def assert_same(found: Result, expected: Result) -> None:
    assert [row["tokens"] for row in found.samples] == [row["tokens"] for row in expected.samples]
    assert [row["prompt_id"] for row in found.samples] == [
        row["prompt_id"] for row in expected.samples
    ]
    for name in ("q", "kl", "advantage"):
        assert [row[name] for row in found.samples] == pytest.approx(
            [row[name] for row in expected.samples], abs=TOLERANCE
        )
    assert found.weights.keys() == expected.weights.keys()
    for name, weight in found.weights.items():
        torch.testing.assert_close(weight, expected.weights[name], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", ["full", "adapters"])
def test_one_process_moves_the_policy(kind: str, trained: Trained) -> None:
    before, after = trained["start"].weights, trained[f"one {kind}"].weights

    assert after.keys() - before.keys() <= {
        "value_head.weight",
        "value_head.bias",
        "lm_head.weight",
    }
    assert before.keys() <= after.keys(), "what comes out is whole, and has a plain model's names"
    moved = max((after[name] - weight).abs().max().item() for name, weight in before.items())
    assert moved > 20 * TOLERANCE
    assert len(trained[f"one {kind}"].samples) == 3 * 16


def test_two_processes_make_what_one_makes(trained: Trained) -> None:
    assert_same(trained["plain"], trained["one full"])


@needs_deepspeed
@pytest.mark.parametrize("kind", ["full", "adapters"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_under_deepspeed_make_what_one_makes(
    stage: int, kind: str, trained: Trained
) -> None:
    assert_same(trained[f"zero {stage} {kind}"], trained[f"one {kind}"])


@needs_deepspeed
def test_a_divided_policy_is_watched_as_a_whole_one(trained: Trained) -> None:
    assert_same(trained["zero 3 watched"], trained["one watched"])


@needs_deepspeed
@pytest.mark.parametrize("name", ["one, then zero 2", "one, then zero 3", "zero 3, then one"])
def test_a_checkpoint_of_another_number_of_processes_is_gone_on_from(
    name: str, trained: Trained
) -> None:
    assert len(trained["stopped"].samples) < len(trained["one full"].samples), "on its way"

    assert_same(trained[name], trained["one full"])
