"""How a scripted assistant, which reads no prompt, follows a persona: of several proposals it
makes the one that fits.

    P proposals of the script -> the one with the highest score; of several, the first

The stand-in for what a prompt does to a language model: it says more of some things and less of
others, within what it might have said anyway. The script's own choice between speaking and
abstaining stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from iterppo.personas import Style

PROPOSALS = 32
"""P: a style is kept to wherever the script has something for it that it would say once in so many
times."""

EMOJI = "🙂"

_WORD = re.compile(r"\w+")
_WARM = re.compile(
    r"!|\b(thank(s| you)|great|glad|happy|love(ly)?|welcome|pleasure|wonderful|nice)\b",
    re.IGNORECASE,
)
_CASUAL = re.compile(r"!|\b\w+['’](s|re|ll|d|ve|m|t)\b|\b(hi|hey|yeah|ok)\b", re.IGNORECASE)
_LEADS = re.compile(
    r"\b(shall we|let us|let['’]s|(can|may|could) (we|i)|would you like|come (by|over|round)|visit"
    r"|book|schedule|appointment|today|tomorrow|now|next)\b",
    re.IGNORECASE,
)


def _num_words(text: str) -> int:
    return len(_WORD.findall(text))


_SCORES: dict[Style, Callable[[str], float]] = {
    "warm": lambda text: len(_WARM.findall(text)),
    "formal": lambda text: -len(_CASUAL.findall(text)),
    "short": lambda text: -_num_words(text),
    "long": _num_words,
    "emoji": lambda text: 0,
    "question": lambda text: "?" in text,
    "statement": lambda text: "?" not in text,
    "leads": lambda text: len(_LEADS.findall(text)),
    "follows": lambda text: -len(_LEADS.findall(text)),
}


def styled(style: Style, propose: Callable[[], str | None]) -> str | None:
    """What a script says in a style; None: it abstains.

    Args:
        style: Of the persona.
        propose: Draws from the script, anew with each call.

    >>> proposals = iter(["We can help.", "Which room?"] * PROPOSALS)
    >>> styled("question", lambda: next(proposals))
    'Which room?'
    """
    first = propose()
    if first is None or style == "as it comes":
        return first
    score = _SCORES[style]
    others: Sequence[str | None] = [propose() for _ in range(PROPOSALS - 1)]
    chosen = max([first, *(text for text in others if text is not None)], key=score)
    return f"{chosen} {EMOJI}" if style == "emoji" else chosen
