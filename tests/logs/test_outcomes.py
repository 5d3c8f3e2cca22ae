"""What each labeller says of a conversation, and what they say together."""

import re
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.logs.conversations import Cut, TurnTable
from iterppo.logs.outcomes import (
    Label,
    Labeller,
    combine,
    from_classifier,
    from_conversation,
    from_marks,
    from_pattern,
    label_all,
)
from iterppo.logs.records import LogConversation, LogMessage

NOT_REACHED, UNKNOWN = Label(False), Label(None)


def conversation(
    *texts: str, marks: dict[int, int] | None = None, outcome: int | None = None
) -> LogConversation:
    """The customer and the business in turn; marks: message -> outcome."""
    messages = [
        LogMessage(
            "business" if n % 2 else "customer",
            text,
            outcome=None if marks is None else marks.get(n),  # type: ignore[arg-type]
        )
        for n, text in enumerate(texts)
    ]
    return LogConversation("c", messages, outcome=outcome)  # type: ignore[arg-type]


def says(*labels: Label) -> Labeller:
    """A labeller that says this of the conversations in order."""
    return lambda conversations: list(labels)


def shouting(texts: Sequence[str]) -> list[float]:
    """A classifier: the share of a text's letters that are large."""
    return [sum(letter.isupper() for letter in text) / len(text) for text in texts]


WORDS = ("hi", "hello", "I order", "thanks", "I ORDER", "bye")

# --- each labeller -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("marks", "label"),
    [
        pytest.param({}, UNKNOWN, id="no mark"),
        pytest.param({0: 0, 3: 0}, NOT_REACHED, id="zeros"),
        pytest.param({0: 0, 3: 1, 4: 0, 5: 1}, Label(True, 3), id="the first one"),
        pytest.param({0: 1}, Label(True, 0), id="the first message"),
    ],
)
def test_marks_name_the_message(marks: dict[int, int], label: Label) -> None:
    assert from_marks([conversation(*WORDS, marks=marks)]) == [label]


@pytest.mark.parametrize(
    ("outcome", "label"), [(None, UNKNOWN), (0, NOT_REACHED), (1, Label(True))]
)
def test_the_field_of_a_conversation_names_no_message(outcome: int | None, label: Label) -> None:
    assert from_conversation([conversation(*WORDS, outcome=outcome)]) == [label]


@pytest.mark.parametrize(
    ("pattern", "label"),
    [
        pytest.param("(?i)order", Label(True, 2), id="the first message that has it"),
        pytest.param("ORDER", Label(True, 4), id="a later one"),
        pytest.param("hello|thanks|bye", NOT_REACHED, id="the business said it"),
    ],
)
def test_a_pattern_is_searched_in_what_customers_say(pattern: str, label: Label) -> None:
    assert from_pattern(pattern)([conversation(*WORDS), conversation()]) == [label, NOT_REACHED]


@pytest.mark.parametrize(
    ("threshold", "label"),
    [
        pytest.param(0.9, NOT_REACHED, id="none reaches it"),
        pytest.param(6 / 7, Label(True, 4), id="one reaches it just so"),
        pytest.param(0.1, Label(True, 2), id="the first that reaches it"),
        pytest.param(0.0, Label(True, 0), id="all reach it"),
    ],
)
def test_a_classifier_is_asked_of_what_customers_say(threshold: float, label: Label) -> None:
    conversations = [conversation(" \n", "QUIET"), conversation(*WORDS), conversation()]

    labels = from_classifier(shouting, threshold=threshold)(conversations)

    assert labels == [NOT_REACHED, label, NOT_REACHED]


def test_a_classifier_is_not_asked_where_no_customer_said_anything() -> None:
    asked: list[Sequence[str]] = []

    def remember(texts: Sequence[str]) -> list[float]:
        asked.append(texts)
        return [0.0] * len(texts)

    label = from_classifier(remember, threshold=0.5)

    assert label([conversation("", "hello")]) == [NOT_REACHED]
    assert label([conversation("one", "two", "three"), conversation("four")]) == [NOT_REACHED] * 2
    assert asked == [["one", "three", "four"]]


# --- together ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "together"),
    [
        pytest.param([], UNKNOWN, id="nobody is asked"),
        pytest.param([UNKNOWN, UNKNOWN], UNKNOWN, id="nobody knows"),
        pytest.param([UNKNOWN, NOT_REACHED], NOT_REACHED, id="one says no"),
        pytest.param([NOT_REACHED, Label(True)], Label(True), id="one says yes, one no"),
        pytest.param([Label(True, 4), Label(True, 2)], Label(True, 2), id="the earliest"),
        pytest.param([Label(True), Label(True, 4)], Label(True, 4), id="the one that is named"),
        pytest.param([Label(True, 0), Label(True, -1)], Label(True, -1), id="before the first"),
    ],
)
def test_the_earliest_position_that_is_named_wins(labels: list[Label], together: Label) -> None:
    for ordered in (labels, labels[::-1]):
        assert combine(ordered) == together
        assert label_all([conversation()], [says(label) for label in ordered]) == [together]


LABELS = st.builds(
    lambda reached, position: Label(reached, position if reached else None),
    st.sampled_from([None, False, True]),
    st.none() | st.integers(-1, 3),
)


@given(st.lists(st.lists(LABELS, min_size=3, max_size=3), max_size=4))
def test_together_they_say_what_the_definition_says(columns: list[list[Label]]) -> None:
    found = label_all([conversation()] * 3, [says(*column) for column in columns])

    for row, label in enumerate(found):
        labels = [column[row] for column in columns]
        positions = [each.position for each in labels if each.position is not None]
        reached = [each.reached for each in labels]
        expected = True if True in reached else False if False in reached else None
        assert label == Label(expected, min(positions, default=None))


def test_a_mark_is_found_where_a_pattern_finds_nothing() -> None:
    labellers = [from_marks, from_conversation, from_pattern("never said")]

    assert label_all([conversation(*WORDS, marks={4: 1})], labellers) == [Label(True, 4)]


def test_a_pattern_overrules_a_field_that_says_no() -> None:
    labellers = [from_conversation, from_pattern("I order")]

    assert label_all([conversation(*WORDS, outcome=0)], labellers) == [Label(True, 2)]


def test_a_pattern_names_the_message_of_an_outcome_that_is_known_as_a_whole() -> None:
    labellers = [from_conversation, from_pattern("I order")]

    assert label_all([conversation(*WORDS, outcome=1)], labellers) == [Label(True, 2)]


@pytest.mark.parametrize(
    "looking",
    [
        pytest.param(from_pattern("never said"), id="pattern"),
        pytest.param(from_classifier(shouting, threshold=1.0), id="classifier"),
    ],
)
def test_what_is_looked_for_and_not_found_is_a_known_zero(looking: Labeller) -> None:
    silent = conversation(*WORDS)

    assert label_all([silent], [from_marks, from_conversation]) == [UNKNOWN]
    assert label_all([silent], [from_marks, from_conversation, looking]) == [NOT_REACHED]


@pytest.mark.parametrize(
    ("labellers", "turns", "num_cut"),
    [
        pytest.param([from_pattern("I order")], ["hello"], 3, id="one labeller"),
        pytest.param(
            [from_marks, from_pattern("(?i)order"), from_conversation], ["hello"], 3, id="several"
        ),
        pytest.param([from_pattern("I ORDER")], ["hello", "thanks"], 1, id="a later message"),
        pytest.param([from_conversation], ["hello", "thanks", "bye"], 0, id="as a whole"),
        pytest.param([from_pattern("hi")], [], 5, id="before any decision"),
    ],
)
def test_what_is_after_the_first_outcome_is_cut_and_counted(
    labellers: list[Labeller], turns: list[str], num_cut: int
) -> None:
    ordered = conversation(*WORDS, marks={5: 1}, outcome=1)
    table = TurnTable()

    (label,) = label_all([ordered], labellers)
    table.add(Cut(ordered, label, censored=False, split="train"))
    rows = table.take().to_pylist()

    assert [row["sent"] for row in rows] == turns
    assert [row["reward"] for row in rows] == [0.0] * (len(turns) - 1) + [1.0] * bool(turns)
    assert table.counts["messages_cut_after_outcome"] == num_cut
    assert table.counts["messages"] == 6


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(re.error):
        from_pattern("(")
