"""Experiments whose truth is known: outcomes of conversations, in clusters or over days.

Shapes: N conversations, C clusters.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from iterppo.statistics.outcome_effect import Outcomes

Array = np.ndarray[Any, Any]


class Experiment(NamedTuple):
    """Two arms."""

    arm: Outcomes
    base: Outcomes


def independent(
    generator: np.random.Generator, *, num_per_arm: int, rate: float, base_rate: float
) -> Experiment:
    """Conversations that have nothing to do with each other."""
    arm, base = (
        Outcomes((generator.random(num_per_arm) < each).astype(float)) for each in (rate, base_rate)
    )
    return Experiment(arm, base)


def clustered(
    generator: np.random.Generator,
    *,
    cluster_sizes: Array,
    icc: float,
    rate: float,
    base_rate: float,
    split_clusters: bool,
) -> Experiment:
    """Conversations of customers, each of whom has a rate of his own.

    The rates of customers are Beta-distributed around that of the arm, so that outcomes of one
    customer have the intra-cluster correlation icc.

    Args:
        generator: Of all chance.
        cluster_sizes: Conversations of each customer, of both arms together.
        icc: In (0, 1).
        rate: Of the arm.
        base_rate: Of the base.
        split_clusters: Conversations are assigned, so that a customer is in both arms; else
            customers are. Then the first half is the arm.
    """
    num = len(cluster_sizes)
    cluster_N = np.repeat(np.arange(num), cluster_sizes)
    by_coin = generator.random(len(cluster_N)) < 0.5
    in_arm_N = by_coin if split_clusters else cluster_N < num // 2
    spread = (1 - icc) / icc
    own = generator.beta(base_rate * spread, (1 - base_rate) * spread, size=num)
    if rate != base_rate:
        if split_clusters:
            raise ValueError("a lift needs customers in one arm")
        own[: num // 2] = generator.beta(rate * spread, (1 - rate) * spread, size=num // 2)
    outcome_N = (generator.random(len(cluster_N)) < own[cluster_N]).astype(float)
    return Experiment(
        Outcomes(outcome_N[in_arm_N], cluster_N[in_arm_N]),
        Outcomes(outcome_N[~in_arm_N], cluster_N[~in_arm_N]),
    )


def customer_sizes(generator: np.random.Generator, *, num: int, mean: float) -> Array:
    """Conversations of customers: geometric, at least one; few come often."""
    return generator.geometric(1 / mean, size=num)
