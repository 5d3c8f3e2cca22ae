"""The memory of a command is that of all its processes."""

import sys
from pathlib import Path

import pytest

from benchmarks.memory import run

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")

HOLDS = "import time; held = bytearray(60_000_000); time.sleep(0.5)"


def test_what_processes_below_the_command_hold_is_counted(tmp_path: Path) -> None:
    starts = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLDS!r}])"

    alone = run([sys.executable, "-c", HOLDS], cwd=tmp_path)
    below = run([sys.executable, "-c", starts], cwd=tmp_path)

    assert alone.wall_s > 0.5
    assert 60 < alone.peak_mb < 120
    assert alone.peak_mb < below.peak_mb < 180


def test_a_command_that_fails_is_no_measurement(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"ended with 3: so it is"):
        run([sys.executable, "-c", "print('so it is'); raise SystemExit(3)"], cwd=tmp_path)


def test_the_command_runs_in_its_folder(tmp_path: Path) -> None:
    run([sys.executable, "-c", "open('made', 'w').close()"], cwd=tmp_path)

    assert (tmp_path / "made").exists()
