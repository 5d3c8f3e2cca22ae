"""Which conversations `ingest` holds out: by what key, and the same ones in every round."""

from collections.abc import Callable
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest

from tests.logs import generated
from tests.logs.ingesting import ingested, ingested_in_pieces, line
from tests.logs.lines import customer


def opening_of(conversation: dict[str, Any]) -> str:
    spoken = [m["content"] for m in conversation["messages"] if m["content"].strip()]
    return " ".join(spoken[0].lower().split()) if spoken else ""


KEYS: dict[str, Callable[[dict[str, Any]], str]] = {
    "conversation": itemgetter("conversation_id"),
    "customer": itemgetter("customer_id"),
    "business": itemgetter("business_id"),
    "opening": opening_of,
}


def log_with_shared_openings(number: int) -> list[dict[str, Any]]:
    conversations = generated.many_conversations(number, seed=3)
    for place, one in enumerate(conversations):
        if one["messages"] and place % 3:
            openings = [" Hello ", "hello", "Good  DAY", "good day", "Hi", "Hej"]
            one["messages"][0]["content"] = openings[place % len(openings)]
    return conversations


@pytest.mark.parametrize("by", KEYS)
def test_ingest_puts_no_key_into_two_splits(by: str, tmp_path: Path) -> None:
    conversations = log_with_shared_openings(300)
    content = b"\n".join(generated.as_lines(conversations))

    found = ingested_in_pieces(
        tmp_path, {"a.jsonl": content}, 40_000, split_by=by, heldout=0.4, seed=2
    )

    key_of = {one["conversation_id"]: KEYS[by](one) for one in conversations}
    keys_of: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for row in found.rows:
        keys_of[row["split"]].add(key_of[row["conversation_id"]])
    assert keys_of["train"]
    assert keys_of["heldout"]
    assert not keys_of["train"] & keys_of["heldout"]
    num_keys = len(keys_of["train"] | keys_of["heldout"])
    num_conversations = len({row["conversation_id"] for row in found.rows})
    assert num_keys == num_conversations if by == "conversation" else num_keys < num_conversations


# What is held out today stays so in every round: Q must not be judged on what it was fitted on.
HELD_OUT = {
    "conversation": [6, 18, 26],
    "customer": [2, 8, 11],
    "business": [8, 13, 16, 18, 20, 21, 28],
    "opening": [4, 10, 16, 28],
}


@pytest.mark.parametrize("by", KEYS)
def test_a_split_is_the_same_in_every_round_and_on_every_machine(by: str, tmp_path: Path) -> None:
    conversations = log_with_shared_openings(40)
    first = b"\n".join(generated.as_lines(conversations[:30]))
    later = b"\n".join(reversed(generated.as_lines(conversations[15:])))

    in_first = ingested(tmp_path / "a", first, split_by=by, heldout=0.3)
    in_later = ingested(
        tmp_path / "b", later, split_by=by, heldout=0.3, cutoff="2026-06-01T00:00:00", idle="1d"
    )

    splits = {row["conversation_id"]: row["split"] for row in in_first.rows}
    held_out = [int(one.split("/")[1]) for one, split in splits.items() if split == "heldout"]
    assert held_out == HELD_OUT[by]
    for row in in_later.rows:
        assert row["split"] == splits.get(row["conversation_id"], row["split"])


@pytest.mark.parametrize("key", ["customer", "business"])
@pytest.mark.parametrize("value", [None, ""], ids=["null", "empty"])
def test_a_conversation_without_the_key_of_its_split_is_rejected(
    key: str, value: str | None, tmp_path: Path
) -> None:
    name = f"{key}_id"
    content = line("a", customer("x"), **{name: value}) + line("b", customer("y"), **{name: "k"})

    found = ingested(tmp_path, content, split_by=key)

    assert found.texts() == [("y", None)]
    assert found.reasons() == [(1, f"{name}: is missing, and ingest.split_by = '{key}' needs it")]
