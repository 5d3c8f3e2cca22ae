"""The value by Q alone: its two sources of noise, and what it does where Q is out of order."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from iterppo.statistics.fitted_value import fitted_value
from iterppo.statistics.off_policy_log import LoggedConversation, arrays


def log(first_values: list[list[float]], *, q: float = 0.5) -> list[LoggedConversation]:
    return [
        LoggedConversation(
            str(n), [float(n % 2)], [0.0], q=[q], v=[sum(each) / len(each)], first_values=each
        )
        for n, each in enumerate(first_values)
    ]


def test_the_value_is_the_mean_and_its_noise_that_of_states_and_of_fits() -> None:
    """V̂ = 0.5; of states: variance of 0.4, 0.6 over 2; of fits: variance of 0.4, 0.6."""
    found = fitted_value(arrays(log([[0.3, 0.5], [0.5, 0.7]])), gamma=1.0).value

    states, fits = np.var([0.4, 0.6], ddof=1) / 2, np.var([0.4, 0.6], ddof=1)
    freedom = (states + fits) ** 2 / (states**2 + fits**2)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(states + fits)
    assert found.value.value == pytest.approx(0.5)
    assert found.value.high - found.value.value == pytest.approx(half)
    assert found.difference.value == pytest.approx(0.0)
    assert found.difference.high > found.value.high - 0.5


def test_members_that_agree_leave_the_noise_of_the_states() -> None:
    values = np.random.default_rng(0).normal(0.5, 0.1, size=400)
    found = fitted_value(arrays(log([[v, v] for v in values.tolist()])), gamma=1.0).value

    error = values.std(ddof=1) / 20
    assert found.value.high - found.value.low == pytest.approx(2 * stats.t.ppf(0.975, 399) * error)


def test_a_q_that_breaks_its_own_equation_is_less_sure() -> None:
    """Rewards are 0 or 1 in turn, 1/2 in the mean. A Q of 1/2 keeps the equation, one of 0.9 is off
    by 0.4."""
    right, wrong = (
        fitted_value(arrays(log([[0.5, 0.5]] * 400, q=q)), gamma=1.0) for q in (0.5, 0.9)
    )

    assert right.correction == pytest.approx(0.0)
    assert right.value.value.low == right.value.value.high == pytest.approx(0.5)
    assert wrong.correction == pytest.approx(-0.4)
    assert wrong.value.value.high == pytest.approx(0.5 + 0.4)


def test_the_equation_is_checked_where_the_new_policy_goes() -> None:
    """Where π goes, three times as often as b, the reward is 1; elsewhere 0. A Q of 1/2 keeps the
    equation under b, and is off by 1/4 under π."""
    rows = [
        dataclasses.replace(each, log_ratio=[math.log(3) * (n % 2)])
        for n, each in enumerate(log([[0.5, 0.5]] * 400))
    ]

    assert fitted_value(arrays(rows), gamma=1.0).correction == pytest.approx(0.25)


def test_the_next_value_stands_for_what_follows_and_is_discounted() -> None:
    rows = [
        LoggedConversation(
            str(n), [0, 1], [0, 0], q=[0.25, 0.5], v=[0.25, 0.5], first_values=[0.25, 0.25]
        )
        for n in range(3)
    ]

    assert fitted_value(arrays(rows), gamma=0.5).correction == pytest.approx(0 + 0.5 * 0.5)


def test_only_conversations_that_q_knows_and_whose_end_is_known_check_it() -> None:
    known = log([[0.5, 0.5]] * 40)
    unknown = [
        LoggedConversation("u", [1.0], [0.0]),
        dataclasses.replace(known[1], weight=0.0, reward=[1.0], q=[0.0]),
    ]

    assert fitted_value(arrays([*known, *unknown]), gamma=1.0).correction == pytest.approx(0)


def test_one_member_is_refused() -> None:
    with pytest.raises(ValueError, match="1 members"):
        fitted_value(arrays(log([[0.5], [0.6]])), gamma=1.0)
