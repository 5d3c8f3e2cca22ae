"""Runs of a benchmark that takes hours: what was run stays, and a killed benchmark goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.machine import say


def once(file: Path, run: Callable[[], Any]) -> Any:
    """What a file holds; if there is none, what the run gives, which is then kept in it."""
    if not file.exists():
        started = time.perf_counter()
        content = json.dumps(run())
        whole = file.with_suffix(".partial")
        whole.write_text(content, encoding="utf-8")
        whole.replace(file)
        say(f"{file.stem}: {time.perf_counter() - started:.0f} s")
    return json.loads(file.read_text(encoding="utf-8"))
