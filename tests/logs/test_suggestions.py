"""What was suggested in a turn, and what became of it."""

from typing import Any

import pytest

from iterppo.contracts.trajectories import action
from tests.logs.lines import (
    C1,
    C2,
    C3,
    M1,
    M2,
    REACHED,
    Message,
    business,
    columns,
    customer,
    turns,
)


@pytest.mark.parametrize(
    ("answer", "suggestion", "sent", "adoption", "distance", "taken"),
    [
        pytest.param(
            business("abcd"), None, "abcd", None, None, "abcd", id="a log without suggestions"
        ),
        pytest.param(
            business("abcd", suggestion="abcd"),
            "abcd",
            "abcd",
            "verbatim",
            0,
            "abcd",
            id="verbatim",
        ),
        pytest.param(
            business(" ab\ncd ", suggestion="ab cd"),
            "ab cd",
            " ab\ncd ",
            "verbatim",
            3 / 7,
            "ab cd",
            id="verbatim but for blanks",
        ),
        pytest.param(
            business("abxd", suggestion="abcd"),
            "abcd",
            "abxd",
            "edited",
            1 / 4,
            "abcd",
            id="edited",
        ),
        pytest.param(
            business("abxy", suggestion="abcd"),
            "abcd",
            "abxy",
            "edited",
            1 / 2,
            "abcd",
            id="edited by half",
        ),
        pytest.param(
            business("axyz", suggestion="abcd"),
            "abcd",
            "axyz",
            "rejected",
            3 / 4,
            "abcd",
            id="rejected",
        ),
        pytest.param(
            business("axyz", suggestion="abcd", adoption="influenced"),
            "abcd",
            "axyz",
            "influenced",
            3 / 4,
            "abcd",
            id="what the log says stands",
        ),
        pytest.param(
            business("", suggestion="abcd"),
            "abcd",
            None,
            "rejected",
            None,
            "abcd",
            id="nothing was sent",
        ),
        pytest.param(
            business("own", suggestion=None, adoption="abstained"),
            None,
            "own",
            "abstained",
            None,
            "",
            id="abstained",
        ),
        pytest.param(
            business("", suggestion=None, adoption="abstained"),
            None,
            None,
            "abstained",
            None,
            "",
            id="abstained, and nothing was sent",
        ),
        pytest.param(
            business("own", suggestion=None),
            None,
            "own",
            "not_shown",
            None,
            None,
            id="no suggestion was made",
        ),
        pytest.param(
            business("own", suggestion=""),
            None,
            "own",
            "not_shown",
            None,
            None,
            id="an empty suggestion",
        ),
        pytest.param(
            business("own", suggestion="abcd", adoption="not_shown"),
            None,
            "own",
            "not_shown",
            None,
            None,
            id="a suggestion that nobody saw",
        ),
    ],
)
def test_a_suggestion_is_recorded_with_what_became_of_it(
    answer: Message,
    suggestion: str | None,
    sent: str | None,
    adoption: str | None,
    distance: float | None,
    taken: str | None,
) -> None:
    (row,) = turns(C1, answer, outcome=0)

    assert (row["suggestion"], row["sent"], row["adoption"]) == (suggestion, sent, adoption)
    assert row["edit_distance"] == (None if distance is None else pytest.approx(distance))
    assert action(row) == taken


@pytest.mark.parametrize(
    "fields",
    [{"suggestion": "a"}, {"suggestion": None, "adoption": "abstained"}],
    ids=["suggested", "abstained"],
)
@pytest.mark.parametrize("known", ["on the message", "as a whole"])
def test_a_decision_that_reached_the_outcome_keeps_its_reward_although_nothing_was_sent(
    fields: dict[str, Any], known: str
) -> None:
    last = business("", **fields)
    rows = (
        turns(C1, M1, C2, last | REACHED)
        if known == "on the message"
        else turns(C1, M1, C2, last, outcome=1)
    )

    assert columns(rows, "customer", "sent", "reward", "customer_after") == [
        ("c1", "m1", 0, None),
        ("c2", None, 1, None),
    ]
    assert rows[1]["adoption"] == ("abstained" if "adoption" in fields else "rejected")


def test_a_turn_without_suggestion_was_not_shown_one_where_others_were() -> None:
    rows = turns(C1, business("m1", suggestion="m1"), C2, M2, C3, outcome=0)

    assert columns(rows, "adoption") == ["verbatim", "not_shown", "not_shown"]


def test_suggestions_of_joined_messages_are_joined_as_well() -> None:
    rows = turns(
        C1,
        business("a", suggestion="a", suggestion_logprob=-1.5, policy_version="p1", persona="bold"),
        business("b", suggestion="b", suggestion_logprob=-2.0),
        outcome=0,
        policy_version="p0",
    )

    assert columns(rows, "suggestion", "sent", "adoption", "suggestion_logprob") == [
        ("a\nb", "a\nb", "verbatim", -3.5)
    ]
    assert columns(rows, "policy_version", "persona") == [("p1", "bold")]


def test_suggestion_fields_on_a_customers_message_mean_nothing() -> None:
    everywhere = {"suggestion": None, "adoption": None}
    messages = [M1, customer("", **everywhere), M2, customer("c", **everywhere)]

    assert turns(*messages, outcome=0) == turns(M1, customer(""), M2, customer("c"), outcome=0)
