"""What a benchmark ran on, and what it says while it runs."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, Python, and how busy others keep the machine."""
    information = Path("/proc/cpuinfo")
    text = information.read_text(encoding="utf-8") if information.exists() else ""
    models = [line.partition(": ")[2] for line in text.splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load_before": os.getloadavg()[0],
    }


def commit() -> str | None:
    """Of this tree, "+" behind it where more than results is not committed; None where git knows
    none."""
    head = _git("rev-parse", "--short", "HEAD")
    others = (":(top)", ":(top,exclude)benchmarks/results")
    return head and head + ("+" if _git("status", "--porcelain", "-uno", "--", *others) else "")


def _git(*words: str) -> str | None:
    found = subprocess.run(
        ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    return found.stdout.strip() if found.returncode == 0 else None


def say(text: str) -> None:
    """One line for whoever watches."""
    print(f"benchmark: {text}", file=sys.stderr, flush=True)
