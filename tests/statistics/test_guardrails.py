"""Guardrails: what is tested, which way, and how often they fail although nothing got worse."""

import numpy as np
import pytest

from iterppo.statistics.cluster_difference import cluster_difference
from iterppo.statistics.guardrails import Guardrail, Rule, Suggestions, guardrails, measured

BLOCK = Rule("block", "more", 0.0)


def suggestions(new: float, old: float, *, seed: int = 0, num: int = 200) -> Suggestions:
    """Two suggestions of each policy in each conversation, of which so many are bad; whether those
    of one conversation are depends on the conversation too."""
    generator = np.random.default_rng(seed)
    mood = np.repeat(generator.normal(0, 0.5, size=num), 4)
    is_new = np.tile([True, True, False, False], num)
    rate = np.where(is_new, new, old) + 0.1 * mood
    bad = (generator.random(4 * num) < rate).astype(float)
    return Suggestions(np.repeat(np.arange(num), 4), is_new, {"bad": bad})


def test_what_gets_worse_fails_and_the_test_is_that_of_clusters() -> None:
    drawn = suggestions(0.4, 0.2)
    (found,) = guardrails(drawn, {"bad": BLOCK}, alpha=0.05)
    expected = cluster_difference(
        drawn.values["bad"], drawn.is_new_S.astype(int), drawn.conversation_S
    )

    assert found.fails
    assert found.difference == pytest.approx(found.new - found.old)
    assert (found.low, found.high) == expected.interval(level=0.95)
    assert found.p_value == pytest.approx(expected.p_value / 2)


@pytest.mark.parametrize(
    ("rule", "new", "old", "fails"),
    [
        pytest.param(Rule("block", "more", 0.0), 0.2, 0.4, False, id="better"),
        pytest.param(Rule("block", "less", 0.0), 0.2, 0.4, True, id="less of what is good"),
        pytest.param(Rule("block", "either", 0.0), 0.2, 0.4, True, id="another assistant"),
        pytest.param(Rule("block", "more", 0.3), 0.4, 0.2, False, id="within the margin"),
    ],
)
def test_a_rule_says_which_change_is_bad(rule: Rule, new: float, old: float, fails: bool) -> None:
    (found,) = guardrails(suggestions(new, old), {"bad": rule}, alpha=0.05)

    assert found.fails == fails


def test_guardrails_fail_by_chance_no_more_often_than_alpha_all_of_them_together() -> None:
    """Three measures without a change: in 200 sets 5 % + 3.1 % (two standard errors) are the most
    that is due; Holm's correction may be on the safe side."""
    failed = 0
    for seed in range(200):
        generator = np.random.default_rng(seed)
        one = suggestions(0.3, 0.3, seed=seed, num=30)
        values = {str(k): generator.permuted(one.values["bad"]) for k in range(2)}
        drawn = Suggestions(one.conversation_S, one.is_new_S, values | one.values)
        found = guardrails(drawn, dict.fromkeys(drawn.values, BLOCK), alpha=0.05)
        failed += any(each.fails for each in found)

    assert failed / 200 <= 0.081


def test_a_rule_that_is_off_is_not_looked_at_and_costs_the_others_nothing() -> None:
    drawn = suggestions(0.3, 0.2)
    rules = {"bad": BLOCK, "unread": Rule("off", "more", 0.0)}
    found = guardrails(drawn, rules, alpha=0.05)

    assert [each.name for each in found] == ["bad"]
    assert found[0].p_value_holm == found[0].p_value


def always(new: float, old: float, num: int) -> Guardrail:
    ids = np.repeat(np.arange(num), 2)
    is_new = np.tile([True, False], num)
    drawn = Suggestions(ids, is_new, {"bad": np.where(is_new, new, old)})
    return guardrails(drawn, {"bad": BLOCK}, alpha=0.05)[0]


def test_what_never_varies_is_judged_by_the_number_of_conversations() -> None:
    assert always(1.0, 0.0, num=10).p_value == 0.5**10
    assert not always(1.0, 0.0, num=3).fails
    assert always(0.3, 0.1, num=3).p_value == 0.5**3, "whatever its rounding"
    assert always(0.0, 0.0, num=10).p_value == 1.0
    assert always(0.0, 1.0, num=10).p_value == 1.0


def test_without_suggestions_of_both_nothing_is_said() -> None:
    one = Suggestions(np.arange(3), np.ones(3, dtype=bool), {"bad": np.ones(3)})

    assert guardrails(one, {"bad": BLOCK}, alpha=0.05) == []


def test_texts_are_read_by_every_measure() -> None:
    found = measured(["a", "a"], [True, False], ["x", None], {"is_none": lambda text: text is None})

    assert found.values["is_none"].tolist() == [0.0, 1.0]
    assert found.is_new_S.tolist() == [True, False]
