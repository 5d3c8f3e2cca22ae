"""The diagnostics of a Q, as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_ESTIMATES = {
    "explained_variance": "explained variance over a constant",
    "explained_variance_over_turn_means": "  over the mean return of each turn",
    "explained_variance_over_state_only": "  over V, which sees the state alone",
    "state_only_explained_variance": "V's own, over a constant",
    "auc": "AUC",
    "calibration_error": "calibration error",
    "discrimination": "pairs of actions in the right order",
    "discrimination_gain": "  beyond what the state gives",
    "action_share": "share of Q's variance from the action",
    "q_per_10_tokens": "Q per 10 more tokens",
    "residual_length_correlation": "what Q misses, with length",
}


def q_text(folder: Path) -> list[str]:
    """Lines about `metrics.json` of a `q` artifact; none where it is not there, or an older one."""
    try:
        metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    heldout = metrics.get("heldout") or {}
    if "verdict" not in heldout:
        return []
    lines = [
        f"  verdict {heldout['verdict']}: {heldout['verdict_reason']}",
        f"  {turns_told(heldout)}, mean return {_number(heldout['return_mean'])}, "
        f"mean Q {_number(heldout['q_mean'])}",
        f"    {'':<38} {'':>9}  95 % interval",
    ]
    for name, label in _ESTIMATES.items():
        if heldout.get(name) is None:
            lines.append(f"    {label:<38} {'unknown':>9}")
            continue
        low, high = heldout.get(f"{name}_low"), heldout.get(f"{name}_high")
        interval = "" if low is None else f"  [{_number(low)}, {_number(high)}]"
        lines.append(f"    {label:<38} {_number(heldout[name]):>9}{interval}")
    lines.append(f"  {pairs_told(heldout)}")
    lines += _curve(heldout.get("calibration_curve") or [])
    lines += _coverage(metrics.get("coverage"))
    behaviour = metrics.get("behaviour") or {}
    if behaviour.get("share_personas"):
        share = f"{behaviour['share_personas']:.0%}"
        lines.append(f"  {share} of the training turns under a persona: Q is that of")
        lines.append(f"    {behaviour['evaluates']}")
    lines += [f"  {text}" for text in advice_told(behaviour)]
    return lines


def turns_told(heldout: Mapping[str, Any]) -> str:
    """What Q is judged on: what it was not fitted on, or was fitted without in turn.

    >>> turns_told({"num_turns": 9, "num_conversations": 4, "num_conversations_left_out": 3})
    'left out of the fit: 9 turns of 4 conversations (1 held out, 3 in five fits without them)'
    >>> turns_told({"num_turns": 9, "num_conversations": 4})
    'held-out: 9 turns of 4 conversations'
    """
    turns, number = heldout["num_turns"], heldout["num_conversations"]
    apart = heldout.get("num_conversations_left_out", 0)
    if not apart:
        return f"held-out: {turns} turns of {number} conversations"
    return (
        f"left out of the fit: {turns} turns of {number} conversations "
        f"({number - apart} held out, {apart} in five fits without them)"
    )


def pairs_told(heldout: Mapping[str, Any]) -> str:
    """How many pairs of actions were compared, and what their two states have in common.

    >>> pairs_told({"discrimination_pairs": 7, "discrimination_matched_by": "state"})
    '7 pairs of actions, each of one state'
    """
    text = f"{heldout['discrimination_pairs']} pairs of actions"
    matched_by = heldout["discrimination_matched_by"]
    if matched_by is None:
        return text
    if matched_by == "state":
        return f"{text}, each of one state"
    return f"{text}, each of two states with the same turn number and last message of the customer"


def advice_told(behaviour: Mapping[str, Any]) -> list[str]:
    """Whose returns these are, where they are not known to be those of the policy to improve."""
    return [
        f"{behaviour[share]:.0%} of the training turns: {behaviour[advice]}"
        for advice, share in (
            ("advice", "share_other_policies"),
            ("advice_unknown", "share_unknown_policies"),
        )
        if behaviour.get(advice)
    ]


def _curve(bins: list[Mapping[str, Any]]) -> list[str]:
    if not bins:
        return []
    lines = ["  calibration: mean Q, mean return with its interval, turns"]
    for one in bins:
        lines.append(
            f"    {_number(one['q_mean']):>8}  {_number(one['return_mean']):>8} "
            f"[{_number(one['return_mean_low'])}, {_number(one['return_mean_high'])}]  "
            f"{one['num_turns']}"
        )
    return lines


def _coverage(found: Mapping[str, Any] | None) -> list[str]:
    if not found or found["support"] is None:
        return []
    interval = f"[{_number(found['support_low'])}, {_number(found['support_high'])}]"
    return [
        f"  coverage: {found['support']:.0%} {interval} of {found['num_actions']} sampled actions "
        "have support,",
        "    a training turn whose customer's last message and action are within an edit distance "
        f"of 0.5; {found['support_in_any_state']:.0%} whatever the customer said",
    ]


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.3f}"
