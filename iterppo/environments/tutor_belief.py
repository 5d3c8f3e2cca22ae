"""Who the tutor's learner may be, given a lesson so far: an exact filter.

    lesson -> P(hidden state | lesson) ∝ P(first state) Π_i P(h_{i+1}, c_{i+1} | h_i, m_i)

A lesson shows neither the misconception, nor the patience, nor whether an explanation was
understood: learners nod to what they do not understand. Hidden states are few, so the posterior is
a finite sum. Which policy made the log does not matter: it cancels.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from iterppo.environments.tutor import (
    UNKNOWN,
    TutorState,
    first_states,
    learner_moves,
    recognise,
    reply_type,
    wordings,
)
from iterppo.errors import DataError

Belief = dict[TutorState, float]
"""Probability of each hidden state that the lesson allows."""


def belief(turns: Sequence[Mapping[str, Any]]) -> Belief:
    """The posterior over the learner's hidden state.

    Args:
        turns: The lesson so far, as trajectory rows or as an assistant sees it: `customer` of every
            turn, `sent` of all but the last, which waits for its suggestion.

    Returns:
        Probabilities, which sum to 1.

    Raises:
        DataError: If no learner of the tutor could have had this lesson.

    >>> opening = {"customer": "Hi, I can not do minus."}
    >>> tried = {**opening, "sent": "Try 52 - 38."}
    >>> {state.misconception for state in belief([tried, {"customer": "52 - 38 = 26."}])}
    {'swap'}
    """
    if not turns:
        raise DataError("tutor: a lesson without turns; the learner writes the first message")
    opening = turns[0].get("customer")
    if not isinstance(opening, str) or reply_type(opening) != "opening":
        raise DataError(
            f"tutor: turn 1: no learner of the tutor opens with {opening!r}. "
            "Give the lesson from its first turn."
        )
    posterior = first_states()
    for number, (turn, following) in enumerate(pairwise(turns), start=1):
        sent, text = turn.get("sent"), following.get("customer")
        if not isinstance(sent, str) or not sent.strip():
            raise DataError(
                f"tutor: turn {number}: `sent` is {sent!r}, but the learner always reads a "
                "message. Give turns of the tutor, with what was sent."
            )
        likely = _after(posterior, sent, text) if isinstance(text, str) else {}
        if not likely:
            raise DataError(
                f"tutor: turn {number + 1}: after {sent!r} on turn {number} no learner of the "
                f"tutor goes on with {text!r}. Give turns of one lesson, all of them."
            )
        posterior = likely
    return posterior


def answered(prior: Belief, intent: str) -> dict[str | None, Belief]:
    """Where each type of reply to `intent` leads, unnormalised: its probabilities sum to that of
    the reply. None: the learner leaves."""
    found: dict[str | None, Belief] = defaultdict(lambda: defaultdict(float))
    for state, believed in prior.items():
        for probability, reply, after in learner_moves(state, intent):
            found[reply][after] += believed * probability
    return found


def _after(prior: Belief, sent: str, text: str) -> Belief:
    """Bayes' rule for one answer; empty where nobody gives it and goes on."""
    if reply_type(text) == UNKNOWN:
        return {}
    likely: Belief = defaultdict(float)
    for reply, states in answered(prior, recognise(sent)).items():
        if reply in (None, "solves"):
            continue
        said = wordings(reply, sent)
        for state, probability in states.items():
            likely[state] += probability * said.count(text) / len(said)
    total = sum(likely.values())
    return {state: p / total for state, p in likely.items() if p > 0}
