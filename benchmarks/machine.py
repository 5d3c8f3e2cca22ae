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
    """Of this tree, "+" behind it where something is not committed; None where git knows none."""
    said = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    found = subprocess.run(said, cwd=Path(__file__).parent, capture_output=True, text=True)
    return found.stdout.strip() if found.returncode == 0 else None


def say(text: str) -> None:
    """One line for whoever watches."""
    print(f"benchmark: {text}", file=sys.stderr, flush=True)
