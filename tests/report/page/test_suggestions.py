"""Which conversations are shown, and which completions stand for the policy."""

from pathlib import Path
from typing import Any

import pytest

from iterppo.report.page.run import read_run
from iterppo.report.page.suggestions import Card, Cards, read_cards
from tests.report.page.made_run import conversation, sample, write, write_policy


def q_row(name: str, turn: int, q: float) -> dict[str, Any]:
    return {"conversation_id": name, "turn": turn, "q": q, "q_spread": None, "return": 0.0,
            "weight": 1.0, "split": "train", "v": None}  # fmt: skip


def cards(tmp_path: Path, samples: list[dict[str, Any]], **options: Any) -> Cards:
    """Those of `found_in`, of which there are some."""
    found = found_in(tmp_path, samples, **options)
    assert found is not None
    return found


def found_in(
    tmp_path: Path,
    samples: list[dict[str, Any]],
    *,
    most: int = 10,
    turns: list[dict[str, Any]] | None = None,
    **metrics: Any,
) -> Cards | None:
    """Of a round of four conversations c0 … c3 in which Q̂ of every action is 1/4."""
    names = [f"c{index}" for index in range(4)]
    if turns is None:
        turns = [
            row
            for index, name in enumerate(names)
            for row in conversation(name, version="p0", outcome=index == 1, customer=f"Ask {index}")
        ]
    folder = tmp_path / "000"
    write(folder / "trajectories", "trajectories", "ingest", turns)
    write(
        folder / "q", "q", "fit-q", [q_row(name, turn, 0.25) for name in names for turn in (1, 2)]
    )
    own = [one | {"prompt_id": one["prompt_id"].replace('"><i>', "")} for one in samples]
    write_policy(folder / "policy", of=[], samples=own, metrics=metrics)
    return read_cards(read_run(tmp_path).rounds[0], most=most)


def told(card: Card) -> tuple[Any, ...]:
    return card.conversation_id, card.turn, [(one.text, one.q, one.times) for one in card.now]


def test_the_most_changed_come_first_whichever_way(tmp_path: Path) -> None:
    found = cards(tmp_path, [sample(0, 0.5), sample(1, 0.0625, text="x"), sample(2, 1.0)], most=2)

    assert [(card.conversation_id, card.change, card.kind) for card in found.cards] == [
        ("c2", 0.75, "higher"),
        ("c0", 0.25, "higher"),
    ]
    assert found.num_compared == 3


def test_a_conversation_is_shown_at_its_most_changed_turn_with_what_led_there(
    tmp_path: Path,
) -> None:
    found = cards(tmp_path, [sample(1, 0.375, turn=1), sample(1, 0.0, turn=2)])

    (card,) = found.cards
    assert (card.turn, card.change, card.outcome) == (2, -0.25, "reached")
    assert [(one.who, one.text) for one in card.before] == [
        ("customer", "Hello"),
        ("business", "suggested 1"),
        ("customer", "Ask 1"),
    ]
    assert (card.then.text, card.adoption, card.sent) == ("suggested 2", "verbatim", "")


def test_the_last_completions_of_a_prompt_before_the_kept_policy_stand_for_it(
    tmp_path: Path,
) -> None:
    """Of four updates with a step each, update 3 was kept: what was sampled at step 2 counts."""
    samples = [sample(0, 0.5, step=step, text=f"at {step}") for step in range(4)]
    samples += [sample(0, 1.0, step=2, text="at 2"), sample(1, 1.0, step=0, text="too old")]

    found = cards(tmp_path, samples, kept_update=3.0)

    assert (found.first_update, found.last_update, found.kept_update) == (2, 2, 3)
    assert [told(card) for card in found.cards] == [("c0", 2, [("at 2", 1.0, 2)])]


def test_where_no_update_was_kept_the_first_policy_speaks(tmp_path: Path) -> None:
    samples = [sample(0, 0.5, step=step, text=f"at {step}") for step in range(4)]

    found = cards(tmp_path, samples, kept_update=0.0)

    assert [told(card) for card in found.cards] == [("c0", 2, [("at 0", 0.5, 1)])]


def test_several_completions_are_one_mean_and_truncated_ones_are_none(tmp_path: Path) -> None:
    samples = [sample(0, 0.5, text="a"), sample(0, 0.5, text="a"), sample(0, 0.75, text="")]
    samples += [sample(0, 1.0) | {"truncated": True}]

    (card,) = cards(tmp_path, samples).cards

    assert told(card)[2] == [("a", 0.5, 2), ("", 0.75, 1)]
    assert card.q_now == pytest.approx(1.75 / 3)


def test_conversations_that_say_the_same_are_shown_once(tmp_path: Path) -> None:
    turns = [
        row
        for name in ("c0", "c1", "c2", "c3")
        for row in conversation(name, version="p0", outcome=False, customer="Same")
    ]

    found = cards(tmp_path, [sample(index, 0.5) for index in range(4)], turns=turns)

    assert [card.conversation_id for card in found.cards] == ["c0"]
    assert found.num_compared == 4


@pytest.mark.parametrize(
    ("fields", "then", "sent"),
    [
        pytest.param({"sent": "my own"}, "suggested 2", "my own", id="something else was sent"),
        pytest.param(
            {"suggestion": None, "adoption": "abstained"}, "", "suggested 2", id="abstained"
        ),
        pytest.param(
            {"suggestion": None, "adoption": None}, "suggested 2", "", id="no suggestions"
        ),
        pytest.param({"sent": None}, "suggested 2", "", id="nothing was sent"),
    ],
)
def test_then_is_the_action_and_what_was_sent_stands_beside_it(
    tmp_path: Path, fields: dict[str, Any], then: str, sent: str
) -> None:
    turns = conversation("c0", version="p0", outcome=False, **fields)

    (card,) = cards(tmp_path, [sample(0, 0.5)], turns=turns).cards

    assert (card.then.text, card.sent) == (then, sent)
    assert card.then_is_sent is (fields.get("adoption", "") is None)


def test_the_same_text_again_is_told_as_such(tmp_path: Path) -> None:
    (card,) = cards(tmp_path, [sample(0, 0.25, text="suggested 2")]).cards

    assert card.kind == "same"


def test_a_long_message_is_cut_and_says_so(tmp_path: Path) -> None:
    turns = conversation("c0", version="p0", outcome=False, customer="y" * 2500)

    (card,) = cards(tmp_path, [sample(0, 0.5)], turns=turns).cards

    assert card.before[-1].text == "y" * 2000 + " … (500 more characters)"


def test_a_policy_without_completions_has_no_cards(tmp_path: Path) -> None:
    assert found_in(tmp_path, []) is None
