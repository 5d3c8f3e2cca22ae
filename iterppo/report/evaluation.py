"""`iterppo evaluate`: what it found, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iterppo.artifact import open_artifact

_METHODS = {
    "dr": "doubly robust",
    "wis": "importance sampling",
    "fqe": "fitted Q",
    "behaviour": "mean return",
}


def evaluation_text(folder: Path) -> str:
    """Estimates, guardrails and the gate's decision."""
    artifact = open_artifact(folder, "evaluation")
    told = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    rows = list(artifact.rows())
    versions = next(iter(rows))
    lines = [
        f"{versions['policy_version']} by the log of {versions['behaviour_version']}: value with "
        "95 % interval (bootstrap by conversation); improvement",
        *(f"  {_estimate(row)}" for row in rows),
        *_guardrails(told["guardrails"]),
        *(f"warning: {line}" for line in told["gate"]["warnings"]),
        decision_text(told["gate"]),
    ]
    return "\n".join(lines)


def decision_text(gate: Mapping[str, Any]) -> str:
    """Ship or hold, with the reason, on one line."""
    return f"{'ship' if gate['ship'] else 'hold'}: {gate['reason']}"


def _estimate(row: Mapping[str, Any]) -> str:
    name = _METHODS[row["method"]]
    if row["logprobs"]:
        name += f", {row['logprobs']} log-probabilities"
    if not row["supported"]:
        return f"{name}: no number: {row['reason']}"
    rate = "" if row["gamma"] == 1 else f" (discounted by {row['gamma']:g} a turn)"
    text = f"{name}: {_interval(row, 'value')}{rate}"
    if row["difference"] is not None:
        text += f"  {_interval(row, 'difference', sign='+')}"
    text += f"  of {row['num_conversations']}"
    if row["effective_sample_size"] is not None:
        text += (
            f" (effective {row['effective_sample_size']:.0f}, largest weight "
            f"{row['max_weight_share']:.1%})"
        )
    return text


def _guardrails(guarded: list[Mapping[str, Any]]) -> list[str]:
    if not guarded:
        return []
    lines = ["suggestions, new and old policy in the same states; difference (p of getting worse)"]
    for each in guarded:
        low, high = each["low"], each["high"]
        interval = "" if low is None else f" [{low:+.3g}, {high:+.3g}]"
        mark = "  <- worse" if each["fails"] else ""
        mark += f" ({each['action']})" if each["fails"] else ""
        lines.append(
            f"  {each['name'].replace('_', ' ')}: {each['new']:.3g} and {each['old']:.3g}, "
            f"{each['difference']:+.3g}{interval} (p {each['p_value_holm']:.2g}){mark}"
        )
    return lines


def _interval(row: Mapping[str, Any], name: str, *, sign: str = "") -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
