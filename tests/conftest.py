"""What several rooms' tests share: the command, the folder that it is run in, and the real data."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from iterppo.cli import main

# Models of a few thousand weights are fastest on one thread, and read before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).resolve().parent.parent

# On a busy machine an example takes as long as it takes; that says nothing about what it tests.
settings.register_profile("iterppo", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("iterppo")


class Done(NamedTuple):
    """What a command left behind."""

    status: int
    stdout: str
    stderr: str


Command = Callable[..., Done]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`iterppo …` in this process, through the entry point that makes exit statuses of errors."""

    def run(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["iterppo", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        stdout, stderr = capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Done(ended.value.code, stdout, stderr)

    return run


@pytest.fixture
def fresh_command() -> Command:
    """`python -m iterppo …` in a process of its own."""

    def run(*arguments: object) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "iterppo", *map(str, arguments)],
            env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"},
            capture_output=True,
            text=True,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real conversations; a test that needs it is skipped where it is absent."""
    folder = Path(os.environ.get("ITERPPO_DATA") or ROOT.parent / "shared" / "data")
    if not (folder / "star.jsonl.gz").is_file():
        pytest.skip(f"no real conversations in {folder}; name their folder with ITERPPO_DATA")
    return folder
