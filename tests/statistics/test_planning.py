"""A plan keeps its promise: experiments of that size find the lift as often as it says."""

from typing import Any

import pytest

from benchmarks.decisions import PLANS, power_of
from iterppo.errors import UsageError
from iterppo.statistics.planning import plan

SOUND: dict[str, Any] = {
    "base_rate": 0.2,
    "lift": 0.05,
    "power": 0.8,
    "alpha": 0.05,
    "cluster_size": 1,
    "icc": 0.0,
    "arms": 2,
}


@pytest.mark.parametrize(
    "planned", PLANS, ids=lambda p: f"{p['base_rate']}{p['lift']:+}x{p['cluster_size']}"
)
def test_the_power_is_within_two_points_of_the_wanted_one(planned: dict[str, Any]) -> None:
    assert power_of(planned, num_tests=2000, seed=0) == pytest.approx(planned["power"], abs=0.02)


def test_the_formula_by_hand() -> None:
    """(1.95996 · √(2 · 0.25 · 0.75) + 0.84162 · √(0.16 + 0.21))² / 0.1² = 293.2."""
    assert plan(**(SOUND | {"lift": 0.1})).conversations_per_arm == 294


def test_clusters_that_are_no_more_alike_than_others_cost_next_to_nothing() -> None:
    alone = plan(**SOUND).conversations_per_arm
    together = plan(**(SOUND | {"cluster_size": 4})).conversations_per_arm

    assert together == pytest.approx(alone, rel=0.02)


def test_alike_clusters_cost_the_design_effect() -> None:
    alone = plan(**(SOUND | {"cluster_size": 5})).conversations_per_arm
    alike = plan(**(SOUND | {"cluster_size": 5, "icc": 0.25}))

    assert alike.design_effect == 2.0
    assert alike.conversations_per_arm == pytest.approx(2 * alone, rel=0.02)
    assert alike.conversations_per_arm == 5 * alike.clusters_per_arm


def test_more_arms_share_the_level() -> None:
    four = plan(**(SOUND | {"arms": 4}))

    assert four.alpha_per_comparison == pytest.approx(0.05 / 3)
    assert (
        four.conversations_per_arm
        == plan(**(SOUND | {"alpha": 0.05 / 3})).conversations_per_arm
        > plan(**SOUND).conversations_per_arm
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_rate": 0.0}, "--base-rate 0: a rate lies between 0 and 1, as 0.2."),
        (
            {"lift": 0.9},
            "--lift 0.9: is added to the base rate 0.2, and must lead to another rate between 0 "
            "and 1.",
        ),
        (
            {"lift": 0.0},
            "--lift 0: is added to the base rate 0.2, and must lead to another rate between 0 "
            "and 1.",
        ),
        ({"alpha": 1.0}, "--alpha 1: lies between 0 and 1, as 0.05."),
        ({"power": 0.05}, "--power 0.05: lies between alpha and 1, as 0.8."),
        ({"arms": 1}, "--cluster-size is at least 1, --arms at least 2."),
        (
            {"icc": -0.1, "cluster_size": 3},
            "--icc -0.1: a correlation of conversations lies in 0 … 1.",
        ),
        (
            {"icc": 0.1},
            "--icc 0.1: says nothing where every cluster has one conversation. Name "
            "--cluster-size.",
        ),
    ],
    ids=["no rate", "beyond 1", "no lift", "no level", "no power", "no arms", "no icc", "no size"],
)
def test_what_cannot_be_planned_is_one_line(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as raised:
        plan(**(SOUND | change))

    assert str(raised.value) == said
