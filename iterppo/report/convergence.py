"""`iterppo converged`: what two Q-functions on the same turns have to say, as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from iterppo.statistics import FEWEST_CONVERSATIONS


def convergence_text(result: Mapping[str, Any]) -> str:
    """The change of Q as a table."""
    r = result
    lines = [
        f"change of Q from {r['previous']} to {r['this']}, in discounted outcomes, with 95 % "
        "intervals by conversation",
        f"  {'RMSE':<18}{_number(r, 'rmse')}  decides: {decision_text(r)}",
        f"  {'max-norm':<18}{_number(r, 'max_norm')}",
        f"  {'mean change':<18}{_number(r, 'mean_change', sign='+')}",
        f"  {'rank correlation':<18}{_number(r, 'rank_correlation')}",
        f"  on {r['num_turns']} held-out turns of {r['num_conversations']} conversations of "
        f"{r['probe']}",
    ]
    left_out = {
        f"only {r['previous']}": r["num_turns_only_previous"],
        f"only {r['this']}": r["num_turns_only_this"],
        "neither": r["num_turns_neither"],
    }
    for who, number in left_out.items():
        if number:
            lines.append(f"  left out: {number} turns that {who} can score")
    if r["num_conversations"] < FEWEST_CONVERSATIONS:
        lines.append(
            f"  intervals of fewer than {FEWEST_CONVERSATIONS} conversations are too narrow to be "
            "trusted"
        )
    if r["rmse"] is not None and r["rank_correlation"] is None:
        lines.append("  one of the two is constant on these turns: it ranks nothing")
    return "\n".join(lines)


def decision_text(result: Mapping[str, Any]) -> str:
    """Converged or not, with the number that said so."""
    high, tolerance = result["rmse_high"], result["tolerance"]
    if high is None:
        return "not converged, a value of Q is not a number"
    if result["converged"]:
        return f"converged, {high:.4f} is at most the tolerance {tolerance:g}"
    return f"not converged, {high:.4f} is above the tolerance {tolerance:g}"


def _number(result: Mapping[str, Any], name: str, *, sign: str = "") -> str:
    value, low, high = (result[f"{name}{end}"] for end in ("", "_low", "_high"))
    if value is None:
        return "unknown"
    if low is None or high is None:
        return f"{value:{sign}.4f}"
    return f"{value:{sign}.4f} [{low:{sign}.4f}, {high:{sign}.4f}]"
