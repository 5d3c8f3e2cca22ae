"""Every conversation of the three real sets keeps its prefixes."""

import os
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from iterppo.lm.rendering import Decision, Renderer, decisions
from iterppo.lm.scratch import train_tokenizer
from iterppo.logs.conversations import turns_of
from iterppo.logs.records import parse_line
from iterppo.logs.sources import Lines, LogFile, Piece

CHECKOUT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("ITERPPO_DATA", CHECKOUT.parent / "shared" / "data"))
CHATS = {"craigslist-dev": 625, "star": 3133, "casino": 1030}

pytestmark = pytest.mark.skipif(
    not all((DATA / f"{name}.jsonl.gz").is_file() for name in CHATS),
    reason=f"{DATA}: the real conversations are not there; ITERPPO_DATA names their folder",
)


def conversations(name: str) -> Iterator[list[dict[str, Any]]]:
    path = str(DATA / f"{name}.jsonl.gz")
    for _, line in Lines(Piece(LogFile(path, path))):
        yield turns_of(parse_line(line))[0]


@pytest.fixture(scope="module")
def real_renderer() -> Renderer:
    texts = [
        text
        for name in CHATS
        for rows in islice(conversations(name), 100)
        for row in rows
        for text in (row["customer"], row["sent"])
        if text
    ]
    return Renderer(train_tokenizer(texts, vocab_size=500))


@pytest.mark.parametrize("name", CHATS)
def test_every_later_state_begins_with_the_earlier_state_and_its_action(
    name: str, real_renderer: Renderer
) -> None:
    num_conversations = num_steps = 0
    for rows in conversations(name):
        num_conversations += 1
        turns = list(decisions(rows, system_prompt="Suggest a message."))
        for turn, following in pairwise(turns):
            assert_prefix(turn, following, real_renderer)
            num_steps += 1
        assert_one_pass_sees_every_turn(turns, real_renderer)

    assert num_conversations == CHATS[name]
    assert num_steps > 2 * num_conversations


def assert_prefix(turn: Decision, following: Decision, renderer: Renderer) -> None:
    later = renderer.prompt_ids(following.state)
    if turn.action is None:  # no action: the user's message goes on
        # The last user message is open to be continued; all that stands before it is kept.
        before = renderer.prompt_ids(turn.state[:-1])[:-1]
        assert later[: len(before)] == before
        assert following.state[: len(turn.state) - 1] == turn.state[:-1]
        return
    pair = renderer.pair_ids(turn.state, turn.action)
    assert later[: len(pair)] == pair
    assert [*turn.state, {"role": "assistant", "content": turn.action}] == following.state[:-1]


def assert_one_pass_sees_every_turn(turns: list[Decision], renderer: Renderer) -> None:
    """The longest rendering holds all the shorter ones: one segment, an end for each action."""
    acted = [(index, turn) for index, turn in enumerate(turns) if turn.action is not None]
    segments, too_long = renderer.segments(turns, max_tokens=1_000_000)
    assert too_long == []
    assert [index for s in segments for index, _ in s.ends] == [index for index, _ in acted]
    assert len(segments) == min(1, len(acted))
    for segment in segments:
        for index, end in segment.ends:
            assert segment.ids[: end + 1] == renderer.pair_ids(
                turns[index].state, turns[index].action or ""
            )
        assert segment.ids.count(renderer.eos_id) == len(turns[segment.ends[-1][0]].state) + 1
