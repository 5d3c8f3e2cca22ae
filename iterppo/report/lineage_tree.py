"""What an artifact was made from, as a tree."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from iterppo.artifact import Ancestor

_DIGITS = 12


def lineage_lines(inputs: Sequence[Ancestor]) -> list[str]:
    """A line per input, its own inputs below it."""
    lines = []
    for number, one in enumerate(inputs, start=1):
        last = number == len(inputs)
        lines.append(f"{'└─' if last else '├─'} {_told(one)}")
        lines += [f"{'   ' if last else '│  '}{line}" for line in lineage_lines(one.inputs)]
    return lines


def lineage_content(inputs: Sequence[Ancestor]) -> list[dict[str, Any]]:
    """The same for JSON."""
    return [
        {
            "name": one.name,
            "kind": one.kind,
            "digest": one.digest,
            "recorded_path": one.recorded_path,
            "path": None if one.path is None else str(one.path),
            "found": one.found,
            "stage": one.stage,
            "created_at": None if one.created_at is None else one.created_at.isoformat(),
            "inputs": lineage_content(one.inputs),
            "inputs_left_out": one.inputs_left_out,
        }
        for one in inputs
    ]


def short(path: Path) -> str:
    """A path as one would type it here: relative where it lies below the current folder."""
    here = Path(os.path.abspath(path))
    return str(here.relative_to(Path.cwd())) if here.is_relative_to(Path.cwd()) else str(path)


def _told(one: Ancestor) -> str:
    head = f"{one.name}: {one.kind} {one.digest[:_DIGITS]}"
    if one.found == "elsewhere":
        return f"{head}, read from {one.recorded_path}, which is not looked up"
    if one.path is None:
        return f"{head}, not found ({one.recorded_path})"
    if one.found == "changed":
        return f"{head}, not found: {short(one.path)} holds something else by now"
    made = "" if one.created_at is None else f", by {one.stage} {one.created_at:%Y-%m-%d %H:%M} UTC"
    left_out = f" ({one.inputs_left_out})" if one.inputs_left_out else ""
    return f"{head}, {short(one.path)}{made}{left_out}"
