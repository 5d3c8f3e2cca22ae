"""One tiny round, which the tests of rounds look at, repeat, and kill the stages of."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.round.tiny_round import ROUND, SETTINGS, forced, run
from tests.short_log import snapshot


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """A model so small wants one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "tiny.toml"
    file.write_text(SETTINGS, encoding="utf-8")
    return file


@pytest.fixture(scope="session")
def first(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Iterator[Path]:
    """Round 000, whole. Many tests share it: none of them may leave anything in or beside it."""
    folder = tmp_path_factory.mktemp("runs") / "000"
    run("rollout", "--policy", "scripted", "--round", folder, "--config", config)
    for stage in ROUND:
        run(stage, "--round", folder, "--config", config, *forced(stage))
    made = snapshot(folder.parent)
    yield folder
    assert snapshot(folder.parent) == made


@pytest.fixture(scope="session")
def asked(tmp_path_factory: pytest.TempPathFactory, first: Path, config: Path) -> Path:
    """What the policy would do in every state of the round."""
    folder = tmp_path_factory.mktemp("asked") / "actions"
    run("actions", "--round", first, "--out", folder, "--config", config)
    return folder
