"""How far a Q can be trusted: its verdict, its diagnostics with what they should be, calibration.

metrics.json of q -> Quality
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from iterppo.report.page.run import Place
from iterppo.report.page.success import interval
from iterppo.report.q_text import advice_told, pairs_told, turns_told


@dataclass(frozen=True)
class Measure:
    """One number about Q on held-out turns."""

    label: str
    told: str
    """With its 95 % interval."""
    wanted: str


@dataclass(frozen=True)
class Bin:
    """Turns of alike Q̂, beside what really came of them."""

    q: float
    mean: float
    low: float
    high: float
    turns: int


@dataclass(frozen=True)
class Quality:
    """A Q's diagnostics."""

    verdict: str
    reason: str
    method: str
    summary: str
    measures: tuple[Measure, ...]
    calibration: tuple[Bin, ...]
    groups: tuple[tuple[str, tuple[Mapping[str, Any], ...]], ...]
    """Turn numbers and segments: calibration within each."""
    validation: tuple[float, ...]
    """Loss on held-out conversations before the first epoch and behind each."""
    advice: str


# (name in metrics.json, label, what is wanted of it)
_MEASURES = (
    ("explained_variance", "Explained variance, against a constant", "above 0"),
    ("explained_variance_over_turn_means", "… against the mean return of each turn", "above 0"),
    ("explained_variance_over_state_only", "… against V, which sees no action", "above 0"),
    ("auc", "AUC", "above 0.5"),
    ("calibration_error", "Calibration error", "at most 0.1, or as chance has it"),
    ("discrimination", "Pairs of actions in the right order", "above 0.5"),
    ("discrimination_gain", "… beyond what the state gives", "above 0"),
    ("action_share", "Share of Q's variance from the action", "at least 0.01"),
    ("q_per_10_tokens", "Q per 10 more tokens, at one state", "no more than returns follow"),
    ("residual_length_correlation", "What Q misses, with length", "about 0"),
)


def read_quality(place: Place) -> Quality:
    """The diagnostics that `fit-q` left beside its model.

    Raises:
        KeyError: If they are of a release that gave no verdict.
    """
    metrics = json.loads((place.path / "metrics.json").read_text(encoding="utf-8"))
    heldout = metrics["heldout"]
    fit = metrics.get("fit") or {}
    behaviour = metrics.get("behaviour") or {}
    return Quality(
        heldout["verdict"],
        heldout["verdict_reason"],
        str(fit.get("method", "")),
        f"{turns_told(heldout)}; "
        f"mean return {_number(heldout['return_mean'])}, mean Q {_number(heldout['q_mean'])}; "
        f"{pairs_told(heldout)}.",
        tuple(
            Measure(label, interval(heldout, name) or "unknown", wanted)
            for name, label, wanted in _MEASURES
        ),
        tuple(_bin(each) for each in heldout.get("calibration_curve") or ()),
        tuple(_groups(heldout)),
        tuple(value for value in fit.get("validation", ()) if isinstance(value, float)),
        " ".join(advice_told(behaviour)),
    )


def _bin(content: Mapping[str, Any]) -> Bin:
    low, high = content["return_mean_low"], content["return_mean_high"]
    return Bin(
        content["q_mean"],
        content["return_mean"],
        math.nan if low is None else low,
        math.nan if high is None else high,
        content["num_turns"],
    )


def _groups(heldout: Mapping[str, Any]) -> list[tuple[str, tuple[Mapping[str, Any], ...]]]:
    """Those of more than one member, by what they are groups of."""
    found = {"turn": heldout.get("by_turn") or {}, **(heldout.get("by_segment") or {})}
    return [
        (name.replace("_", " "), tuple(content["groups"]))
        for name, content in found.items()
        if len(content.get("groups") or ()) > 1
    ]


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3f}"
