"""The turns of a conversation, and the counts that account for every message."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.logs.conversations import turns_of
from iterppo.logs.records import parse_line
from tests.logs.lines import Message, business, columns, customer, turns

# --- turns ---------------------------------------------------------------------------------------


def test_a_conversation_becomes_one_row_per_turn_with_every_column() -> None:
    rows = turns(
        customer("hi", time="2026-01-02T03:04:05Z"),
        business("hello", time="2026-01-02T03:04:06.5+01:00"),
        customer("bye", time=1_700_000_000),
        outcome=0,
        policy_version="first",
        persona="bold",
        customer_id="k-7",
    )

    shared = {
        "conversation_id": "c",
        "suggestion": None,
        "adoption": None,
        "edit_distance": None,
        "suggestion_logprob": None,
        "policy_version": "first",
        "persona": "bold",
        "outcome_before": False,
        "reward": 0.0,
        "censored": False,
        "customer_after": None,
        "split": "train",
        "customer_id": "k-7",
        "business_id": None,
        "facts": None,
    }
    assert rows == [
        {
            **shared,
            "turn": 1,
            "customer": "hi",
            "customer_time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "sent": "hello",
            "sent_time": datetime(2026, 1, 2, 2, 4, 6, 500_000, tzinfo=UTC),
            "done": False,
        },
        {
            **shared,
            "turn": 2,
            "customer": "bye",
            "customer_time": datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC),
            "sent": None,
            "sent_time": None,
            "done": True,
        },
    ]


def test_consecutive_messages_of_one_side_are_joined_by_a_line_break() -> None:
    rows = turns(
        customer("hi", time="2026-01-01T00:00:00"),
        customer("anyone?", time="2026-01-01T00:01:00"),
        business("yes"),
        business("a shop\nof two lines"),
        outcome=0,
    )

    assert columns(rows, "customer", "sent") == [("hi\nanyone?", "yes\na shop\nof two lines")]
    assert rows[0]["customer_time"] == datetime(2026, 1, 1, 0, 1, tzinfo=UTC)


def test_blank_messages_are_passed_over_and_their_neighbours_joined() -> None:
    rows = turns(
        customer("one"),
        business(" \n"),
        customer("two"),
        business("three"),
        customer(""),
        outcome=0,
    )

    assert columns(rows, "customer", "sent") == [("one\ntwo", "three")]


def test_a_conversation_that_the_business_opens_has_a_first_turn_without_customer() -> None:
    rows = turns(business("welcome"), customer("hi"), business("so?"), outcome=0)

    assert columns(rows, "turn", "customer", "sent") == [(1, None, "welcome"), (2, "hi", "so?")]


def test_blanks_around_a_message_and_emoji_are_kept() -> None:
    rows = turns(customer(" ☹️ "), business("\u200dok\t"), outcome=0)

    assert columns(rows, "customer", "sent") == [(" ☹️ ", "\u200dok\t")]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        pytest.param([customer("a"), customer("b")], [("a\nb", None)], id="only the customer"),
        pytest.param([business("a"), business("b")], [(None, "a\nb")], id="only the business"),
        pytest.param([customer("a")], [("a", None)], id="a single message"),
        pytest.param([], [], id="no messages"),
        pytest.param([customer(" "), business("")], [], id="only blank messages"),
    ],
)
def test_a_one_sided_conversation_has_the_turns_that_it_has(
    messages: list[Message], expected: list[Any]
) -> None:
    assert columns(turns(*messages, outcome=0), "customer", "sent") == expected


# --- properties ----------------------------------------------------------------------------------


CONTENTS = st.sampled_from(["", " ", "\n", "a", "b\nc", "🙂"])
OUTCOMES = st.sampled_from([None, None, None, 0, 1])
SUGGESTIONS = st.sampled_from(
    [
        {},
        {},
        {"suggestion": "a"},
        {"suggestion": "long enough"},
        {"suggestion": None, "adoption": "abstained"},
    ]
)


@st.composite
def conversations(draw: st.DrawFn, *, with_suggestions: bool) -> dict[str, Any]:
    """A line of a log that is taken."""
    messages = []
    for _ in range(draw(st.integers(0, 9))):
        role = draw(st.sampled_from(["customer", "business"]))
        message = {"role": role, "content": draw(CONTENTS), "outcome": draw(OUTCOMES)}
        if with_suggestions and role == "business":
            message |= draw(SUGGESTIONS)
        messages.append(message)
    reached = any(message["outcome"] == 1 for message in messages)
    outcome = draw(st.sampled_from([None, 1] if reached else [None, 0, 1]))
    return {
        "conversation_id": "c",
        "messages": messages,
        "outcome": outcome,
        "unfinished": draw(st.booleans()),
    }


@given(conversation=conversations(with_suggestions=False))
def test_every_word_until_the_outcome_is_in_the_turns_in_order(
    conversation: dict[str, Any],
) -> None:
    rows, _ = turns_of(parse_line(json.dumps(conversation).encode()))

    marked = [
        number for number, message in enumerate(conversation["messages"]) if message["outcome"] == 1
    ]
    kept = conversation["messages"][: marked[0] + 1] if marked else conversation["messages"]
    spoken = [message["content"] for message in kept if message["content"].strip()]
    found = [
        text
        for row in rows
        for text in (row["customer"], row["sent"], row["customer_after"])
        if text is not None
    ]
    assert "\n".join(found) == ("\n".join(spoken) if rows else "")


@given(conversation=st.booleans().flatmap(lambda some: conversations(with_suggestions=some)))
def test_every_message_is_counted_once(conversation: dict[str, Any]) -> None:
    rows, counted = turns_of(parse_line(json.dumps(conversation).encode()))

    assert counted["messages"] == len(conversation["messages"])
    assert counted["messages"] == (
        counted["messages_cut_after_outcome"]
        + counted["messages_blank"]
        + counted["messages_joined"]
        + counted["sides"]
    )
    assert counted["conversations"] == 1
    assert counted["conversations"] == (
        counted["conversations_without_turns"]
        + counted["conversations_censored"]
        + counted["conversations_terminal"]
    )
    assert counted["turns"] == len(rows)
    if rows:
        # A decision after which nothing was sent is a side of its own: the business kept silent.
        unsent = sum(
            row["sent"] is None and row["adoption"] not in (None, "not_shown") for row in rows
        )
        said = sum(
            row[name] is not None for row in rows for name in ("customer", "sent", "customer_after")
        )
        assert counted["sides"] == said + unsent


@given(conversation=st.booleans().flatmap(lambda some: conversations(with_suggestions=some)))
def test_a_conversation_pays_its_outcome_once_and_ends_once(conversation: dict[str, Any]) -> None:
    rows, counted = turns_of(parse_line(json.dumps(conversation).encode()))

    marks = [message["outcome"] for message in conversation["messages"]]
    reached = conversation["outcome"] == 1 or 1 in marks
    labelled = conversation["outcome"] is not None or 0 in marks or 1 in marks
    censored = not reached and (conversation["unfinished"] or not labelled)
    assert columns(rows, "turn") == list(range(1, len(rows) + 1))
    assert set(columns(rows, "censored")) <= {censored}
    assert not any(columns(rows[:-1], "reward"))
    assert not any(columns(rows[:-1], "done"))
    assert columns(rows[-1:], "reward", "done") == [(float(reached), not censored)] * bool(rows)
    assert counted["outcomes"] == sum(columns(rows, "reward"))
