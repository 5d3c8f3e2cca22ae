"""What was suggested, and what became of it: the columns of a_i.

Where the log does not give a suggestion's fate, it is derived from the texts: equal but for white
space is `verbatim`; then by the edit distance to what was sent. A blank suggestion is none. A turn
of a conversation that knows suggestions, but that says of none, is `not_shown`; `abstained` only
where the log says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iterppo.logs.records import LogMessage


@dataclass(frozen=True)
class Adoptions:
    """Up to which edit distance (Levenshtein's, divided by the longer length) a suggestion counts
    as what."""

    edited_up_to: float = 0.5
    influenced_up_to: float = 0.5
    """Farther than this is rejected; not below `edited_up_to`."""

    def derive(self, suggestion: str, sent: str, distance: float | None) -> str:
        """The fate of a suggestion; distance None: nothing was sent."""
        if suggestion == sent or suggestion.split() == sent.split():
            return "verbatim"
        if distance is None:
            return "rejected"
        if distance <= self.edited_up_to:
            return "edited"
        return "influenced" if distance <= self.influenced_up_to else "rejected"


@dataclass(frozen=True)
class Said:
    """What a business's side says of the suggestions behind it."""

    suggestion: str | None
    adoption: str | None
    logprob: float | None
    policy_version: str | None
    persona: str | None


def text_or_none(suggestion: object) -> str | None:
    """A suggestion that says something."""
    return suggestion if isinstance(suggestion, str) and suggestion.strip() else None


def said_together(messages: Sequence[LogMessage]) -> Said:
    """What several joined messages say: suggestions are joined as the messages are, a fate counts
    where all that name one name the same."""
    fates = {m.adoption for m in messages if m.adoption}
    logprobs = [m.suggestion_logprob for m in messages if m.suggestion_logprob is not None]
    return Said(
        suggestion="\n".join(filter(None, (text_or_none(m.suggestion) for m in messages))) or None,
        adoption=str(fates.pop()) if len(fates) == 1 else None,
        logprob=sum(logprobs) if logprobs else None,
        policy_version=next((m.policy_version for m in messages if m.policy_version), None),
        persona=next((m.persona for m in messages if m.persona), None),
    )


def derive_adoptions(
    suggestion: list[str | None],
    sent: Sequence[str | None],
    given: Sequence[str | None],
    knows: Sequence[bool],
    adoptions: Adoptions,
) -> tuple[list[str | None], list[float | None]]:
    """The fate of each turn's suggestion, and its edit distance to what was sent.

    A suggestion that was not shown, or an abstention, is none: `suggestion` is changed in place.

    Args:
        suggestion: a_i, None where there is none.
        sent: m_i.
        given: The fate that the log gives.
        knows: Whether the turn's conversation knows suggestions at all.
        adoptions: The thresholds.
    """
    distance = _distances(suggestion, sent)
    adoption: list[str | None] = [
        None
        if not knows_any
        else fate
        if fate
        else "not_shown"
        if text is None
        else "verbatim"
        if far == 0
        else adoptions.derive(text, answer or "", far)
        for knows_any, fate, text, answer, far in zip(
            knows, given, suggestion, sent, distance, strict=True
        )
    ]
    for turn, fate in enumerate(adoption):
        if fate in _NO_SUGGESTION:
            suggestion[turn] = distance[turn] = None
    return adoption, distance


_NO_SUGGESTION = frozenset(("abstained", "not_shown"))


def _distances(suggestion: Sequence[str | None], sent: Sequence[str | None]) -> list[float | None]:
    """Normalised edit distances where both texts are there."""
    import numpy as np
    from rapidfuzz.distance import Levenshtein
    from rapidfuzz.process import cpdist

    distance: list[float | None] = [
        None if a is None or b is None else 0.0 for a, b in zip(suggestion, sent, strict=True)
    ]
    different = [
        n
        for n, (a, b) in enumerate(zip(suggestion, sent, strict=True))
        if a != b and a is not None and b is not None
    ]
    if different:
        found = cpdist(
            [suggestion[n] for n in different],
            [sent[n] for n in different],
            scorer=Levenshtein.normalized_distance,
            dtype=np.float64,  # else 3/10 is farther than 0.3
        )
        for turn, far in zip(different, found.tolist(), strict=True):
            distance[turn] = far
    return distance
