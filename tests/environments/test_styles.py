"""How a scripted assistant follows a persona."""

import doctest
from collections.abc import Callable
from itertools import cycle
from typing import get_args

import pytest

from iterppo.environments import styles
from iterppo.environments.styles import EMOJI, PROPOSALS, styled
from iterppo.personas import Style

MEANT = [
    "The total would be 9500 all in.",
    "Which room?",
    "It's ok.",
    "We are so glad that you asked, thank you!",
    "We would look at your kitchen, its walls, its floor and its pipes and then write it down.",
    "Shall we come by for a visit?",
]


def saying(*texts: str | None) -> Callable[[], str | None]:
    """A script that goes round."""
    rounds = cycle(texts)
    return lambda: next(rounds)


def test_the_examples_of_the_module_are_right() -> None:
    assert doctest.testmod(styles).failed == 0


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("as it comes", MEANT[0]),
        ("warm", MEANT[3]),
        ("formal", MEANT[0]),
        ("short", MEANT[1]),
        ("long", MEANT[4]),
        ("emoji", f"{MEANT[0]} {EMOJI}"),
        ("question", MEANT[1]),
        ("statement", MEANT[0]),
        ("leads", MEANT[5]),
        ("follows", MEANT[0]),
    ],
)
def test_a_style_has_its_own_choice_of_the_same_proposals(style: Style, expected: str) -> None:
    assert styled(style, saying(*MEANT)) == expected


@pytest.mark.parametrize("style", get_args(Style))
def test_a_script_that_knows_one_thing_only_says_it_in_every_style(style: Style) -> None:
    said = styled(style, saying("It's ok."))

    assert said == ("It's ok." if style != "emoji" else f"It's ok. {EMOJI}")


@pytest.mark.parametrize("style", get_args(Style))
def test_a_style_neither_adds_abstentions_nor_takes_any(style: Style) -> None:
    assert styled(style, saying(None, "Hello.", "Hello?")) is None
    assert styled(style, saying("Hello.", None)) is not None


def test_what_a_script_says_once_in_so_many_times_is_found() -> None:
    seldom = [*["No."] * (PROPOSALS - 1), "Yes?"]

    assert styled("question", saying(*seldom)) == "Yes?"
    assert styled("question", saying(*["No."], *seldom)) == "No."
