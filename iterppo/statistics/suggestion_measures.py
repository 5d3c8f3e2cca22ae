"""What a guardrail reads in a suggestion: text -> a number.

A suggestion that is None is an abstention: it has no text, and every measure of texts is 0 there.
"""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from iterppo.errors import UsageError

Measure = Callable[[str | None], float]

NGRAM = 3
_STRANGE = {"Cc", "Cf", "Cn", "Co", "Cs"}
_JOINERS = {"\u200d", "\u200c", "\n", "\t"}
"""Control and format characters that ordinary texts hold: joined emoji, line breaks."""


def length(text: str | None) -> float:
    """Words.

    >>> length("Shall we come by?"), length(None)
    (4.0, 0.0)
    """
    return float(len((text or "").split()))


def question(text: str | None) -> float:
    """1 where it asks something, in any of the scripts that mark it.

    >>> question("Which room?"), question("Here you are.")
    (1.0, 0.0)
    """
    return float(any(mark in (text or "") for mark in "?\uff1f\u061f\u037e"))


def repetition(text: str | None) -> float:
    """Share of the text's n-grams of three words that were in it before.

    >>> repetition("buy it now buy it now"), repetition("one two three four")
    (0.25, 0.0)
    """
    words = (text or "").lower().split()
    grams = list(zip(*(words[start:] for start in range(NGRAM)), strict=False))
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def abstention(text: str | None) -> float:
    """1 where nothing was suggested."""
    return float(text is None)


def unknown_characters(text: str | None) -> float:
    """1 where the text holds a character that no message should: the replacement character,
    control, private-use or unassigned ones. They come from broken tokens.

    >>> unknown_characters("caf\\ufffd"), unknown_characters("café 👩‍👧")
    (1.0, 0.0)
    """
    return float(
        any(
            character == "\ufffd"
            or (character not in _JOINERS and unicodedata.category(character) in _STRANGE)
            for character in text or ""
        )
    )


def pressure(patterns: Sequence[re.Pattern[str]]) -> Measure:
    """1 where a tactic of the lexicon is found."""

    def found(text: str | None) -> float:
        return float(any(pattern.search(text or "") for pattern in patterns))

    return found


def load_lexicon(file: str) -> list[re.Pattern[str]]:
    """The regular expressions of a lexicon, which ignore case.

    Args:
        file: TOML; every key is a tactic with a list of expressions. Empty: the English one that
            comes with the package.

    Raises:
        UsageError: If it cannot be read, or an expression is none.
    """
    name = file or "pressure_tactics.toml"
    try:
        if file:
            text = Path(file).read_text(encoding="utf-8")
        else:
            folder = resources.files("iterppo.statistics")
            text = (folder / name).read_text(encoding="utf-8")
        tactics: dict[str, Any] = tomllib.loads(text)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{name}: no lexicon to read ({error}).") from None
    patterns = []
    for tactic, expressions in tactics.items():
        if not isinstance(expressions, list):
            raise UsageError(f"{name}: {tactic}: write a list of regular expressions.")
        for expression in expressions:
            try:
                patterns.append(re.compile(str(expression), re.IGNORECASE))
            except re.error as error:
                raise UsageError(f"{name}: {tactic}: {expression!r}: {error}.") from None
    if not patterns:
        raise UsageError(f"{name}: holds no expression. Set the guardrail's action to off instead.")
    return patterns
