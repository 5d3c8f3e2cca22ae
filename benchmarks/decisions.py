"""How often `compare` and `evaluate` are wrong, and `plan`'s promise: simulated experiments whose
truth is known.

    python -m benchmarks.decisions [--quick] [--record]

coverage: share of the 95 % intervals that cover the shop's exact value of a policy, over all
numbers that `evaluate` gives; coverage_dr, _wis, _fqe by method, claims_… the share of the logs
from which the method gives a number. false_ship_rate: share of the policies that are truly worse
whose improvement passes the gate; ship_rate_better: of those that are truly better. 100 logs each
(`benchmarks.simulated_decisions`), with a light Q in the place of a language model's.

type1: share of A/A tests (nothing differs) in which the outcome rates are said to differ at
α = 0.05; 200 to 1,000 independent conversations per arm, rates from 0.05 to 0.5.

type1_clusters: the same with 40 to 200 customers in all, who have four conversations each in the
mean (geometric), an intra-cluster correlation of 0.05 to 0.4, and `--cluster customer_id`; in half
of the tests customers are assigned, in half conversations. type1_clusters_ignored: of the same
data where customers are assigned, without `--cluster`.

type1_sequential: share of A/A tests in which `--sequential` says so on any of 28 daily looks; 20 to
100 conversations per arm and day, of which looks after the first see all. type1_peeking: the same
looks by the interval for one look. type1_sequential_clusters: by customers, of whom 5 to 20 more
are seen each day in each arm.

power_error: largest distance of the power at `plan`'s size from the wanted one, over plans with and
without clusters.

Without --quick ten times as many. Every share has a standard error, `standard_error`, that of 5 %
in as many tests. The last line printed is a JSON object; `--record` writes it to
`benchmarks/results/decisions.json`.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import machine, say
from benchmarks.simulated_decisions import before_deployment
from benchmarks.simulated_experiments import Experiment, clustered, customer_sizes, independent
from iterppo.statistics.outcome_effect import Outcomes, outcome_effect
from iterppo.statistics.planning import plan

RESULT = Path(__file__).resolve().parent / "results" / "decisions.json"
ALPHA = 0.05
SCALE = 0.05
DAYS = 28
QUICK_TESTS = 2000
TESTS_PER_LOG = 20
"""Logs cost more than experiments, so there are fewer of them."""
PLANS: tuple[dict[str, Any], ...] = (
    {"base_rate": 0.2, "lift": 0.05, "cluster_size": 1, "icc": 0.0, "power": 0.8},
    {"base_rate": 0.05, "lift": 0.03, "cluster_size": 1, "icc": 0.0, "power": 0.8},
    {"base_rate": 0.6, "lift": -0.1, "cluster_size": 1, "icc": 0.0, "power": 0.9},
    {"base_rate": 0.3, "lift": 0.1, "cluster_size": 5, "icc": 0.2, "power": 0.8},
    {"base_rate": 0.2, "lift": 0.2, "cluster_size": 10, "icc": 0.3, "power": 0.8},
)


def says_different(experiment: Experiment, *, scale: float | None = None) -> bool:
    """What `compare` would say."""
    effect = outcome_effect(*experiment, is_adjusted=False, scale=scale, level=1 - ALPHA)
    return effect.p_value <= ALPHA


def share(test: Callable[[np.random.Generator], bool], *, num_tests: int, seed: int) -> float:
    """Of tests that say yes."""
    generators = np.random.default_rng(seed).spawn(num_tests)
    return sum(test(each) for each in generators) / num_tests


def independent_test(generator: np.random.Generator) -> bool:
    """An A/A test of independent conversations."""
    rate = generator.uniform(0.05, 0.5)
    num = int(generator.integers(200, 1001))
    return says_different(independent(generator, num_per_arm=num, rate=rate, base_rate=rate))


def clustered_experiment(generator: np.random.Generator, *, split_clusters: bool) -> Experiment:
    """Conversations of customers, without a difference."""
    rate = generator.uniform(0.05, 0.5)
    num = int(generator.integers(40, 201))
    return clustered(
        generator,
        cluster_sizes=customer_sizes(generator, num=num, mean=4),
        icc=generator.uniform(0.05, 0.4),
        rate=rate,
        base_rate=rate,
        split_clusters=split_clusters,
    )


def clustered_test(generator: np.random.Generator) -> bool:
    """An A/A test with `--cluster`."""
    split_clusters = generator.random() < 0.5
    return says_different(clustered_experiment(generator, split_clusters=split_clusters))


def clusters_ignored_test(generator: np.random.Generator) -> bool:
    """An A/A test of customers as if all conversations were independent."""
    arm, base = clustered_experiment(generator, split_clusters=False)
    return says_different(Experiment(Outcomes(arm.value_N), Outcomes(base.value_N)))


def daily_test(generator: np.random.Generator, *, scale: float | None) -> bool:
    """An A/A test that is looked at every day, until it says that something differs."""
    rate = generator.uniform(0.05, 0.5)
    daily = int(generator.integers(20, 101))
    arm, base = independent(generator, num_per_arm=DAYS * daily, rate=rate, base_rate=rate)
    for day in range(1, DAYS + 1):
        seen = Experiment(*(Outcomes(each.value_N[: day * daily]) for each in (arm, base)))
        if says_different(seen, scale=scale):
            return True
    return False


def daily_clustered_test(generator: np.random.Generator) -> bool:
    """An A/A test of customers under daily looks, with `--cluster --sequential`."""
    rate = generator.uniform(0.05, 0.5)
    daily = int(generator.integers(5, 21))
    num = 2 * DAYS * daily
    arm, base = clustered(
        generator,
        cluster_sizes=customer_sizes(generator, num=num, mean=4),
        icc=generator.uniform(0.05, 0.4),
        rate=rate,
        base_rate=rate,
        split_clusters=False,
    )
    for day in range(1, DAYS + 1):
        # The customers of the arm are the first half, in the order in which they come.
        seen = Experiment(
            customers_before(arm, day * daily), customers_before(base, num // 2 + day * daily)
        )
        if says_different(seen, scale=SCALE):
            return True
    return False


def customers_before(outcomes: Outcomes, end: int) -> Outcomes:
    """Conversations of customers whose number is below `end`."""
    assert outcomes.cluster_N is not None
    own = outcomes.cluster_N < end
    return Outcomes(outcomes.value_N[own], outcomes.cluster_N[own])


def power_of(planned: dict[str, Any], *, num_tests: int, seed: int) -> float:
    """Share of experiments of the planned size that find the planned lift."""
    size = plan(**planned, alpha=ALPHA, arms=2)
    rates = {
        "rate": planned["base_rate"] + planned["lift"],
        "base_rate": planned["base_rate"],
    }

    def test(generator: np.random.Generator) -> bool:
        if planned["cluster_size"] == 1:
            found = independent(generator, num_per_arm=size.conversations_per_arm, **rates)
        else:
            found = clustered(
                generator,
                cluster_sizes=np.full(2 * size.clusters_per_arm, planned["cluster_size"]),
                icc=planned["icc"],
                split_clusters=False,
                **rates,
            )
        return says_different(found)

    return share(test, num_tests=num_tests, seed=seed)


def measure(*, num_tests: int, seed: int = 0) -> dict[str, Any]:
    """All numbers."""
    found: dict[str, Any] = before_deployment(num=math.ceil(num_tests / TESTS_PER_LOG), seed=seed)
    for name, value in found.items():
        say(f"{name} {value:.4f}")
    tests: dict[str, Callable[[np.random.Generator], bool]] = {
        "type1": independent_test,
        "type1_clusters": clustered_test,
        "type1_clusters_ignored": clusters_ignored_test,
        "type1_sequential": lambda generator: daily_test(generator, scale=SCALE),
        "type1_peeking": lambda generator: daily_test(generator, scale=None),
        "type1_sequential_clusters": daily_clustered_test,
    }
    for name, test in tests.items():
        found[name] = share(test, num_tests=num_tests, seed=seed)
        say(f"{name} {found[name]:.4f}")
    powers = []
    for planned in PLANS:
        powers.append(power_of(planned, num_tests=2 * num_tests, seed=seed))
        say(f"power {powers[-1]:.4f} where {planned} was planned")
    wanted = [planned["power"] for planned in PLANS]
    found["power_error"] = max(abs(a - b) for a, b in zip(powers, wanted, strict=True))
    return found


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--record", action="store_true")
    options = parser.parse_args()
    num_tests = QUICK_TESTS * (1 if options.quick else 10)
    started = time.perf_counter()
    result = {
        **measure(num_tests=num_tests),
        "num_tests": num_tests,
        "standard_error": math.sqrt(ALPHA * (1 - ALPHA) / num_tests),
        "seconds": time.perf_counter() - started,
        "machine": machine(),
    }
    if options.record:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
