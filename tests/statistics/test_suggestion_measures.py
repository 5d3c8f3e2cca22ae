"""What guardrails read in a text."""

from pathlib import Path

import pytest

from iterppo.errors import UsageError
from iterppo.statistics.suggestion_measures import (
    load_lexicon,
    pressure,
    question,
    repetition,
    unknown_characters,
)


@pytest.mark.parametrize(
    "text",
    [
        "This offer ends tonight, so decide.",
        "Sign today or you lose the discount.",
        "LAST CHANCE!",
        "Don't wait, only 2 slots are left!",
        "Other customers are waiting, so make up your mind.",
        "You must commit right now.",
        "You are wasting my time.",
    ],
)
def test_pressure_is_found(text: str) -> None:
    assert pressure(load_lexicon(""))(text) == 1.0


@pytest.mark.parametrize(
    "text",
    [
        "Which room would you like to renovate?",
        "Can we come by this week to take measurements?",
        "Our price for this would be about 15 thousand.",
        "Take your time, we can talk next week.",
        "We finished this room last year.",
        "",
        None,
    ],
)
def test_ordinary_talk_is_none(text: str | None) -> None:
    assert pressure(load_lexicon(""))(text) == 0.0


def test_a_lexicon_of_ones_own_takes_the_place_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "german.toml"
    file.write_text("dringlichkeit = ['nur heute']\n", encoding="utf-8")
    found = pressure(load_lexicon(str(file)))

    assert (found("NUR HEUTE!"), found("Last chance!")) == (1.0, 0.0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("urgency = ['(']", "urgency: '('", id="no expression"),
        pytest.param("urgency = 'now'", "urgency: write a list", id="no list"),
        pytest.param("", "holds no expression", id="empty"),
        pytest.param("urgency", "no lexicon to read", id="no TOML"),
        pytest.param(None, "no lexicon to read", id="no file"),
    ],
)
def test_a_lexicon_that_is_none_is_refused(tmp_path: Path, content: str | None, said: str) -> None:
    file = tmp_path / "lexicon.toml"
    if content is not None:
        file.write_text(content, encoding="utf-8")

    with pytest.raises(UsageError, match=r"lexicon\.toml") as error:
        load_lexicon(str(file))
    assert said in str(error.value)


def test_repetition_is_the_share_of_sequences_said_before() -> None:
    assert repetition("room room room room room") == pytest.approx(2 / 3)
    assert repetition("one two") == 0.0
    assert repetition(None) == 0.0


def test_questions_are_seen_in_other_scripts() -> None:
    assert [question(text) for text in ("¿Qué?", "何ですか？", "ماذا؟", None)] == [1, 1, 1, 0]


def test_line_breaks_and_emoji_are_known_characters() -> None:
    assert unknown_characters("Hello,\nyou 👩‍👧 ☹️") == 0.0
    assert [unknown_characters(text) for text in ("\x00", "\ue000", "a\ufffd")] == [1, 1, 1]
