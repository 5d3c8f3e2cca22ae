"""Which methods have an answer, and which of them decides."""

import dataclasses
import math

import numpy as np
import pytest

from iterppo.statistics.evaluation import Estimate, FittedQ, agreement, decisive, estimates
from iterppo.statistics.off_policy_log import LoggedConversation
from iterppo.statistics.overlap import Limits

BY_Q = FittedQ(0.9)
LIMITS = Limits(least_effective=20, most_weight=0.2, ratio_range=(0.1, 10), least_turn_overlap=0.3)


def log(*, num: int = 60, apart: float = 0.1, members: int = 3) -> list[LoggedConversation]:
    generator = np.random.default_rng(0)
    found = []
    for number in range(num):
        values = (0.4 + 0.1 * generator.random(members)).tolist()
        ratio = apart * float(generator.normal())
        reward = float(generator.random() < 0.4)
        found.append(
            LoggedConversation(
                str(number), [reward], [ratio], 1.0, [0.4], [float(np.mean(values))], values
            )
        )
    return found


def evaluated(rows: list[LoggedConversation], fitted: FittedQ | None = BY_Q) -> dict[str, Estimate]:
    found = estimates({"logged": rows}, fitted=fitted, limits=LIMITS, gamma=1.0, seed=0, samples=50)
    return {each.method: each for each in found}


def test_a_log_that_supports_every_method_gives_every_number() -> None:
    found = evaluated(log())

    assert list(found) == ["dr", "wis", "fqe", "behaviour"]
    assert all(each.supported for each in found.values())
    assert all(each.value.low < each.value.value < each.value.high for each in found.values())
    assert {each.method: each.gamma for each in found.values()} == {
        "dr": 1.0,
        "wis": 1.0,
        "fqe": 0.9,
        "behaviour": 1.0,
    }


def without_ratio(rows: list[LoggedConversation], num: int) -> list[LoggedConversation]:
    missing = [dataclasses.replace(each, log_ratio=[math.nan]) for each in rows[:num]]
    return [*missing, *rows[num:]]


def without_q(rows: list[LoggedConversation]) -> list[LoggedConversation]:
    return [dataclasses.replace(each, q=[], v=[], first_values=[]) for each in rows]


@pytest.mark.parametrize(
    ("rows", "fitted", "method", "said"),
    [
        pytest.param(
            without_ratio(log(), 5),
            FittedQ(1.0),
            "wis",
            "5 of 60 conversations have turns without a log-probability in the log",
            id="no log-probabilities",
        ),
        pytest.param(
            log(apart=3.0),
            FittedQ(1.0),
            "dr",
            "or some of its log-probabilities are off",
            id="no overlap",
        ),
        pytest.param(log(), None, "fqe", "no Q was fitted for the new policy", id="no Q"),
        pytest.param(
            without_q(log()), None, "dr", "no Q was fitted for the new policy", id="no Q for dr"
        ),
        pytest.param(log(), FittedQ(1.0, "Q is noise: …"), "fqe", "Q is noise: …", id="noise"),
        pytest.param(log(members=1), FittedQ(1.0), "fqe", "one member", id="one member"),
        pytest.param(
            without_q(log()),
            FittedQ(1.0),
            "dr",
            "no conversation that Q was not fitted on",
            id="Q has seen all",
        ),
        pytest.param(
            without_q(log()), FittedQ(1.0, "another's Q"), "dr", "another's Q", id="Q was not read"
        ),
        pytest.param(
            log(apart=2.0), FittedQ(1.0), "fqe", "effective share of the turns", id="too far for Q"
        ),
        pytest.param(
            without_ratio(log(), 5),
            FittedQ(1.0),
            "fqe",
            "without log-probabilities nothing shows",
            id="nobody can check Q",
        ),
        pytest.param(log(num=10), FittedQ(1.0), "behaviour", "10 conversations", id="too few"),
    ],
)
def test_a_method_without_support_says_so_and_gives_no_number(
    rows: list[LoggedConversation], fitted: FittedQ | None, method: str, said: str
) -> None:
    found = evaluated(rows, fitted)[method]

    assert said in (found.reason or "")
    assert math.isnan(found.value.value)
    assert math.isnan(found.difference.low)


@pytest.mark.parametrize("outcome", [0.0, 1.0])
def test_outcomes_that_are_all_alike_are_no_certainty(outcome: float) -> None:
    """A policy that nobody bought from in 60 conversations may well sell one in thirty."""
    alike = [dataclasses.replace(each, reward=[outcome]) for each in log()]
    found = evaluated(alike)

    assert {each.reason for each in found.values()} == {
        f"every known outcome is {outcome:g}, so nothing tells how sure that is"
    }
    one_other = [dataclasses.replace(alike[0], reward=[1 - outcome]), *alike[1:]]
    assert all(each.supported for each in evaluated(one_other).values())
    not_known = [dataclasses.replace(one_other[0], weight=0.0), *alike[1:]]
    assert not any(each.supported for each in evaluated(not_known).values())


def test_without_a_limit_q_answers_where_nobody_can_check_it() -> None:
    (found,) = (
        each
        for each in estimates(
            {"logged": without_ratio(log(), 5)},
            fitted=BY_Q,
            limits=dataclasses.replace(LIMITS, least_turn_overlap=0.0),
            gamma=1.0,
            seed=0,
            samples=2,
        )
        if each.method == "fqe"
    )

    assert found.supported
    assert found.num_conversations == 60


def test_a_few_conversations_without_a_log_probability_are_left_out() -> None:
    rows = log(num=200)
    found = evaluated(without_ratio(rows, 2))["wis"]

    assert found.value == evaluated(rows[2:])["wis"].value
    assert found.num_conversations == 198


def test_the_method_that_decides_depends_on_support_alone() -> None:
    found = evaluated(log())
    everything = list(found.values())
    apart = list(evaluated(log(apart=1.1, num=40)).values())

    assert decisive(everything, method="auto") is found["dr"]
    assert decisive(everything, method="fqe") is found["fqe"]
    assert getattr(decisive(apart, method="auto"), "method", None) == "fqe"
    assert decisive(apart, method="wis") is None


def test_log_probabilities_that_disagree_are_counted() -> None:
    found = agreement([-1.0] * 9 + [-3.0], [-1.0] * 10, tolerance=0.1)

    assert found == {"num_turns": 10, "share_apart": 0.1, "median_difference": 0.0}
    assert math.isnan(agreement([math.nan], [-1.0], tolerance=0.1)["share_apart"])
