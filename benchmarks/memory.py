"""How much memory a command takes, with all the processes that it starts. Reads /proc: Linux."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_LOOK_EVERY_S = 0.05


class Run(NamedTuple):
    """What a command took."""

    wall_s: float
    peak_mb: float
    """Sum over its processes of the most memory (VmHWM) that each ever held. More than was ever
    held at once: the peaks need not coincide, and libraries that processes share count in each."""


def run(command: Sequence[str], *, cwd: Path) -> Run:
    """Run a command to its end.

    Raises:
        RuntimeError: If it failed.
    """
    peaks_kb: dict[int, int] = {}
    begun = time.perf_counter()
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.poll() is None:
            for pid in _tree(process.pid):
                peaks_kb[pid] = max(peaks_kb.get(pid, 0), _peak_kb(pid))
            time.sleep(_LOOK_EVERY_S)
        wall_s = time.perf_counter() - begun
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {said}")
    return Run(wall_s, sum(peaks_kb.values()) / 1_024)


def _tree(pid: int) -> list[int]:
    """A process and those below it."""
    found = [pid]
    for parent in found:  # grows while it is gone through
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except OSError:
            continue
        found += [int(child) for child in children.split()]
    return found


def _peak_kb(pid: int) -> int:
    """Zero for a process that has just ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line), 0)
