"""`prompts`, as a stage: how many are kept."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import ArtifactWriter, open_artifact
from iterppo.config import IngestConfig, InitConfig, PromptsConfig
from iterppo.contracts import ROWS
from iterppo.stages import prompts

TURNS = 60


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations of two turns."""
    out = tmp_path_factory.mktemp("log") / "trajectories"
    empty: dict[str, Any] = dict.fromkeys(ROWS["trajectories"].model_fields)
    known = {"outcome_before": False, "reward": 0.0, "done": False, "censored": False}
    with ArtifactWriter(
        out, kind="trajectories", stage="ingest", config=IngestConfig(), inputs={}
    ) as writer:
        for n in range(TURNS):
            writer.write(
                [
                    empty
                    | known
                    | {
                        "conversation_id": f"c{n // 2}",
                        "turn": n % 2 + 1,
                        "customer": "Hello!",
                        "sent": "Hi",
                        "split": "train",
                    }
                ]
            )
    return out


def artifact(folder: Path, make_policy: Callable[..., Path]) -> Path:
    """An untrained policy."""
    out = folder / "policy"
    if not out.exists():
        with ArtifactWriter(
            out, kind="policy", stage="init", config=InitConfig(), inputs={}
        ) as writer:
            shutil.copytree(make_policy(steps=0), writer.folder / "model")
    return out


@pytest.mark.parametrize(
    ("most", "kept"), [(0, TURNS), (1, 1), (7, 7), (59, 59), (60, TURNS), (1000, TURNS)]
)
def test_as_many_are_kept_as_was_asked_for(
    most: int, kept: int, log: Path, make_policy: Callable[..., Path], tmp_path: Path
) -> None:
    made = prompts.run(
        PromptsConfig(max_prompts=most),
        trajectories=log,
        policy=artifact(tmp_path, make_policy),
        out=tmp_path / "prompts",
    )

    assert made.rows == kept
    assert made.counts["prompts"] + made.counts.get("states_not_sampled", 0) == TURNS


def test_fewer_are_among_those_that_were_more(
    log: Path, make_policy: Callable[..., Path], tmp_path: Path
) -> None:
    def ids(most: int) -> set[str]:
        out = tmp_path / str(most)
        prompts.run(
            PromptsConfig(max_prompts=most),
            trajectories=log,
            policy=artifact(tmp_path, make_policy),
            out=out,
        )
        return {row["prompt_id"] for row in open_artifact(out, "prompts").rows()}

    assert ids(7) < ids(20)
