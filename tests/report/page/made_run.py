"""A small run written by hand: its numbers are known, and its texts are hostile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iterppo.artifact import ArtifactWriter, InputRecord, Manifest, open_artifact
from iterppo.pipeline import STAGES

EVIL = '<script>window.stolen = 1</script><img src=x onerror="window.stolen = 1"></script>'
"""A customer's message."""

NUM_CONVERSATIONS = 40


def write(
    folder: Path,
    kind: str,
    stage: str,
    rows: Sequence[dict[str, Any]] = (),
    *,
    of: Sequence[Path] = (),
    counts: Mapping[str, int] | None = None,
    metrics: Mapping[str, Any] | None = None,
    files: Mapping[str, Any] | None = None,
    **config: Any,
) -> Manifest:
    """An artifact of a stage, with these rows, made of these others."""
    inputs: dict[str, InputRecord] = {
        f"{number} {path.name}": open_artifact(path).record() for number, path in enumerate(of)
    }
    with ArtifactWriter(
        folder, kind=kind, stage=stage, config=STAGES[stage].config(**config), inputs=inputs
    ) as writer:
        writer.write(list(rows))
        for name, number in (counts or {}).items():
            writer.count(name, number)
        writer.metrics.update(metrics or {})
        for name, content in (files or {}).items():
            if isinstance(content, pa.Table):
                pq.write_table(content, writer.folder / name)
            else:
                writer.write_json(name, content)
    return writer.manifest


def conversation(
    name: str, *, version: str, outcome: bool, customer: str = "Hello", **fields: Any
) -> list[dict[str, Any]]:
    """Two turns; the second one pays where the outcome was reached."""
    rows = []
    for turn in (1, 2):
        last = turn == 2
        rows.append(
            {
                "conversation_id": name,
                "turn": turn,
                "customer": customer if last else "Hello",
                "suggestion": f"suggested {turn}",
                "sent": f"suggested {turn}",
                "adoption": "verbatim",
                "edit_distance": 0.0,
                "outcome_before": False,
                "reward": float(outcome and last),
                "done": last,
                "censored": False,
                "customer_after": None,
                "policy_version": version,
                "persona": None,
                "suggestion_logprob": None,
                "customer_time": None,
                "sent_time": None,
                "split": "train",
                "customer_id": None,
                "business_id": None,
                "facts": None,
                **fields,
            }
        )
    return rows


def write_turns(
    folder: Path,
    *,
    version: str,
    outcomes: int,
    num: int = NUM_CONVERSATIONS,
    num_open: int = 0,
    **config: Any,
) -> None:
    """Trajectories in which the first conversations succeed and the last ones are open; the first
    customer is hostile."""
    rows = [
        row
        for index in range(num)
        for row in conversation(
            f'c{index}"><i>',
            version=version,
            outcome=index < outcomes,
            customer=EVIL if index == 0 else f"Question {index}",
            censored=index >= num - num_open,
        )
    ]
    counts = {"lines": num + 1, "lines_taken": num, "rejects": 1, "copies": 0, "turns": 2 * num}
    counts |= {"conversations": num, "conversations_terminal": num, "outcomes": outcomes}
    write(folder, "trajectories", "ingest", rows, counts=counts, **config)


def heldout(**changes: Any) -> dict[str, Any]:
    """What `fit-q` says of Q on held-out turns."""
    bins = [
        {"q_mean": q, "return_mean": g, "return_mean_low": g - 0.1, "return_mean_high": g + 0.1,
         "num_turns": 10}
        for q, g in ((0.1, 0.125), (0.5, 0.4375))
    ]  # fmt: skip
    return {
        "verdict": "usable",
        "verdict_reason": "Q ranks actions.",
        "num_turns": 20,
        "num_conversations": 10,
        "return_mean": 0.25,
        "q_mean": 0.2,
        "discrimination_pairs": 7,
        "discrimination_matched_by": "state",
        "explained_variance": 0.125,
        "explained_variance_low": -0.0625,
        "explained_variance_high": 0.5,
        "calibration_curve": bins,
    } | changes


def write_q(folder: Path, *, of: Sequence[Path], num: int = NUM_CONVERSATIONS) -> None:
    """Q̂ of both turns of every conversation: 0.25."""
    rows = [
        {"conversation_id": f'c{index}"><i>', "turn": turn, "q": 0.25, "q_spread": None,
         "return": 0.0, "weight": 1.0, "split": "train", "v": None}
        for index in range(num)
        for turn in (1, 2)
    ]  # fmt: skip
    said = heldout()
    write(
        folder,
        "q",
        "fit-q",
        rows,
        of=of,
        counts={"turns_scored": 2 * num},
        metrics={"verdict": said["verdict"], "verdict_reason": said["verdict_reason"]},
        files={"metrics.json": {"heldout": said, "fit": {"validation": [0.7, 0.5]}}},
    )


def sample(
    index: int, q: float, *, step: int = 3, text: str = "new", turn: int = 2
) -> dict[str, Any]:
    """A completion of the prompt of a conversation's turn."""
    return {
        "step": step,
        "prompt_id": f'c{index}"><i>/{turn}',
        "completion": text,
        "tokens": [1],
        "truncated": False,
        "q": q,
        "kl": 0.0,
        "advantage": 0.0,
    }


def write_policy(
    folder: Path,
    *,
    of: Sequence[Path],
    samples: Sequence[dict[str, Any]],
    version: str = "p1",
    gain: Sequence[float] = (0.125, 0.25, 0.375),
    metrics: Mapping[str, Any] | None = None,
    **config: Any,
) -> None:
    """Four updates of one step each; on held-out prompts Q̂ rises by `gain`."""
    first = [0.25] * len(gain)
    readings = [
        {"update": 0, "q_P": first, "judge_P": None, "kl": 0.0, "entropy": 1.0, "distinct": 1.0},
        {"update": 4, "q_P": [a + b for a, b in zip(first, gain, strict=True)], "judge_P": None,
         "kl": 0.5, "entropy": 1.0, "distinct": 1.0},
    ]  # fmt: skip
    columns = ("reward", "kl_per_completion", "entropy", "value_loss")
    log = pa.table(
        {"step": pa.array([1, 2, 3, 4], pa.int32())}
        | {name: [0.125, 0.25, 0.5, 1.0] for name in columns}
    )
    write(
        folder,
        "policy",
        "ppo",
        samples,
        of=of,
        counts={"optimiser_steps": 4, "updates": 4, "prompts": 7},
        metrics={
            "policy_version": version,
            "behaviour_version": "p0",
            "kept_update": 4.0,
            "watched_kl_kept": 0.5,
            **(metrics or {}),
        },
        files={
            "watch.json": {
                "readings": readings,
                "best_of": {"n": 4, "q": 0.5, "kl": 0.64, "judge": None},
            },
            "training_log.parquet": log,
        },
        **config,
    )


def write_run(path: Path) -> Path:
    """Two rounds: p0's conversations, from which p1 was trained, and p1's."""
    first = path / "000"
    write_turns(first / "trajectories", version="p0", outcomes=10)
    reject = {"source": "log", "line": 3, "reason": f"bad: {EVIL}", "raw": "x"}
    write(first / "rejects", "rejects", "ingest", [reject])
    write(first / "init", "policy", "init", metrics={"policy_version": "p0"})
    turns = first / "trajectories"
    returns = [
        {"conversation_id": f'c{index}"><i>', "turn": turn, "reward": 0.0,
         "return": float(index < 10), "weight": 1.0, "horizon": 3 - turn}
        for index in range(NUM_CONVERSATIONS)
        for turn in (1, 2)
    ]  # fmt: skip
    write(first / "returns", "returns", "returns", returns, of=[turns],
          counts={"turns_with_return": 80, "turns_censored": 0})  # fmt: skip
    write_q(first / "q", of=[turns, first / "returns"])
    prompts = [
        {"prompt_id": f'c{index}"><i>/{turn}', "conversation_id": f'c{index}"><i>', "turn": turn,
         "prompt": [], "n_tokens": 1, "num_cut_messages": 0, "split": "train"}
        for index in range(NUM_CONVERSATIONS)
        for turn in (1, 2)
    ]  # fmt: skip
    write(first / "prompts", "prompts", "prompts", prompts, of=[turns],
          counts={"states": 80, "prompts": 80})  # fmt: skip
    samples = [sample(0, 0.75, text=f"Now {EVIL}")]
    samples += [
        sample(index, 0.25 + (-1) ** index * 0.01 * index, text=f"better {index}")
        for index in range(1, 30)
    ]
    write_policy(
        first / "policy", of=[first / "prompts", first / "q", first / "init"], samples=samples
    )
    write_turns(path / "001" / "trajectories", version="p1", outcomes=30, heldout=0.25)
    return path
