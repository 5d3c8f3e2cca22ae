"""Support of a log for actions: by hand, at its ends, and against a plain loop."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from iterppo.statistics import coverage as module
from iterppo.statistics.coverage import coverage

LOG = [
    ("Hello!", "Which room?"),
    ("Hello!", ""),
    ("That is too expensive.", "We can come down to 9000."),
]


def cover(
    customers: list[str],
    actions: list[list[str]],
    log: list[tuple[str, str]] | None = None,
    owners: list[str] | None = None,
) -> dict[str, Any]:
    owners = owners or [str(number) for number in range(len(customers))]
    return coverage(customers, actions, owners, LOG if log is None else log, samples=50, seed=0)


@pytest.mark.parametrize(
    ("customer", "action", "supported", "in_any_state", "comparable"),
    [
        pytest.param("Hello!", "Which room?", 1, 1, 1, id="logged"),
        pytest.param("Hello", "Which rooms?", 1, 1, 1, id="nearly"),
        pytest.param("Hello!", "We can come down to 8000.", 0, 1, 1, id="of another state"),
        pytest.param("Good evening to you", "Which room?", 0, 1, 0, id="in an unknown state"),
        pytest.param("Hello!", "9500 all in all, no less", 0, 0, 1, id="never said"),
        pytest.param("Hello!", "", 1, 1, 1, id="abstained, as the log did"),
        pytest.param("That is too expensive.", "", 0, 1, 1, id="abstained, where nobody did"),
    ],
)
def test_an_action_has_support_where_the_log_has_its_like_in_a_like_state(
    customer: str, action: str, supported: float, in_any_state: float, comparable: float
) -> None:
    found = cover([customer], [[action]])

    assert found["support"] == supported
    assert found["support_in_any_state"] == in_any_state
    assert found["comparable_states"] == comparable


def test_half_of_the_longer_text_is_still_near() -> None:
    assert cover(["abcd"], [["wxyz"]], [("abxx", "wxab")])["support"] == 1
    assert cover(["abcd"], [["wxyz"]], [("axxx", "wxab")])["support"] == 0
    assert cover(["abcd"], [["wxyz"]], [("abxx", "waab")])["support"] == 0


def test_shares_count_actions_and_the_interval_conversations() -> None:
    customers, actions = ["Hello!"] * 4, [["Which room?", "x" * 30]] * 4

    apart = cover(customers, actions)
    assert (apart["support"], apart["num_actions"], apart["num_states"]) == (0.5, 8, 4)
    assert (apart["support_low"], apart["support_high"]) == (0.5, 0.5)
    actions = [["Which room?"], ["Which room?"], ["x" * 30], ["x" * 30]]
    mixed = cover(customers, actions)
    assert mixed["support_low"] < 0.5 < mixed["support_high"]
    together = cover(customers, actions, owners=["c"] * 4)
    assert (together["support_low"], together["support_high"]) == (None, None)


def test_without_a_state_or_a_log_nothing_is_made_up() -> None:
    assert cover([], [])["support"] is None
    assert cover(["Hello!"], [["Which room?"]], [])["support"] == 0
    with pytest.raises(ValueError, match="2 customers, 1 lists of actions and 1 conversations"):
        coverage(["a", "b"], [["c"]], ["d"], LOG, samples=9, seed=0)


def test_of_a_large_log_so_many_turns_are_compared_with(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_TURNS", 100)
    log = [("Hello!", "Which room?")] * 900 + [("Hello!", "9500 all in all")] * 100

    found = cover(["Hello!"], [["Which room?", "9500 all in all"]], log)
    assert found["num_logged_turns"] == 100
    assert found["support"] == 1  # the turns are chosen at random, not the first ones


TEXTS = st.text(alphabet="ab", max_size=6)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(TEXTS, st.lists(TEXTS, min_size=1, max_size=3)), min_size=1, max_size=4),
    st.lists(st.tuples(TEXTS, TEXTS), max_size=6),
)
def test_shares_are_those_of_a_plain_loop(
    states: list[tuple[str, list[str]]], log: list[tuple[str, str]]
) -> None:
    def near(one: str, other: str) -> bool:
        longer = max(len(one), len(other), 1)
        return Levenshtein.distance(one, other) <= longer / 2

    wanted = [
        any(near(customer, c) and near(action, a) for c, a in log)
        for customer, actions in states
        for action in actions
    ]
    found = cover([c for c, _ in states], [actions for _, actions in states], log)

    assert found["support"] == pytest.approx(sum(wanted) / len(wanted))
    assert found["comparable_states"] == pytest.approx(
        sum(any(near(customer, c) for c, _ in log) for customer, _ in states) / len(states)
    )
