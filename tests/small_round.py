"""A round in a folder, made in a moment: its trajectories and returns by their stages, its policy
and q written by hand."""

import json
from pathlib import Path
from typing import Any

from iterppo.artifact import ArtifactWriter, open_artifact
from iterppo.config import FitQConfig, InitConfig, StageConfig
from iterppo.execution import execute

CONVERSATIONS = ("a", "b", "c", "d")
"""Two successes (a, d), a failure (b), an open one (c); two turns each."""


def write_log(file: Path) -> None:
    """The four conversations."""
    outcomes: dict[str, int | None] = {"a": 1, "b": 0, "c": None, "d": 1}
    lines = []
    for name in CONVERSATIONS:
        messages = [
            {"role": "customer", "content": "hi"},
            {
                "role": "business",
                "content": "what do you need?",
                "suggestion": "What do you need?",
                "adoption": "edited",
            },
            {"role": "customer", "content": "a roof\nand a door"},
            {"role": "business", "content": "we make roofs", "adoption": "abstained"},
        ]
        content = {
            "conversation_id": name,
            "messages": messages,
            "outcome": outcomes[name],
            "unfinished": outcomes[name] is None,
            "policy_version": "p-1",
        }
        lines.append(json.dumps(content) + "\n")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(lines), encoding="utf-8")


def run_stage(name: str, round_folder: Path, **extra: Any) -> None:
    """A stage of the round, with its default settings."""
    execute(
        name,
        inputs={},
        outputs={},
        round_folder=round_folder,
        config_file=None,
        settings=["ingest.heldout=0.5"] if name == "ingest" else [],
        force=False,
        extra=extra,
    )


def write_round(folder: Path, *, log: Path) -> Path:
    """trajectories, rejects, returns, init and q of the log, in the folder."""
    write_log(log)
    run_stage("ingest", folder, logs=[str(log)], workers=1, engine="local")
    run_stage("returns", folder, workers=1, engine="local")
    write_policy(folder)
    write_q(folder)
    return folder


def write_policy(folder: Path) -> None:
    """A policy without a model, as `init` records one."""
    inputs = {"trajectories": open_artifact(folder / "trajectories").record()}
    _write(folder / "init", "policy", "init", InitConfig(), inputs, [])


def write_q(folder: Path) -> None:
    """Q̂ of every turn but the last of each conversation: 0.25 in the first turn."""
    inputs = {
        "trajectories": open_artifact(folder / "trajectories").record(),
        "returns": open_artifact(folder / "returns").record(),
        "policy": open_artifact(folder / "init").record(),
    }
    rows = [
        {
            "conversation_id": row["conversation_id"],
            "turn": row["turn"],
            "q": 0.25,
            "q_spread": 0.125,
            "return": None,
            "weight": 0.0,
            "split": row["split"],
            "v": 0.5,
        }
        for row in open_artifact(folder / "trajectories").rows()
        if row["turn"] == 1
    ]
    _write(folder / "q", "q", "fit-q", FitQConfig(), inputs, rows)


def _write(
    out: Path,
    kind: str,
    stage: str,
    config: StageConfig,
    inputs: Any,
    rows: list[dict[str, Any]],
) -> None:
    with ArtifactWriter(out, kind=kind, stage=stage, config=config, inputs=inputs) as writer:
        writer.write(rows)
