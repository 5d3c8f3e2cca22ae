"""All that a visible conversation of the shop tells, in a few small numbers.

    conversation -> what worked, interest, annoyances, who the customer may be,  evidence of style
                    └───────────────────── customer part ─────────────────────┘

A sufficient statistic: the posterior over the hidden traits, and all that may still happen, depend
on nothing else. It is small by the law's design. Interest follows from what was sent and answered.
Replies tell project, budget and urgency, or whether a price is affordable, exactly or not at all.
Else one learns from who is still there: of urgency by the number of turns, of patience by the
number of annoyances. The business gives its style away with the first word of its own; until then
each suggestion sent as it is shifts the odds by `disliked` to a whole power.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, NamedTuple

from iterppo.environments.shop_language import SETTINGS, UNKNOWN, read_reply, recognise, tone_of
from iterppo.environments.shop_law import (
    STYLES,
    Act,
    ShopState,
    affords,
    customer_move,
    dislike,
    first_state,
)
from iterppo.errors import DataError

_CUSTOMER: dict[str, Any] = SETTINGS["customer"]
BUDGETS: tuple[str, ...] = tuple(_CUSTOMER["budget"])
URGENCIES: tuple[str, ...] = tuple(_CUSTOMER["urgency"])
PATIENCES: tuple[str, ...] = tuple(_CUSTOMER["patience"])

ALIKE: dict[str, str] = {
    project: next(
        other
        for other in _CUSTOMER["project"]
        if all(affords(other, budget) == affords(project, budget) for budget in BUDGETS)
    )
    for project in _CUSTOMER["project"]
}
"""A project -> the first one that makes no difference to it, but in words."""

PAIRS: tuple[tuple[str, str], ...] = tuple(product(sorted(set(ALIKE.values())), BUDGETS))
"""Of project and budget."""


def prior_of_pair(pair: tuple[str, str]) -> float:
    """Share of the customers whose project is like this one and whose budget is this."""
    project, budget = pair
    alike = [other for other in ALIKE if ALIKE[other] == project]
    share: float = sum(_CUSTOMER["project"][other] for other in alike)
    return share * float(_CUSTOMER["budget"][budget])


class Visible(NamedTuple):
    """What is known of the customer when this turn's suggestion is made."""

    worked: frozenset[str] = frozenset()
    interest: int = _CUSTOMER["start_interest"]
    annoyances: int = 0
    """Survived."""
    pairs: frozenset[tuple[str, str]] = frozenset(PAIRS)
    """Of `PAIRS`, those that are still possible."""
    urgency: str | None = None
    """None: not told."""


class Evidence(NamedTuple):
    """What is known of the business's style."""

    style: str | None = None
    """None: every suggestion so far was sent as it was."""
    points: int = 0
    """Until then: points of dislike that the first style has for what was sent, minus those that
    the second has."""


def tilt(act: Act) -> int:
    """Points by which the first style dislikes a suggestion more than the second."""
    return dislike(act, STYLES[0]) - dislike(act, STYLES[1])


def representative(
    visible: Visible, turn: int, pair: tuple[str, str], urgency: str, patience: str
) -> ShopState:
    """A hidden state that looks like this, waiting for the suggestion of `turn` (from 1)."""
    state = first_state(*pair, urgency, patience, style=STYLES[0])
    return state._replace(interest=visible.interest, worked=visible.worked, turn=turn - 1)


class Told(NamedTuple):
    """What an answer tells beyond its type; None: nothing."""

    reply: str
    project: str | None = None
    budget: str | None = None
    urgency: str | None = None


_TELLS = {
    reply: tuple(
        any(f"{{{field}}}" in template for template in templates)
        for field in ("project", "budget", "when")
    )
    for reply, templates in SETTINGS["replies"].items()
}


def told(reply: str, state: ShopState) -> Told:
    """What an answer of this type tells about this customer."""
    project, budget, urgency = _TELLS[reply]
    return Told(
        reply,
        ALIKE[state.project] if project else None,
        state.budget if budget else None,
        state.urgency if urgency else None,
    )


def read(turns: Sequence[Mapping[str, Any]]) -> tuple[Visible, Evidence]:
    """The statistic of a conversation, as trajectory rows or as an assistant sees it.

    Args:
        turns: `customer` of every turn; `suggestion` and `sent` of all but the last.

    Raises:
        DataError: If it is no conversation of the shop. Not all that are impossible are noticed:
            `shop_belief.belief` is the one that notices.
    """
    if not 1 <= len(turns) <= SETTINGS["max_turns"]:
        raise DataError(
            f"shop: a conversation of {len(turns)} turns; the shop's have one to "
            f"{SETTINGS['max_turns']}. Give turns of one conversation of the shop."
        )
    if read_reply(turns[0]["customer"] or "").type != "opening":
        raise DataError(
            f"shop: turn 1: no customer of the shop opens with {turns[0]['customer']!r}. "
            "Give the conversation from its first turn."
        )
    visible, evidence = Visible(), Evidence()
    for number, (turn, following) in enumerate(pairwise(turns), start=1):
        sent, said = turn["sent"] or "", read_reply(following["customer"] or "")
        act = Act(recognise(sent), tone_of(sent))
        if sent != turn.get("suggestion"):
            if act.tone not in STYLES:
                raise DataError(
                    f"shop: turn {number}: no business of the shop writes {sent!r} by itself. Give "
                    "turns with their suggestions."
                )
            evidence = Evidence(style=act.tone)
        elif evidence.style is None:
            evidence = Evidence(points=evidence.points + tilt(act))
        answer = Told(said.type, said.project and ALIKE[said.project], said.budget, said.urgency)
        found = seen_after(visible, number, act.intent, answer)
        if found is None or said.type == UNKNOWN:
            raise DataError(
                f"shop: turn {number + 1}: after {sent!r} no customer of the shop goes on with "
                f"{following['customer']!r}. Give turns of one conversation of the shop."
            )
        visible = found
    return visible, evidence


@lru_cache(maxsize=1 << 15)
def seen_after(visible: Visible, turn: int, intent: str, answer: Told) -> Visible | None:
    """What is known when an intent, sent on this turn, was answered so; None: nobody does."""
    urgency = visible.urgency or answer.urgency or URGENCIES[0]
    pairs = set()
    after = None
    for pair in visible.pairs:
        state = representative(visible, turn, pair, urgency, PATIENCES[0])
        move = customer_move(state, intent)
        if told(move.reply, state) == answer:
            pairs.add(pair)
            after = move
    if after is None:
        return None
    return Visible(
        after.after.worked,
        after.after.interest,
        visible.annoyances + after.annoyed,
        frozenset(pairs),
        visible.urgency or answer.urgency,
    )
