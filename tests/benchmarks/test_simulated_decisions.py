"""`evaluate` on logs of the shop whose truth is known, with a light Q.

`benchmarks.decisions` counts more of them.
"""

from collections import Counter

import pytest

from benchmarks.light_q import logged
from benchmarks.simulated_decisions import METHODS, Simulated, simulate
from benchmarks.simulated_policies import Mixture, actions, play, true_value

WORSE, BETTER = Mixture("mediocre", "expert", 0.6), Mixture("mediocre", "expert", 0.9)
NUM = 10


@pytest.fixture(scope="module")
def simulated() -> dict[Mixture, list[Simulated]]:
    """Each policy by logs of the other one."""
    return {
        policy: [simulate(other, policy, num=300, seed=100 + number) for number in range(NUM)]
        for policy, other in ((WORSE, BETTER), (BETTER, WORSE))
    }


def test_evaluate_covers_the_exact_value_of_the_shop(
    simulated: dict[Mixture, list[Simulated]],
) -> None:
    """Of 20 logs most support a number, and of its intervals three quarters cover: of 20 that cover
    with 95 %, fewer would do so once in 400 times."""
    claims: Counter[str] = Counter()
    covered: Counter[str] = Counter()
    for one in (each for found in simulated.values() for each in found):
        for each in one.found:
            claims[each.method] += each.supported
            covered[each.method] += each.value.low <= one.truth <= each.value.high

    assert all(claims[method] >= 12 for method in METHODS), claims
    assert all(covered[method] >= 0.75 * claims[method] for method in METHODS), covered


def test_the_gate_ships_no_policy_that_is_truly_worse_and_many_that_are_better(
    simulated: dict[Mixture, list[Simulated]],
) -> None:
    assert true_value(WORSE) < true_value(BETTER)
    assert sum(one.ships for one in simulated[WORSE]) == 0
    assert sum(one.ships for one in simulated[BETTER]) >= NUM // 2


def test_ratios_of_a_simulated_log_are_those_of_the_policies() -> None:
    (played,) = play(WORSE, num=1, seed=3)
    (row,) = logged([played], WORSE, WORSE, members=2, seed=0)

    assert row.log_ratio == [0.0] * len(played)
    assert row.reward == [float(turn.outcome) for turn in played]


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_a_mixture_is_a_policy(share: float) -> None:
    found = Mixture("mediocre", "expert", share)("opening", 1)

    assert set(found) <= set(actions())
    assert sum(found.values()) == pytest.approx(1)
