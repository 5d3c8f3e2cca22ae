"""Decisions before a deployment, on simulated logs whose truth is known: how often intervals cover,
and how often a worse policy is shipped.

A simulation draws two different policies, a log of the one (300 to 1,000 conversations of the
shop), and asks `evaluate` for the value of the other. The truth is the shop's exact solution.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from benchmarks.light_q import logged
from benchmarks.simulated_policies import GAMMA, Mixture, play, true_value
from iterppo.config import EvaluateConfig
from iterppo.statistics.evaluation import Estimate, FittedQ, decisive, estimates
from iterppo.statistics.gate import decide, improvement
from iterppo.statistics.overlap import limits_of

POLICIES = (
    *(Mixture("mediocre", "expert", share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)),
    *(Mixture("mediocre", "uniform", share) for share in (0.5, 1.0)),
)
METHODS = ("dr", "wis", "fqe")
SIZES = (300, 600, 1000)
MEMBERS = 5
SAMPLES = 500


class Simulated(NamedTuple):
    """A log, and what was said of another policy."""

    truth: float
    """Value of the new policy."""
    behaviour: float
    """Value of the policy that made the log."""
    found: list[Estimate]

    @property
    def is_worse(self) -> bool:
        """Whether the new policy is truly worse."""
        return self.truth < self.behaviour

    @property
    def ships(self) -> bool:
        """What the gate says where nothing but the value is asked for."""
        config = EvaluateConfig()
        chosen = decisive(self.found, method=config.decide_by)
        return decide(
            improvement=improvement(chosen, tolerance=config.tolerance),
            kl=None,
            verdict=None,
            guarded=(),
            expects_guardrails=False,
        ).ships


def simulations(*, num: int, worse: bool, seed: int) -> Iterator[Simulated]:
    """Logs and other policies that are truly worse, or truly better."""
    pairs = [
        (b, policy)
        for b in POLICIES
        for policy in POLICIES
        if b != policy and (true_value(policy) < true_value(b)) == worse
    ]
    generator = np.random.default_rng((seed, worse))
    for number in range(num):
        behaviour, policy = pairs[generator.integers(len(pairs))]
        size = int(generator.choice(SIZES))
        own_seed = int(generator.integers(2**31))
        yield simulate(behaviour, policy, num=size, seed=own_seed + number)


def simulate(behaviour: Mixture, policy: Mixture, *, num: int, seed: int) -> Simulated:
    """A log of `behaviour`, and what is said of `policy`."""
    rows = logged(
        play(behaviour, num=num, seed=seed), behaviour, policy, members=MEMBERS, seed=seed
    )
    config = EvaluateConfig()
    found = estimates(
        {"logged": rows},
        fitted=FittedQ(GAMMA),
        limits=limits_of(config),
        gamma=GAMMA,
        seed=seed,
        samples=SAMPLES,
    )
    return Simulated(true_value(policy), true_value(behaviour), found)


def before_deployment(*, num: int, seed: int) -> dict[str, float]:
    """Coverage by method and over all claims, false ships, and ships of what is better.

    Args:
        num: Simulations with a policy that is truly worse, and as many with one that is better.
        seed: Of everything.
    """
    claims: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    ships: Counter[bool] = Counter()
    for worse in (True, False):
        for one in simulations(num=num, worse=worse, seed=seed):
            ships[worse] += one.ships
            for each in one.found:
                if not each.supported or each.method == "behaviour":
                    continue
                claims[each.method] += 1
                covered[each.method] += each.value.low <= one.truth <= each.value.high
    return {
        "coverage": covered.total() / max(1, claims.total()),
        **{f"coverage_{name}": covered[name] / max(1, claims[name]) for name in METHODS},
        **{f"claims_{name}": claims[name] / (2 * num) for name in METHODS},
        "false_ship_rate": ships[True] / num,
        "ship_rate_better": ships[False] / num,
    }
