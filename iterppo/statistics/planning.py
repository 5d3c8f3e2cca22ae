"""How many conversations an experiment needs."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scipy import stats

from iterppo.errors import UsageError


@dataclass(frozen=True)
class Plan:
    """The size of an experiment."""

    conversations_per_arm: int
    clusters_per_arm: int
    """Customers, say; as many as conversations where each has one."""
    arms: int
    design_effect: float
    """How many clustered conversations tell as much as one independent one."""
    alpha_per_comparison: float


def plan(
    *,
    base_rate: float,
    lift: float,
    power: float,
    alpha: float,
    cluster_size: int,
    icc: float,
    arms: int,
) -> Plan:
    """Conversations per arm for a difference of two outcome rates to be found.

        n = (z_{1−α/2} √(2 p̄(1 − p̄)) + z_power √(p_0(1 − p_0) + p_1(1 − p_1)))² / lift²

    (Fleiss, Levin & Paik, 2003, section 4.2) for independent conversations, which `compare` judges
    by Newcombe's interval. For G clusters of m conversations with intra-cluster correlation ρ,
    where it takes a t test with 2(G − 1) degrees of freedom, the least G whose power by the
    noncentral t distribution suffices, with

        variance of the difference = [1 + (m − 1) ρ] (p_0(1 − p_0) + p_1(1 − p_1)) / (G m).

    With several arms each is compared with the first at α/(arms − 1), the first step of Holm's
    correction, so each comparison has the power by itself.

    Args:
        base_rate: p_0, outcome rate of the base.
        lift: p_1 − p_0, absolute.
        power: Chance to find it.
        alpha: Chance to find what is not there, in any comparison.
        cluster_size: m, conversations of a customer, or of whatever is assigned as a whole.
        icc: ρ, intra-cluster correlation of the outcome.
        arms: Arms with the base.

    Raises:
        UsageError: If a number is out of its range.

    >>> plan(base_rate=0.2, lift=0.05, power=0.8, alpha=0.05, cluster_size=1, icc=0.0,
    ...      arms=2).conversations_per_arm
    1094
    """
    _check(base_rate, lift, power, alpha, cluster_size, icc, arms)
    alone = alpha / (arms - 1)
    rate = base_rate + lift
    apart = base_rate * (1 - base_rate) + rate * (1 - rate)
    middle = (base_rate + rate) / 2
    normal = stats.norm.ppf
    z_alpha, z_power = float(normal(1 - alone / 2)), float(normal(power))
    pooled = math.sqrt(2 * middle * (1 - middle))
    num = math.ceil((z_alpha * pooled + z_power * math.sqrt(apart)) ** 2 / lift**2)
    if cluster_size == 1:
        return Plan(num, num, arms, 1.0, alone)
    effect = 1 + (cluster_size - 1) * icc
    per_cluster = effect * apart / cluster_size  # variance of the difference, times G

    def is_enough(clusters: int) -> bool:
        df = 2 * (clusters - 1)
        away = abs(lift) / math.sqrt(per_cluster / clusters)
        return float(stats.nct.sf(stats.t.ppf(1 - alone / 2, df), df, away)) >= power

    low, high = 1, 2  # too few, enough
    while not is_enough(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle_count = (low + high) // 2
        low, high = (low, middle_count) if is_enough(middle_count) else (middle_count, high)
    return Plan(high * cluster_size, high, arms, effect, alone)


def _check(
    base_rate: float,
    lift: float,
    power: float,
    alpha: float,
    cluster_size: int,
    icc: float,
    arms: int,
) -> None:
    if not 0 < base_rate < 1:
        raise UsageError(f"--base-rate {base_rate:g}: a rate lies between 0 and 1, as 0.2.")
    if lift == 0 or not 0 < base_rate + lift < 1:
        raise UsageError(
            f"--lift {lift:g}: is added to the base rate {base_rate:g}, and must lead to another "
            "rate between 0 and 1."
        )
    if not 0 < alpha < 1:
        raise UsageError(f"--alpha {alpha:g}: lies between 0 and 1, as 0.05.")
    if not alpha < power < 1:
        raise UsageError(f"--power {power:g}: lies between alpha and 1, as 0.8.")
    if cluster_size < 1 or arms < 2:
        raise UsageError("--cluster-size is at least 1, --arms at least 2.")
    if not 0 <= icc <= 1:
        raise UsageError(f"--icc {icc:g}: a correlation of conversations lies in 0 … 1.")
    if icc > 0 and cluster_size == 1:
        raise UsageError(
            f"--icc {icc:g}: says nothing where every cluster has one conversation. Name "
            "--cluster-size."
        )
