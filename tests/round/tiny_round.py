"""A tiny round through the command line: its settings, its commands, what they left behind."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from iterppo.artifact import Manifest, open_artifact, read_manifest
from iterppo.cli import app
from iterppo.pipeline import STAGES

CONVERSATIONS = 60

SETTINGS = """
seed = 3
[rollout]
conversations = 60
parallel = 60
max_turns = 5
[init]
hidden_size = 32
num_layers = 1
num_heads = 2
vocab_size = 330
max_steps = 20
max_prompt_tokens = 200
max_new_tokens = 8
[fit-q]
max_steps = 6
max_tokens = 220
bootstrap_samples = 20
[ppo]
updates = 2
completions_per_update = 16
minibatches = 2
microbatch_size = 8
critic_samples = 16
"""

ROUND = ("ingest", "init", "returns", "fit-q", "prompts", "ppo", "export")
"""The stages of a round in order, behind the rollout that makes its log."""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, [str(argument) for argument in arguments], catch_exceptions=False
    )


def run(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0
    return result.stdout


def forced(stage: str) -> tuple[str, ...]:
    """Q of so few conversations is noise, which ppo refuses unless it is told not to."""
    return ("--force",) if stage == "ppo" else ()


def places(stage: str, folder: Path) -> list[Path]:
    """Where a stage of this round writes."""
    return [folder / slot.place for slot in STAGES[stage].writes]


def explicit(stage: str, source: Path, out: Path) -> list[object]:
    """A stage's command with the inputs of a round and an output of its own."""
    inputs = {
        "rollout": ["--policy", source / "policy"],
        "ingest": [source / "log"],
        "init": ["--trajectories", source / "trajectories"],
        "returns": ["--trajectories", source / "trajectories"],
        "fit-q": [
            "--trajectories",
            source / "trajectories",
            "--returns",
            source / "returns",
            "--policy",
            source / "init",
        ],
        "prompts": ["--trajectories", source / "trajectories", "--policy", source / "init"],
        "ppo": [
            "--prompts",
            source / "prompts",
            "--q",
            source / "q",
            "--policy",
            source / "init",
        ],
        "export": ["--policy", source / "policy", "--prompts", source / "prompts"],
    }
    return [stage, *inputs[stage], "--out", out]


def manifest(folder: Path) -> Manifest:
    return read_manifest(folder)


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    return list(open_artifact(folder, kind).rows())


def wait_for(condition: Callable[[], bool], what: str, *, timeout_s: float = 90) -> None:
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"{what} did not happen within {timeout_s} s"
        time.sleep(0.005)
