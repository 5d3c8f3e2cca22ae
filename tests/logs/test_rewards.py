"""What a conversation pays and how it ends: its outcome, its reward, its return, its censoring."""

from typing import Any

import pytest

from iterppo.logs.conversations import turns_of
from iterppo.logs.records import parse_line
from iterppo.rl.returns import monte_carlo_returns
from tests.logs.lines import (
    C1,
    C2,
    C3,
    M1,
    M2,
    M3,
    REACHED,
    Message,
    columns,
    customer,
    line,
    turns,
)


def counts(*messages: Message, **fields: Any) -> dict[str, int]:
    return dict(turns_of(parse_line(line(*messages, **fields)))[1])


# --- outcome, reward, return ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "fields", "said", "rewards", "returns"),
    [
        pytest.param(
            [C1, M1, C2, M2, C3 | REACHED, M3 | REACHED],
            {"outcome": 1},
            [("c1", "m1", None), ("c2", "m2", "c3")],
            [0, 1],
            [0.5, 1],
            id="on a customer's message",
        ),
        pytest.param(
            [C1, M1, C2, M2 | REACHED, C3 | REACHED],
            {"outcome": 1},
            [("c1", "m1", None), ("c2", "m2", None)],
            [0, 1],
            [0.5, 1],
            id="on a business message",
        ),
        pytest.param(
            [C1, M1, C2, customer("c2b") | REACHED, M2],
            {},
            [("c1", "m1", "c2\nc2b")],
            [1],
            [1],
            id="on the second of two joined messages, known from it alone",
        ),
        pytest.param(
            [C1, M1, C2, M2, C3, M3],
            {"outcome": 1},
            [("c1", "m1", None), ("c2", "m2", None), ("c3", "m3", None)],
            [0, 0, 1],
            [0.25, 0.5, 1],
            id="known as a whole only, the business spoke last",
        ),
        pytest.param(
            [C1, M1, C2, M2, C3],
            {"outcome": 1},
            [("c1", "m1", None), ("c2", "m2", "c3")],
            [0, 1],
            [0.5, 1],
            id="known as a whole only, the customer spoke last",
        ),
        pytest.param(
            [C1, M1, C2, M2 | {"outcome": 0}],
            {"outcome": 0},
            [("c1", "m1", None), ("c2", "m2", None)],
            [0, 0],
            [0, 0],
            id="never, the business spoke last",
        ),
        pytest.param(
            [C1, M1, C2 | {"outcome": 0}],
            {},
            [("c1", "m1", None), ("c2", None, None)],
            [0, 0],
            [0, 0],
            id="never, and the business left the customer's last message unanswered",
        ),
        pytest.param([C1 | REACHED, M1, C2, M2], {"outcome": 1}, [], [], [], id="at c_1"),
        pytest.param(
            [C1, C2], {"outcome": 1}, [], [], [], id="known as a whole, without a decision"
        ),
        pytest.param(
            [M1 | REACHED, C1, M2],
            {},
            [(None, "m1", None)],
            [1],
            [1],
            id="at an opening of the business",
        ),
        pytest.param(
            [M1, C1 | REACHED],
            {},
            [(None, "m1", "c1")],
            [1],
            [1],
            id="answering an opening of the business",
        ),
        pytest.param(
            [C1, M1, C2 | {"outcome": True}],
            {"outcome": True},
            [("c1", "m1", "c2")],
            [1],
            [1],
            id="written as true",
        ),
    ],
)
def test_the_reward_goes_to_the_last_decision_before_the_outcome(
    messages: list[Message],
    fields: dict[str, Any],
    said: list[Any],
    rewards: list[float],
    returns: list[float],
) -> None:
    rows = turns(*messages, **fields)

    assert columns(rows, "customer", "sent", "customer_after") == said
    assert columns(rows, "reward") == rewards
    assert columns(rows, "done") == [False] * (len(rows) - 1) + [True] * bool(rows)
    assert not any(columns(rows, "censored"))
    assert not any(columns(rows, "outcome_before"))
    assert monte_carlo_returns(columns(rows, "reward"), gamma=0.5) == returns


def test_messages_after_the_outcome_are_cut_and_counted() -> None:
    messages = [C1, M1, C2 | REACHED, M2 | REACHED, C3 | REACHED]

    assert columns(turns(*messages), "customer", "sent", "customer_after") == [("c1", "m1", "c2")]
    assert counts(*messages)["messages_cut_after_outcome"] == 2


def test_a_message_that_takes_the_outcome_back_is_cut_like_any_other() -> None:
    assert columns(turns(C1, M1 | REACHED, C2 | {"outcome": 0}), "customer", "reward") == [
        ("c1", 1)
    ]


def test_an_outcome_on_a_blank_message_counts() -> None:
    assert columns(turns(C1, M1, customer("", outcome=1)), "sent", "reward") == [("m1", 1)]


def test_an_outcome_known_as_a_whole_holds_although_its_messages_were_still_at_zero() -> None:
    assert columns(turns(C1, M1 | {"outcome": 0}, outcome=1), "reward") == [1]


# --- censoring -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"outcome": 0, "unfinished": True}, id="unfinished"),
        pytest.param({"outcome": 0, "meta": {"unfinished": True}}, id="unfinished in meta"),
        pytest.param({}, id="without any label"),
        pytest.param(
            {"outcome": None, "meta": {"unfinished": False}}, id="finished yet without a label"
        ),
    ],
)
def test_a_conversation_whose_end_is_not_known_is_censored(fields: dict[str, Any]) -> None:
    rows = turns(C1, M1, C2, **fields)

    assert columns(rows, "censored", "done", "reward") == [(True, False, 0), (True, False, 0)]


@pytest.mark.parametrize(
    ("messages", "fields"),
    [
        pytest.param([C1, M1, C2], {"outcome": 1, "unfinished": True}, id="known as a whole"),
        pytest.param([C1, M1, C2 | REACHED], {"meta": {"unfinished": True}}, id="on a message"),
    ],
)
def test_an_unfinished_conversation_that_reached_the_outcome_is_not_censored(
    messages: list[Message], fields: dict[str, Any]
) -> None:
    assert columns(turns(*messages, **fields), "censored", "done", "reward") == [(False, True, 1)]


def test_unfinished_beside_the_messages_overrides_meta() -> None:
    rows = turns(C1, M1, outcome=0, unfinished=False, meta={"unfinished": True})

    assert columns(rows, "censored") == [False]


def test_nothing_else_of_meta_reaches_a_row() -> None:
    rows = turns(
        C1, M1, C2, outcome=1, meta={"customer_target": 241, "persona": "secret"}, secret="s"
    )

    assert rows == turns(C1, M1, C2, outcome=1)
