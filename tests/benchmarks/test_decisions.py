"""`benchmarks.decisions` makes the experiments that it says; on few its numbers mean little."""

import numpy as np
import pytest

from benchmarks.decisions import customers_before, measure, share
from benchmarks.simulated_experiments import clustered, customer_sizes
from iterppo.statistics.outcome_effect import Outcomes


def test_every_number_is_measured() -> None:
    found = measure(num_tests=4)

    assert found.keys() == {
        "coverage",
        *(f"{word}_{name}" for word in ("coverage", "claims") for name in ("dr", "fqe", "wis")),
        "false_ship_rate",
        "ship_rate_better",
        "type1",
        "type1_clusters",
        "type1_clusters_ignored",
        "type1_sequential",
        "type1_peeking",
        "type1_sequential_clusters",
        "power_error",
    }
    assert all(0 <= value <= 1 for value in found.values())


def test_a_share_is_of_tests_that_say_yes() -> None:
    assert share(lambda generator: generator.random() < 0.3, num_tests=4000, seed=0) == (
        pytest.approx(0.3, abs=0.02)
    )


@pytest.mark.parametrize("split_clusters", [False, True], ids=["customers", "conversations"])
def test_customers_are_as_alike_as_wanted(split_clusters: bool) -> None:
    """The correlation of two conversations of a customer, by analysis of variance."""
    arm, base = clustered(
        np.random.default_rng(0),
        cluster_sizes=np.full(20_000, 4),
        icc=0.25,
        rate=0.3,
        base_rate=0.3,
        split_clusters=split_clusters,
    )
    assert arm.cluster_N is not None
    assert base.cluster_N is not None
    both = set(arm.cluster_N.tolist()) & set(base.cluster_N.tolist())
    value = np.concatenate([arm.value_N, base.value_N])
    cluster = np.concatenate([arm.cluster_N, base.cluster_N])
    outcome_CK = value[np.argsort(cluster, kind="stable")].reshape(-1, 4)

    between = 4 * np.var(outcome_CK.mean(axis=1), ddof=1)
    within = np.var(outcome_CK, axis=1, ddof=1).mean()
    assert bool(both) == split_clusters
    assert value.mean() == pytest.approx(0.3, abs=0.01)
    assert (between - within) / (between + 3 * within) == pytest.approx(0.25, abs=0.02)


def test_a_lift_is_in_the_arm() -> None:
    arm, base = clustered(
        np.random.default_rng(0),
        cluster_sizes=customer_sizes(np.random.default_rng(1), num=10_000, mean=4),
        icc=0.2,
        rate=0.5,
        base_rate=0.3,
        split_clusters=False,
    )

    assert arm.value_N.mean() == pytest.approx(0.5, abs=0.02)
    assert base.value_N.mean() == pytest.approx(0.3, abs=0.02)
    assert (len(arm.value_N) + len(base.value_N)) / 10_000 == pytest.approx(4, abs=0.1)


def test_a_day_holds_the_customers_that_came_until_then() -> None:
    seen = customers_before(Outcomes(np.array([1.0, 0, 1]), np.array([0, 3, 1])), 2)

    assert seen.value_N.tolist() == [1.0, 1.0]
