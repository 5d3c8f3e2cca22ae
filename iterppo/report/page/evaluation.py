"""What `evaluate` said of a policy before anybody met it: the gate, estimates, guardrails.

    evaluation.json and rows of `evaluation` -> Evaluation

Read as they lie there, by name: a part that an artifact does not have is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow.parquet as pq

from iterppo.report.page.run import Place
from iterppo.report.page.success import interval

_METHODS = {
    "dr": "doubly robust",
    "wis": "importance sampling",
    "fqe": "fitted Q",
    "behaviour": "mean return of the log",
}


@dataclass(frozen=True)
class Estimate:
    """A method's answer, or why it has none."""

    method: str
    value: str
    difference: str
    note: str


@dataclass(frozen=True)
class Guardrail:
    """A measure of suggestions that must not get worse."""

    name: str
    old: str
    new: str
    difference: str
    fails: bool


@dataclass(frozen=True)
class Evaluation:
    """All of it."""

    gate: str
    """ship or hold; empty where there is no decision."""
    reason: str
    criteria: tuple[tuple[bool, str], ...]
    """Whether each holds, and what was found."""
    estimates: tuple[Estimate, ...]
    guardrails: tuple[Guardrail, ...]
    warnings: tuple[str, ...]


def read_evaluation(place: Place) -> Evaluation:
    """The content of an evaluation."""
    assert place.manifest is not None
    metrics = place.manifest.metrics
    file = place.path / "evaluation.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    gate = told.get("gate") or {}
    rows = [row for part in place.artifact().parts() for row in pq.read_table(part).to_pylist()]
    return Evaluation(
        str(metrics.get("gate") or ""),
        str(metrics.get("gate_reason") or ""),
        tuple((bool(each["holds"]), str(each["said"])) for each in gate.get("criteria", ())),
        tuple(_estimate(row) for row in rows),
        tuple(_guardrail(each) for each in told.get("guardrails", ())),
        tuple(str(each) for each in gate.get("warnings", ())),
    )


def _estimate(row: Mapping[str, Any]) -> Estimate:
    method = _METHODS.get(row["method"], str(row["method"]))
    if row.get("logprobs"):
        method += f", {row['logprobs']} log-probabilities"
    note = str(row.get("reason") or f"{row['num_conversations']} conversations")
    if row.get("effective_sample_size") is not None:
        note += f", worth {row['effective_sample_size']:.0f}"
    return Estimate(method, interval(row, "value"), interval(row, "difference", sign="+"), note)


def _guardrail(told: Mapping[str, Any]) -> Guardrail:
    found = {"difference": told["difference"]}
    found |= {f"difference_{end}": told.get(end) for end in ("low", "high")}
    return Guardrail(
        str(told["name"]).replace("_", " "),
        f"{told['old']:.3f}",
        f"{told['new']:.3f}",
        interval(found, "difference", sign="+"),
        bool(told["fails"]),
    )
