"""Several processes make of a policy, and of Q, what one makes: plain, and under DeepSpeed's ZeRO.

All of their trainings run in one start of two processes, which is what takes the time. Those whose
result is compared anyway leave the checkpoints from which another number of processes goes on.
"""

import importlib.util
import json
import os
import shutil
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
from transformers import AutoModelForSequenceClassification

from iterppo.lm.q_function import HEADS

ROOT = Path(__file__).resolve().parents[2]
WORKER = Path(__file__).with_name("team_worker.py")
HAS_DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(
    not HAS_DEEPSPEED, reason="DeepSpeed is not installed: pip install 'iterppo[deepspeed]'"
)

FULL: dict[str, Any] = {}
# Watched too: at ZeRO 3 every look at the policy is one that all processes take part in.
ADAPTERS = {
    **{"lora_rank": 4, "watched": True, "watch_updates": 1, "best_of": 2},
    **{"completions_per_prompt": 4, "baseline": "others"},
}
SEPARATE = {"critic": "separate"}
TOLERANCE = 1e-4


Q_KINDS: dict[str, dict[str, Any]] = {
    "full": {},
    "adapters": {"lora_rank": 4},
    "sweeps": {
        "method": "sarsa",
        "sweeps": 1,
        "sweep_epochs": 0.01,
        "gradient_checkpointing": True,
    },
}


class Result(NamedTuple):
    weights: dict[str, torch.Tensor]
    samples: list[dict[str, Any]]
    scored: int


class FittedQ(NamedTuple):
    weights: dict[str, torch.Tensor]
    heads: dict[str, torch.Tensor]
    told: dict[str, Any]
    folder: Path


class Made(NamedTuple):
    """Results by name: "one …" of one process, "plain …" and "zero N …" of two."""

    start: dict[str, torch.Tensor]
    trained: dict[str, Result]
    fitted: dict[str, FittedQ]


def load_worker() -> Any:
    spec = importlib.util.spec_from_file_location("team_worker", WORKER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(out: Path) -> Result:
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    return Result(load_file(out.with_suffix(".safetensors")), told["samples"], told["scored"])


def read_q(out: Path) -> FittedQ:
    told = json.loads(out.with_suffix(".json").read_text(encoding="utf-8"))
    return FittedQ(
        load_file(out / "model.safetensors"), load_file(out / HEADS), told=told, folder=out
    )


def zero(stage: int) -> dict[str, str]:
    return {"deepspeed": str(ROOT / "configs" / "deepspeed" / f"zero{stage}.json")}


def all_divided(folder: Path) -> dict[str, str]:
    """ZeRO 3, which else leaves parameters as small as these whole."""
    content = json.loads(Path(zero(3)["deepspeed"]).read_text(encoding="utf-8"))
    content["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    (folder / "zero3.json").write_text(json.dumps(content), encoding="utf-8")
    return {"deepspeed": str(folder / "zero3.json")}


def jobs_of_ppo(folder: Path) -> dict[str, dict[str, Any]]:
    """What two processes do with the policy, by name."""
    if not HAS_DEEPSPEED:
        return {"plain": FULL}
    jobs = {"plain": FULL}
    for stage in (1, 2, 3):
        jobs[f"zero {stage} full"] = zero(stage)
        jobs[f"zero {stage} adapters"] = {**zero(stage), **ADAPTERS}
    jobs["zero 3 separate"] = {**zero(3), **SEPARATE}
    jobs["zero 3 bf16"] = {**zero(3), "bf16": True}
    jobs["zero 3 full"] |= {"checkpoint": str(folder / "of zero 3")}
    for stage in (2, 3):
        jobs[f"one, then zero {stage}"] = {
            **zero(stage),
            "checkpoint": str(folder / f"of one for {stage}"),
        }
    return jobs


def jobs_of_q(folder: Path) -> dict[str, dict[str, Any]]:
    """What two processes do with Q, by name."""
    jobs: dict[str, dict[str, Any]] = {"plain full": Q_KINDS["full"]}
    if HAS_DEEPSPEED:
        for stage in (1, 2, 3):
            place = all_divided(folder) if stage == 3 else zero(stage)
            jobs |= {
                f"zero {stage} full": {**place, **Q_KINDS["full"]},
                f"zero {stage} adapters": {**place, **Q_KINDS["adapters"]},
            }
        jobs["zero 3 sweeps"] = {**all_divided(folder), **Q_KINDS["sweeps"]}
        jobs["zero 3 full"] |= {"checkpoint": str(folder / "q of zero 3")}
        for stage in (2, 3):
            jobs[f"one, then zero {stage}"] = {
                **jobs[f"zero {stage} full"],
                "checkpoint": str(folder / f"q of one for {stage}"),
            }
    return jobs


@pytest.fixture(scope="module")
def made(
    make_policy: Callable[..., Path],
    prompts: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Made:
    folder = tmp_path_factory.mktemp("team")
    policy = make_policy(steps=40)
    worker = load_worker()
    ppo: dict[str, dict[str, Any]] = {
        "one full": {"checkpoint": str(folder / "of one")},
        "one adapters": ADAPTERS,
        "one separate": SEPARATE,
    }
    q = {f"one {name}": settings for name, settings in Q_KINDS.items()}
    q["one full"] = {"checkpoint": str(folder / "q of one")}
    for name, settings in ppo.items():
        worker.train(policy, prompts, folder / name, **settings)
    for name, settings in q.items():
        worker.fit_q(policy, prompts, folder / f"q {name}", **settings)
    for left in [*folder.glob("of one*"), *folder.glob("q of one*")]:
        for stage in (2, 3):
            shutil.copy(left, left.with_name(left.name.replace("of one", f"of one for {stage}")))
    of_two, q_of_two = jobs_of_ppo(folder), jobs_of_q(folder)
    given = {"policy": str(policy), "prompts": prompts}
    jobs = [
        {"kind": kind, **given, "out": str(folder / f"{before}{name}"), **settings}
        for kind, before, several in (("ppo", "", of_two), ("q", "q ", q_of_two))
        for name, settings in several.items()
    ]
    start(folder, jobs)
    ppo, q = ppo | of_two, q | q_of_two
    if HAS_DEEPSPEED:
        ppo["zero 3, then one"] = {"checkpoint": str(folder / "of zero 3")}
        worker.train(policy, prompts, folder / "zero 3, then one", **ppo["zero 3, then one"])
        q["zero 3, then one"] = {"checkpoint": str(folder / "q of zero 3")}
        worker.fit_q(policy, prompts, folder / "q zero 3, then one", **q["zero 3, then one"])
    AcceleratorState._reset_state(reset_partial_state=True)
    return Made(
        load_file(policy / "model.safetensors"),
        {name: read(folder / name) for name in ppo},
        {name: read_q(folder / f"q {name}") for name in q},
    )


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
def test_one_process_moves_the_policy(kind: str, made: Made) -> None:
    before, after = made.start, made.trained[f"one {kind}"].weights

    assert after.keys() - before.keys() <= {
        "value_head.weight",
        "value_head.bias",
        "lm_head.weight",
    }
    assert before.keys() <= after.keys(), "what comes out is whole, and has a plain model's names"
    moved = max((after[name] - weight).abs().max().item() for name, weight in before.items())
    assert moved > 20 * TOLERANCE
    assert len(made.trained[f"one {kind}"].samples) == 2 * 16


@needs_deepspeed
def test_a_separate_critic_is_divided_too(made: Made) -> None:
    alone, divided = made.trained["one separate"], made.trained["zero 3 separate"]

    assert any(name.startswith("value_backbone.") for name in alone.weights)
    assert_same(divided, alone)


@needs_deepspeed
def test_half_precision_under_deepspeed_stays_near_full_precision(made: Made) -> None:
    alone, half = made.trained["one full"], made.trained["zero 3 bf16"]

    assert {weight.dtype for weight in half.weights.values()} == {torch.bfloat16}
    for name, weight in half.weights.items():
        # Four steps of AdamW at 2e-3, each in either direction where a gradient is nearly nothing.
        torch.testing.assert_close(
            weight.float(), alone.weights[name], atol=2 * 4 * 2e-3, rtol=2**-8
        )
    moved = max(
        (half.weights[n].float() - weight).abs().max().item() for n, weight in made.start.items()
    )
    assert moved > 2e-3


def test_two_processes_make_what_one_makes(made: Made) -> None:
    assert_same(made.trained["plain"], made.trained["one full"])


@needs_deepspeed
@pytest.mark.parametrize("kind", ["full", "adapters"])
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_processes_under_deepspeed_make_what_one_makes(
    stage: int, kind: str, made: Made
) -> None:
    assert_same(made.trained[f"zero {stage} {kind}"], made.trained[f"one {kind}"])


@needs_deepspeed
@pytest.mark.parametrize("name", ["one, then zero 2", "one, then zero 3", "zero 3, then one"])
def test_a_checkpoint_of_another_number_of_processes_is_gone_on_from(name: str, made: Made) -> None:
    assert made.trained[name].scored < made.trained["one full"].scored, "the rest alone was sampled"
    assert_same(made.trained[name], made.trained["one full"])


# --- Q ---


def assert_same_q(found: FittedQ, expected: FittedQ) -> None:
    for name in ("losses", "validation"):
        assert found.told[name] == pytest.approx(expected.told[name], abs=TOLERANCE)
    assert found.told["values"] == pytest.approx(expected.told["values"], abs=TOLERANCE)
    for ours, theirs in ((found.weights, expected.weights), (found.heads, expected.heads)):
        assert ours.keys() == theirs.keys()
        for name, weight in ours.items():
            torch.testing.assert_close(weight, theirs[name], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("kind", Q_KINDS)
def test_one_process_moves_q(kind: str, made: Made) -> None:
    one = made.fitted[f"one {kind}"]
    moved = max(
        (weight - made.start[name]).abs().max().item()
        for name, weight in one.weights.items()
        if name in made.start
    )

    assert moved > 20 * TOLERANCE
    assert one.told["steps"] == (4 if kind == "sweeps" else 3)
    assert max(one.told["values"]) - min(one.told["values"]) > 20 * TOLERANCE


def test_two_processes_fit_the_q_of_one(made: Made) -> None:
    assert_same_q(made.fitted["plain full"], made.fitted["one full"])


@needs_deepspeed
@pytest.mark.parametrize(
    ("stage", "kind"),
    [*((stage, kind) for stage in (1, 2, 3) for kind in ("full", "adapters")), (3, "sweeps")],
)
def test_two_processes_under_deepspeed_fit_the_q_of_one(stage: int, kind: str, made: Made) -> None:
    assert_same_q(made.fitted[f"zero {stage} {kind}"], made.fitted[f"one {kind}"])


@needs_deepspeed
@pytest.mark.parametrize("name", ["one, then zero 2", "one, then zero 3", "zero 3, then one"])
def test_a_fit_of_another_number_of_processes_is_gone_on_with(name: str, made: Made) -> None:
    assert made.fitted[name].told["steps"] == 1, "two of three were done"
    assert_same_q(made.fitted[name], made.fitted["one full"])


@needs_deepspeed
def test_a_divided_q_is_saved_as_a_plain_classifier(made: Made) -> None:
    folder = made.fitted["zero 3 adapters"].folder
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder, output_loading_info=True
    )

    assert not any(report.values()), "nothing is missing, and nothing is unknown"
    members_MD = made.fitted["zero 3 adapters"].heads["members.weight"]
    torch.testing.assert_close(model.score.weight.detach(), members_MD.mean(dim=0, keepdim=True))
