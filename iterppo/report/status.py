"""`iterppo status`: what is fresh, stale, half-written or missing in a run, as a table."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Told(Protocol):
    """The state of an artifact, as `iterppo.freshness` has it."""

    @property
    def path(self) -> Any:
        """Its folder."""

    @property
    def state(self) -> str:
        """`fresh`, or what it is instead."""

    @property
    def reasons(self) -> Sequence[str]:
        """Why it is not fresh."""


Rounds = Mapping[str, Mapping[str, tuple[str, Sequence[Told]]]]
"""Per round and stage the state, and the artifacts that it is made up of."""

_MISSING = "·"


def status_text(run: str, rounds: Rounds) -> str:
    """Rows are rounds, columns stages; below, why something is not fresh."""
    stages = list(next(iter(rounds.values()), {}))
    table = [["", *stages]]
    for name, cells in rounds.items():
        shown = (cells[stage][0] for stage in stages)
        table.append([name, *(_MISSING if state == "missing" else state for state in shown)])
    widths = [max(len(row[number]) for row in table) for number in range(len(table[0]))]
    lines = [run]
    lines += [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]
    lines.append(f"({_MISSING} not made)")
    reasons: dict[str, list[str]] = {}
    for one in _told(rounds):
        for reason in one.reasons if one.state != "fresh" else ():
            reasons.setdefault(f"{one.state}: {reason}", []).append(str(one.path))
    for reason, paths in reasons.items():
        lines.append(reason)
        lines += [f"  {path}" for path in paths]
    return "\n".join(lines)


def status_json(run: str, rounds: Rounds) -> str:
    """The same with every artifact by itself."""
    content = {
        "run": run,
        "rounds": {
            name: {
                stage: {
                    "state": state,
                    "artifacts": [
                        {
                            "path": str(one.path),
                            "state": one.state,
                            "reasons": list(one.reasons),
                        }
                        for one in found
                    ],
                }
                for stage, (state, found) in cells.items()
            }
            for name, cells in rounds.items()
        },
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


def _told(rounds: Rounds) -> list[Told]:
    return [one for cells in rounds.values() for _, found in cells.values() for one in found]
