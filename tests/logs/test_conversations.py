"""A line of a log, its turns and rewards, and the counts that account for every message."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.contracts.trajectories import action
from iterppo.errors import DataError
from iterppo.logs.conversations import turns_of
from iterppo.logs.records import parse_line
from iterppo.rl.returns import monte_carlo_returns

Message = dict[str, Any]
Rows = list[dict[str, Any]]


def customer(content: str, **fields: Any) -> Message:
    return {"role": "customer", "content": content, **fields}


def business(content: str, **fields: Any) -> Message:
    return {"role": "business", "content": content, **fields}


def line(*messages: Any, **fields: Any) -> bytes:
    return json.dumps({"conversation_id": "c", "messages": list(messages), **fields}).encode()


def turns(*messages: Message, **fields: Any) -> Rows:
    return turns_of(parse_line(line(*messages, **fields)))[0]


def counts(*messages: Message, **fields: Any) -> dict[str, int]:
    return dict(turns_of(parse_line(line(*messages, **fields)))[1])


def columns(rows: Rows, *names: str) -> list[Any]:
    """The named columns of every row, or the values of the one."""
    return [
        row[names[0]] if len(names) == 1 else tuple(row[name] for name in names) for row in rows
    ]


def reason(broken: bytes) -> str:
    with pytest.raises(DataError, match=r".") as raised:
        parse_line(broken)
    assert raised.value.exit_status == 3
    return str(raised.value)


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


# --- outcome, reward, return ---------------------------------------------------------------------

C1, M1, C2, M2, C3, M3 = (
    customer("c1"),
    business("m1"),
    customer("c2"),
    business("m2"),
    customer("c3"),
    business("m3"),
)
REACHED = {"outcome": 1}


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


# --- suggestions ---------------------------------------------------------------------------------


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


# --- lines that are not taken --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "expected"),
    [
        pytest.param(b"", "not JSON: Expecting value: line 1 column 1 (char 0)", id="empty"),
        pytest.param(
            b'{"conversation_id": ',
            "not JSON: Expecting value: line 1 column 21 (char 20)",
            id="cut off",
        ),
        pytest.param(b'{"a": "\xff"}', "not UTF-8 at byte 7", id="not UTF-8"),
        pytest.param(b"[1]", "not a JSON object", id="a list"),
        pytest.param(b"{}", "conversation_id: Field required", id="no id"),
        pytest.param(b'{"conversation_id": "c"}', "messages: Field required", id="no messages"),
        pytest.param(
            b'{"conversation_id": 7.5, "messages": []}',
            "conversation_id: Input should be a valid string",
            id="an id that is a fraction",
        ),
        pytest.param(
            b'{"conversation_id": "", "messages": []}',
            "conversation_id: is empty",
            id="an empty id",
        ),
        pytest.param(
            line(C1, {"role": "agent", "content": "x"}),
            "messages.1.role: Input should be 'customer' or 'business'",
            id="another role",
        ),
        pytest.param(
            line(C1, {"role": "business"}), "messages.1.content: Field required", id="no content"
        ),
        pytest.param(
            line({"role": "business", "content": None}),
            "messages.0.content: Input should be a valid string",
            id="null content",
        ),
        pytest.param(
            line(C1 | {"outcome": 2}), "messages.0.outcome: Input should be 0 or 1", id="outcome 2"
        ),
        pytest.param(
            line(C1, outcome="1"), "outcome: Input should be 0 or 1", id="outcome as text"
        ),
        pytest.param(
            line(C1 | {"time": "yesterday"}),
            "messages.0.time: Value error, Invalid isoformat string: 'yesterday'",
            id="a time in words",
        ),
        pytest.param(
            line(C1 | {"time": 1_700_000_000_000}),
            "messages.0.time: Value error, year 55840 is out of range",
            id="a time in milliseconds",
        ),
        pytest.param(
            line(C1 | {"time": True}),
            "messages.0.time: Input should be a valid datetime",
            id="a time that is true",
        ),
        pytest.param(
            line(M1 | {"adoption": "taken"}),
            "messages.0.adoption: Input should be 'verbatim', 'edited', 'influenced', "
            "'rejected', 'abstained' or "
            "'not_shown'",
            id="another adoption",
        ),
        pytest.param(
            line(C1, unfinished="maybe"),
            "unfinished: Input should be a valid boolean",
            id="unfinished in words",
        ),
        pytest.param(
            line(C1, M1 | REACHED, outcome=0),
            "outcome: is 0, but messages.1 carries 1",
            id="a contradiction",
        ),
    ],
)
def test_a_broken_line_is_refused_with_its_reason(broken: bytes, expected: str) -> None:
    assert reason(broken) == expected


def test_the_number_that_a_database_gives_is_an_id() -> None:
    assert parse_line(b'{"conversation_id": 7, "messages": []}').conversation_id == "7"


@pytest.mark.parametrize("time", ["1e20", "-1e300", "1e999", "1" + "0" * 400])
def test_a_time_that_no_calendar_has_is_refused_like_any_other_broken_value(time: str) -> None:
    broken = line(C1 | {"time": "TIME"}).replace(b'"TIME"', time.encode())

    assert reason(broken).startswith("messages.0.time: Value error, ")


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:00", "9999-12-31T23:59:59-23:00"])
def test_a_time_that_leaves_the_calendar_in_utc_is_refused(time: str) -> None:
    assert reason(line(C1 | {"time": time})).startswith("messages.0.time: Value error, ")


@pytest.mark.parametrize(
    ("broken", "where"),
    [
        pytest.param(line(customer("\ud83d half an emoji")), "messages.0.content", id="content"),
        pytest.param(
            line(C1, M1 | {"suggestion": "\udc00"}), "messages.1.suggestion", id="suggestion"
        ),
        pytest.param(b'{"conversation_id": "\\ud800", "messages": []}', "conversation_id", id="id"),
        pytest.param(line(C1, persona="\ud800"), "persona", id="persona"),
    ],
)
def test_half_a_character_is_refused_since_no_parquet_can_hold_it(
    broken: bytes, where: str
) -> None:
    assert reason(broken).startswith(f"{where}: ")


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_log_probability_that_is_no_number_is_refused(number: str) -> None:
    broken = line(C1, M1 | {"suggestion_logprob": "X"}).replace(b'"X"', number.encode())

    assert reason(broken)


def test_a_line_nested_too_deeply_is_refused() -> None:
    assert reason(b"[" * 100_000).startswith("not JSON: ")


def test_the_mark_that_windows_programs_write_before_a_file_is_passed_over() -> None:
    assert parse_line(b"\xef\xbb\xbf" + line(C1)) == parse_line(line(C1))


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
