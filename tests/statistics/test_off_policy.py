"""Off-policy estimates against numbers by hand, and against slow ones written from the
definitions."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterppo.statistics import off_policy
from iterppo.statistics.off_policy import (
    doubly_robust,
    logged_value,
    weighted_importance_sampling,
)
from iterppo.statistics.off_policy_log import LoggedConversation, OffPolicyLog, arrays
from iterppo.statistics.resampling import Resamples

Slow = tuple[float, float]


def slow_values(conversations: list[LoggedConversation], *, gamma: float) -> Slow:
    """WIS and DR, term by term: every conversation goes on for ever where it ended."""
    T = max(len(each.reward) for each in conversations)

    def at(values: list[float], turn: int) -> float:
        return values[turn - 1] if turn <= len(values) else 0.0

    def rho(each: LoggedConversation, turn: int) -> float:
        product = each.weight
        for earlier in range(1, turn + 1):
            product *= math.exp(at(each.log_ratio, earlier))
        return product

    def share(each: LoggedConversation, turn: int) -> float:
        return rho(each, turn) / sum(rho(other, turn) for other in conversations)

    wis = dr = 0.0
    for turn in range(1, T + 1):
        for each in conversations:
            discount = gamma ** (turn - 1)
            wis += discount * share(each, turn) * at(each.reward, turn)
            dr += discount * share(each, turn) * (at(each.reward, turn) - at(each.q, turn))
            dr += discount * share(each, turn - 1) * at(each.v, turn)
    return wis, dr


@st.composite
def logs(draw: Any) -> list[LoggedConversation]:
    number = st.floats(-2, 2)
    found = []
    for name in range(draw(st.integers(2, 6))):
        length = draw(st.integers(1, 4))
        lists = [draw(st.lists(number, min_size=length, max_size=length)) for _ in range(4)]
        weight = draw(st.sampled_from([0.5, 1.0, 3.0]))
        found.append(LoggedConversation(str(name), lists[0], lists[1], weight, *lists[2:]))
    return found


@settings(max_examples=25, deadline=None)
@given(logs(), st.sampled_from([0.0, 0.5, 1.0]))
def test_estimates_are_what_the_definitions_say(
    conversations: list[LoggedConversation], gamma: float
) -> None:
    log = arrays(conversations)
    wis = weighted_importance_sampling(log, gamma=gamma, seed=0, samples=2)
    dr = doubly_robust(log, gamma=gamma, seed=0, samples=2)
    behaviour = logged_value(log, gamma=gamma, seed=0, samples=2)

    slow_wis, slow_dr = slow_values(conversations, gamma=gamma)
    assert wis.value.value == pytest.approx(slow_wis, abs=1e-9)
    assert dr.value.value == pytest.approx(slow_dr, abs=1e-9)
    assert wis.difference.value == pytest.approx(slow_wis - behaviour.value, abs=1e-9)
    assert dr.difference.value == pytest.approx(slow_dr - behaviour.value, abs=1e-9)


def test_numbers_by_hand() -> None:
    """Two conversations; π takes the first's actions twice and the second's half as often as b.

    Turn 1: weights 2 : 1/2, shares 4/5 and 1/5. Turn 2: 4 : 1/2 (b has ended), shares 8/9 and 1/9.
    WIS = 1/5 · 1 + 8/9 · 1. DR adds 1/2 · (0.5 + 0.25) − (4/5 · 0.5 + 1/5 · 0.5) in turn 1 and
    4/5 · 1 − 8/9 · 0.5 in turn 2.
    """
    two = math.log(2)
    log = arrays(
        [
            LoggedConversation("a", [0, 1], [two, two], q=[0.5, 0.5], v=[0.5, 1.0]),
            LoggedConversation("b", [1], [-two], q=[0.5], v=[0.25]),
        ]
    )

    wis = weighted_importance_sampling(log, gamma=1.0, seed=0, samples=2).value.value
    dr = doubly_robust(log, gamma=1.0, seed=0, samples=2).value.value
    assert wis == pytest.approx(1 / 5 + 8 / 9)
    assert dr == pytest.approx(1 / 5 + 8 / 9 + 3 / 8 - 1 / 2 + 4 / 5 - 4 / 9)


def same_policy(num: int) -> list[LoggedConversation]:
    generator = np.random.default_rng(1)
    return [
        LoggedConversation(str(n), [0.0] * k + [float(generator.random() < 0.3)], [0.0] * (k + 1))
        for n, k in enumerate(generator.integers(0, 4, size=num))
    ]


def test_the_policy_that_made_the_log_has_the_mean_return_and_no_improvement() -> None:
    log = arrays(same_policy(200))
    wis = weighted_importance_sampling(log, gamma=0.9, seed=0)

    assert wis.value == pytest.approx(logged_value(log, gamma=0.9, seed=0))
    assert wis.difference == pytest.approx((0, 0, 0), abs=1e-12)
    assert wis.value.low < wis.value.value < wis.value.high


def test_without_q_doubly_robust_is_importance_sampling() -> None:
    log = arrays([LoggedConversation(str(n), [n % 2], [0.3 * (n % 3)]) for n in range(30)])

    assert doubly_robust(log, gamma=1.0, seed=3) == weighted_importance_sampling(
        log, gamma=1.0, seed=3
    )


def test_resamples_draw_whole_conversations(slow_interval: Any) -> None:
    """The bootstrap is the one of copies of conversations; its percentiles are those of BCa where
    there is neither bias nor acceleration, so resamples are compared by their spread."""
    generator = np.random.default_rng(0)
    rows = [
        LoggedConversation(str(n), generator.random(2).tolist(), generator.normal(size=2).tolist())
        for n in range(12)
    ]
    resamples = Resamples.of(np.arange(12), samples=40, seed=5)
    columns = off_policy._columns(arrays(rows), gamma=1.0, with_q=False)
    fast = off_policy._values(resamples.sums(columns), np.ones(2))[:, 0]

    slow = slow_interval(
        resamples,
        lambda chosen: slow_values([rows[index] for index in chosen], gamma=1.0)[0],
    )
    assert np.quantile(fast, [0.025, 0.975]) == pytest.approx(slow)


@pytest.mark.parametrize(
    "shift", [0.0, 700.0, -700.0], ids=["as they are", "far above", "far below"]
)
def test_ratios_of_hundreds_of_nats_neither_overflow_nor_vanish(shift: float) -> None:
    rows = [LoggedConversation(str(n), [float(n % 2)], [shift + 0.1 * (n % 5)]) for n in range(40)]

    found = weighted_importance_sampling(arrays(rows), gamma=1.0, seed=0)
    plain = slow_values(
        [LoggedConversation(r.conversation_id, r.reward, [r.log_ratio[0] - shift]) for r in rows],
        gamma=1.0,
    )[0]
    assert found.value.value == pytest.approx(plain)


def test_a_conversation_without_a_known_return_says_nothing() -> None:
    rows = same_policy(50)
    open_one = LoggedConversation("open", [1, 1, 1, 1], [5, 5, 5, 5], weight=0.0)

    with_it, without = (
        weighted_importance_sampling(arrays(each), gamma=1.0, seed=0, samples=2).value.value
        for each in ([*rows, open_one], rows)
    )
    assert with_it == pytest.approx(without)


def test_half_a_q_is_none() -> None:
    log = arrays([LoggedConversation("a", [0, 1], [0, 0], q=[0.5, math.nan], v=[0.5, 0.5])])

    assert (log.q_NT.tolist(), log.v_NT.tolist()) == ([[0.5, 0.0]], [[0.5, 0.0]])


def test_what_cannot_be_estimated_is_refused() -> None:
    unknown: OffPolicyLog = arrays([LoggedConversation("a", [1], [math.nan])])

    with pytest.raises(ValueError, match="a ratio is not known"):
        weighted_importance_sampling(unknown, gamma=1.0, seed=0)
    with pytest.raises(ValueError, match="gamma"):
        doubly_robust(arrays(same_policy(2)), gamma=1.5, seed=0)
    with pytest.raises(ValueError, match="differ in length"):
        arrays([LoggedConversation("a", [1, 0], [0])])
