"""`iterppo plan`: the size of an experiment, as text."""

from __future__ import annotations

from iterppo.statistics.planning import Plan


def plan_text(plan: Plan, *, cluster_size: int, base_rate: float, lift: float, power: float) -> str:
    """What to collect, and what it buys."""
    size = f"{plan.conversations_per_arm} conversations per arm"
    if cluster_size > 1:
        size += (
            f", {plan.clusters_per_arm} clusters of {cluster_size} (one independent conversation "
            f"tells as much as {plan.design_effect:.2f} of them)"
        )
    lines = [
        size,
        f"{plan.conversations_per_arm * plan.arms} in all {plan.arms} arms: a rate of "
        f"{base_rate + lift:.12g} instead of {base_rate:g} is found with a chance of {power:.0%}",
    ]
    if plan.arms > 2:
        lines.append(
            f"each arm is compared with the first at {plan.alpha_per_comparison:.3g}, for their "
            "number"
        )
    lines.append("count conversations that end; those still open when the log is cut tell nothing")
    return "\n".join(lines)
