"""`iterppo compare`: what a comparison says, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iterppo.contracts.trajectories import ADOPTIONS
from iterppo.statistics import FEWEST_CONVERSATIONS

_METHODS = {
    "newcombe": "Newcombe",
    "cluster-robust": "cluster-robust t",
    "welch": "Welch's t",
    "always-valid": "always valid: look as often as you like",
}
_LABELS = {
    "return": "return",
    "turns_to_outcome": "turns to the outcome, where reached",
    **{f"adoption_{kind}": f"{kind.replace('_', ' ')}, of turns" for kind in ADOPTIONS},
}


def comparison_text(result: Mapping[str, Any]) -> str:
    """The comparison as tables: outcome rates, other measures, segments."""
    arms = result["arms"]
    methods = {arm["method"] for arm in arms if "method" in arm}
    method = ", ".join(_METHODS[each] for each in sorted(methods))
    own = "bootstrap by cluster" if "clusters" in arms[0] else "Wilson"
    title = f"success rate with 95 % interval ({own})"
    lines = [f"{title}; difference to the first ({method})" if method else title]
    lines += [f"  {_arm_line(arm)}" for arm in arms]
    lines += _warnings(result)
    lines += _measures(arms)
    for block in result.get("segments", ()):
        lines += _segment_lines(block, result["by"])
    return "\n".join(lines)


def sample_ratio_text(ratio: Mapping[str, Any]) -> str:
    """The sizes of the arms beside their plan, on one line."""
    counts = " and ".join(str(count) for count in ratio["counts"])
    plan = ":".join(f"{part:g}" for part in ratio["expected"])
    return (
        f"the arms hold {counts} {ratio['counted']} where {plan} was planned "
        f"(p = {ratio['p_value']:.1g})"
    )


def _arm_line(arm: Mapping[str, Any]) -> str:
    name = _policies(arm)
    if "rate" not in arm:
        return f"{name}: no conversation ended  {arm['trajectories']}"
    text = f"{name}: {_interval(arm, 'rate')}  of {arm['conversations']}"
    if arm["censored"]:
        text += f" ({arm['censored']} open)"
    if "difference" in arm:
        text += f"  {_interval(arm, 'difference', sign='+')}"
        text += f"  p {_p(arm['p_value'])}"
        if arm["p_value_holm"] != arm["p_value"]:
            text += f" (Holm {_p(arm['p_value_holm'])})"
    return f"{text}  {arm['trajectories']}"


def _policies(arm: Mapping[str, Any]) -> str:
    """Who held the conversations; of some nothing may say."""
    return ", ".join([*arm["policy_versions"], *["policy unknown"] * ("policy_unknown" in arm)])


def _warnings(result: Mapping[str, Any]) -> list[str]:
    lines = [line for arm in result["arms"] for line in _too_few(arm)]
    ratio = result["sample_ratio"]
    if ratio is not None and not ratio["holds"]:
        lines.append(
            f"  {sample_ratio_text(ratio)}: a difference may come from how conversations were "
            "assigned or lost"
        )
    if not result["open"]["alike"]:
        lines.append(
            "  the arms differ in their shares of open conversations "
            f"(p = {result['open']['p_value']:.1g}), and only ended ones are counted: wait until "
            "fewer are open"
        )
    adjustment = result.get("adjustment")
    if adjustment is not None:
        lines.append(
            f"  adjusted by V of the first state, known for "
            f"{adjustment['conversations_with_covariate']} conversations: "
            f"{adjustment['variance_explained']:.1%} of the variance is gone"
        )
    return lines


def _too_few(arm: Mapping[str, Any]) -> list[str]:
    """One line, or none; an arm of which nothing ended says so itself."""
    counted = "clusters" if "clusters" in arm else "conversations"
    if "rate" not in arm or arm[counted] >= FEWEST_CONVERSATIONS:
        return []
    return [
        f"  {arm['trajectories']}: too few {counted} to compare with: {arm[counted]}, and "
        f"{FEWEST_CONVERSATIONS} are needed. Collect more."
    ]


def _measures(arms: list[dict[str, Any]]) -> list[str]:
    """A table for each measure that any arm has."""
    lines = []
    for measure, label in _LABELS.items():
        if all(not arm.get(measure) for arm in arms):
            continue
        lines.append(label)
        for arm in arms:
            name = _policies(arm)
            if measure not in arm:
                lines.append(f"  {name}: unknown")
                continue
            text = f"  {name}: {_interval(arm, measure)}"
            if f"{measure}_difference" in arm:
                text += f"  {_interval(arm, f'{measure}_difference', sign='+')}"
            lines.append(text)
    if lines:
        lines.append(
            "(the measures below the success rate: bootstrap intervals, each for itself and for "
            f"one look; [unknown]: fewer than {FEWEST_CONVERSATIONS} conversations, or clusters, "
            "have it, or all have the same)"
        )
    return lines


def _segment_lines(block: Mapping[str, Any], by: str) -> list[str]:
    lines = [
        f"exploratory, by {by}, {block['trajectories']} to the first: nothing is corrected for the "
        f"number of segments; that all are alike has p {_p(block['p_value_heterogeneity'])}"
    ]
    for row in block["segments"]:
        sizes = f"{row['conversations']} and {row['base_conversations']}"
        told = _interval(row, "difference", sign="+") if "difference" in row else "unknown"
        lines.append(f"  {row['segment']}: {told}  of {sizes}")
    return lines


def _interval(row: Mapping[str, Any], name: str, *, sign: str = "") -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if low is None or high is None:
        return f"{value:{sign}.3f} [unknown]"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


def _p(value: float) -> str:
    """What stands behind `p`. Far below any level, digits say nothing, and may be 0 by rounding.

    >>> _p(0.0123), _p(0.0004), _p(0.0)
    ('= 0.012', '= 0.0004', '< 1e-6')
    """
    if value < 1e-6:
        return "< 1e-6"
    return f"= {value:.3f}" if value >= 0.001 else f"= {value:.1g}"
