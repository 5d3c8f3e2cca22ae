"""Batches in columns, and what is worked out of them for many conversations at once."""

import gc
import unicodedata

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.logs import reading
from iterppo.logs.censoring import is_censored
from iterppo.logs.conversations import Cut, TurnTable
from iterppo.logs.outcomes import from_conversation, from_marks, label_all
from iterppo.logs.records import LogConversation, parse_line
from iterppo.logs.suggestions import MORE_THAN_BLANKS
from iterppo.logs.time_columns import time_column, time_column_of_texts
from tests.logs.generated import as_lines, batches


def table_of(conversations: list[LogConversation], *, at_once: int, times: bool) -> TurnTable:
    table = TurnTable()
    labels = label_all(conversations, [from_marks, from_conversation])
    for number, (conversation, label) in enumerate(zip(conversations, labels, strict=True), 1):
        table.add(Cut(conversation, label, is_censored(conversation, label, None), "train"))
        if number % at_once == 0:
            batch = conversations[number - at_once : number]
            time_M = time_column([message.time for one in batch for message in one.messages])
            table.lay_out(time_M if times else None)
    return table


@given(batch=batches(), at_once=st.integers(1, 4), times=st.booleans())
def test_turns_are_the_same_in_whatever_batches_their_messages_became_columns(
    batch: list[dict[str, object]], at_once: int, times: bool
) -> None:
    conversations = [parse_line(line) for line in as_lines(batch)]
    whole = table_of(conversations, at_once=100, times=False)
    parted = table_of(conversations, at_once=at_once, times=times)

    assert len(parted) == len(whole) == len(batch)
    assert parted.take() == whole.take()
    assert parted.counts == whole.counts
    assert len(parted) == parted.num_messages == parted.num_waiting == 0


def test_a_table_gives_what_was_added_since_the_last_time() -> None:
    line = b'{"conversation_id": "%d", "messages": [{"role": "customer", "content": "a"}]}'
    first, second = (parse_line(line % number) for number in (1, 2))
    table = table_of([first], at_once=1, times=False)

    assert table.take()["conversation_id"].to_pylist() == ["1"]
    table.add(Cut(second, from_marks([second])[0], censored=True, split="heldout"))
    assert table.take()["conversation_id"].to_pylist() == ["2"]
    assert table.take().num_rows == 0
    assert table.counts["conversations_heldout"] == 1


# --- white space ---------------------------------------------------------------------------------


def test_every_character_that_python_splits_at_is_more_than_a_blank() -> None:
    splits = [
        character
        for character in map(chr, range(0x110000))
        if unicodedata.category(character) != "Cs" and len(f"a{character}b".split()) == 2
    ]
    texts = pa.array([f"a{character}b" for character in splits])

    found = pc.match_substring_regex(texts, MORE_THAN_BLANKS).to_pylist()

    assert [c for c, more in zip(splits, found, strict=True) if not more] == [" "]


@given(words=st.lists(st.text(st.sampled_from("aé🙂-"), min_size=1), min_size=1))
def test_words_with_single_blanks_between_them_are_not_more_than_blanks(words: list[str]) -> None:
    text = " ".join(words)
    apart = [f" {text}", f"{text} ", text.replace(" ", "  "), f"{text}\n"]

    assert pc.match_substring_regex(pa.array([text]), MORE_THAN_BLANKS).to_pylist() == [False]
    assert all(
        pc.match_substring_regex(pa.array([other]), MORE_THAN_BLANKS)[0].as_py()
        for other in apart
        if other != text
    )


# --- times ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(["2026-05-01T10:00:00Z", None, "2026-05-01T10:00:00.25+02:00"], id="zones"),
        pytest.param(["2026-05-01 10:00:00", "2026-05-01"], id="no zones"),
        pytest.param([None, None], id="none"),
        pytest.param([], id="empty"),
    ],
)
def test_times_that_arrow_reads_are_those_that_are_read_one_by_one(times: list[object]) -> None:
    texts = time_column_of_texts(times)

    assert texts is not None
    assert texts == time_column([*times, 1_700_000_000])[: len(times)]


@pytest.mark.parametrize(
    "times",
    [
        pytest.param(["2026-05-01T10:00:00Z", "2026-05-01T10:00:00"], id="with and without zone"),
        pytest.param(["2026-05-01T10:00:00Z", 1_700_000_000], id="texts and seconds"),
        pytest.param(["0001-01-01T00:00:00Z"], id="the first year"),
        pytest.param(["yesterday"], id="words"),
    ],
)
def test_other_times_are_left_to_be_read_one_by_one(times: list[object]) -> None:
    assert time_column_of_texts(times) is None


# --- the garbage collector -----------------------------------------------------------------------


def test_the_garbage_collector_is_left_as_it_was_found_whatever_happened() -> None:
    before = gc.get_threshold()
    found = []

    def fail() -> None:
        with reading._patient_collector():
            found.append(gc.get_threshold())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert found[0][0] > before[0]
    assert gc.get_threshold() == before
