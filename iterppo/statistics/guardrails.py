"""Does a new policy get worse in what no outcome shows? Suggestions of both policies in the same
states, measure by measure.

    d = mean of the new policy − mean of the old one,      H₀: d ≤ margin

A policy that is optimised for an outcome may reach it by means that nobody wanted: pressure,
flattery, targeting those who give in. A guardrail blocks where H₀ is rejected after Holm's
correction over all guardrails that are on. Suggestions of one conversation are alike, so the errors
are clustered by conversation (CR2, `cluster_difference`).

Shapes: S suggestions of both policies, G guardrails.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from iterppo.statistics.cluster_difference import MeanDifference, cluster_difference
from iterppo.statistics.holm import holm
from iterppo.statistics.resampling import Array

ROUNDING = 1e-12
"""Of a difference: a standard error below is that of adding numbers, not of suggestions."""
LEVEL = 0.95

Worse = Literal["more", "less", "either"]
Action = Literal["block", "warn", "off"]


@dataclass(frozen=True)
class Rule:
    """What a guardrail does."""

    action: Action
    worse: Worse
    """Which direction is bad."""
    margin: float
    """Change that is still none, in units of the measure."""


@dataclass(frozen=True)
class Suggestions:
    """Of both policies; states that only one of them was asked in are left out before."""

    conversation_S: Array
    is_new_S: Array
    values: Mapping[str, Array]
    """By measure: a number for each suggestion."""


@dataclass(frozen=True)
class Guardrail:
    """What a measure showed."""

    name: str
    action: Action
    worse: Worse
    margin: float
    new: float
    """Mean of the new policy."""
    old: float
    difference: float
    low: float
    """Of the 95 % interval of the difference; NaN where nothing varies."""
    high: float
    p_value: float
    """One-sided, of a change that is not beyond the margin."""
    p_value_holm: float
    fails: bool

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def guardrails(
    suggestions: Suggestions, rules: Mapping[str, Rule], *, alpha: float
) -> list[Guardrail]:
    """Test every guardrail that is on.

    Args:
        suggestions: With a measure for each rule that is on.
        rules: By measure.
        alpha: Chance that any guardrail fails although none got worse.

    Returns:
        One for each rule that is on, in their order; none where a policy has no suggestions.
    """
    active = {name: rule for name, rule in rules.items() if rule.action != "off"}
    is_new_S = suggestions.is_new_S.astype(bool)
    if not active or is_new_S.all() or not is_new_S.any():
        return []
    tested = []
    for name, rule in active.items():
        value_S = suggestions.values[name]
        found = cluster_difference(value_S, is_new_S.astype(int), suggestions.conversation_S)
        num = len(np.unique(suggestions.conversation_S))
        tested.append((name, rule, value_S, found, _p_value(found, rule, num_clusters=num)))
    corrected = holm([p for *_, p in tested])
    return [
        Guardrail(
            name=name,
            action=rule.action,
            worse=rule.worse,
            margin=rule.margin,
            new=float(value_S[is_new_S].mean()),
            old=float(value_S[~is_new_S].mean()),
            difference=found.difference,
            low=found.interval(level=LEVEL)[0],
            high=found.interval(level=LEVEL)[1],
            p_value=p,
            p_value_holm=adjusted,
            fails=adjusted <= alpha,
        )
        for (name, rule, value_S, found, p), adjusted in zip(tested, corrected, strict=True)
    ]


def _p_value(found: MeanDifference, rule: Rule, *, num_clusters: int) -> float:
    """Of H₀: the change in the bad direction is at most the margin."""
    changes = {
        "more": [found.difference],
        "less": [-found.difference],
        "either": [found.difference, -found.difference],
    }[rule.worse]
    p_values = [_one_sided(change - rule.margin, found, num_clusters) for change in changes]
    return min(1.0, len(p_values) * min(p_values))


def _one_sided(beyond: float, found: MeanDifference, num_clusters: int) -> float:
    """t test; where nothing varies within a policy, the sign test that conversations still allow:
    all of them moved the same way."""
    varies_not = found.standard_error <= ROUNDING * abs(found.difference)
    if math.isnan(found.standard_error) or (beyond <= 0 and varies_not):
        return 1.0
    if varies_not:
        return 0.5**num_clusters
    return float(stats.t.sf(beyond / found.standard_error, found.degrees_of_freedom))


def measured(
    conversation_ids: Sequence[str],
    is_new: Sequence[bool],
    texts: Sequence[str | None],
    measures: Mapping[str, Any],
) -> Suggestions:
    """Read suggestions with every measure, each text once."""
    values = {}
    for name, measure in measures.items():
        known = {text: measure(text) for text in dict.fromkeys(texts)}
        values[name] = np.asarray([known[text] for text in texts], dtype=float)
    return Suggestions(np.asarray(conversation_ids), np.asarray(is_new, dtype=bool), values)
