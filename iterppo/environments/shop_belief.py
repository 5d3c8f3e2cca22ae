"""Who the shop's customer and business may be, given a conversation so far: an exact filter.

    turns -> P(hidden | turns) ∝ P(traits) Π_i P(m_i | style, a_i) P(c_{i+1} | hidden, m_i)

A log shows neither project, budget, urgency or patience, nor the style of the business. Traits are
few, and given traits and sent messages interest moves in one way only, so the posterior is a finite
sum. Why something was suggested does not depend on what is hidden: it cancels, whatever policy made
the log.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from random import Random
from typing import Any, NamedTuple

from iterppo.environments.shop import Shop
from iterppo.environments.shop_language import (
    SETTINGS,
    UNKNOWN,
    recognise,
    reply_type,
    tone_of,
    wordings,
)
from iterppo.environments.shop_law import (
    STYLES,
    TRAITS,
    Act,
    ShopState,
    customer_move,
    dislike,
    first_state,
)
from iterppo.errors import DataError

Belief = dict[ShopState, float]
"""Probability of each hidden state that the turns allow."""


def belief(turns: Sequence[Mapping[str, Any]]) -> Belief:
    """The posterior over the customer's hidden state, with the traits in it.

    Who is still there is patient, more likely than not; what was sent as it was suggested was
    liked, and what was not shows how the business writes.

    Args:
        turns: The conversation so far, as trajectory rows or as an assistant sees it: `customer` of
            every turn, `suggestion` and `sent` of all but the last, which waits for its suggestion.

    Returns:
        Probabilities, which sum to 1.

    Raises:
        DataError: If no customer of the shop could have had this conversation.

    >>> opening = {"customer": "Hi there, do you do renovations?"}
    >>> asked = {**opening, "suggestion": None, "sent": "Hey, Which room do you want to renovate?"}
    >>> told = {"customer": "We need to redo the kitchen, as soon as possible."}
    >>> {(state.project, state.urgency, state.style) for state in belief([asked, told])}
    {('kitchen', 'soon', 'casual')}
    """
    if not turns:
        raise DataError("shop: a conversation without turns; the customer writes the first message")
    opening = _customer_text(turns, 1)
    if reply_type(opening) != "opening":
        raise DataError(
            f"shop: turn 1: no customer of the shop opens with {opening!r}. "
            "Give the conversation from its first turn."
        )
    past: tuple[_Exchange, ...] = ()
    for number, turn in enumerate(turns[:-1], start=1):
        sent = turn.get("sent")
        if not isinstance(sent, str) or not sent.strip():
            raise DataError(
                f"shop: turn {number}: `sent` is {sent!r}, but the shop always sends a message. "
                "Give turns of the shop, with what was sent."
            )
        text = _customer_text(turns, number + 1)
        past = (*past, _Exchange(sent, turn.get("suggestion") == sent, text))
    return dict(_posterior(past))


class _Exchange(NamedTuple):
    """What was sent, and what came back."""

    sent: str
    as_suggested: bool
    answer: str


# Of a log every beginning of a conversation is asked about, one after the other.
@lru_cache(maxsize=1024)
def _posterior(past: tuple[_Exchange, ...]) -> Belief:
    """Bayes' rule, exchange by exchange."""
    if not past:
        return _prior()
    sent, as_suggested, text = past[-1]
    before = _posterior(past[:-1])
    act = Act(recognise(sent), tone_of(sent))
    written = _written(before, act, as_suggested=as_suggested)
    if not written:
        raise DataError(
            f"shop: turn {len(past)}: no business of the shop sends {sent!r} of its own, and it "
            "is not what was suggested. Give turns with their suggestions."
        )
    after = _after(written, act, text)
    if not after:
        raise DataError(
            f"shop: turn {len(past) + 1}: after {sent!r} on turn {len(past)} no customer of the "
            f"shop goes on with {text!r}. Give turns of one conversation of the shop, all of them."
        )
    return after


class BelievedShop(Shop):
    """The shop at the end of a logged conversation, where nobody knows who the customer is.

    Each reseeded copy draws a customer from the posterior, so that cloned rollouts from it estimate
    the value of a state that a log shows, of any assistant. Unseeded copies go on in the same way.
    """

    def __init__(self, turns: Sequence[Mapping[str, Any]], seed: int = 0) -> None:
        super().__init__()
        self._belief = belief(turns)
        self._state = self._draw_state(Random(f"shop-belief-{seed}"))
        self._random = Random(f"shop-believed-{seed}")

    def clone(self, seed: int | None = None) -> Shop:
        """A copy; with a seed, of a customer and a future that are drawn anew."""
        if seed is None:
            return super().clone()
        return Shop.resume(self._draw_state(Random(f"shop-belief-{seed}")), seed)

    def _draw_state(self, random: Random) -> ShopState:
        return random.choices(list(self._belief), list(self._belief.values()))[0]


def _prior() -> Belief:
    customer = SETTINGS["customer"]
    styles = SETTINGS["business"]["styles"]
    found: Belief = {}
    for values in product(*(customer[trait] for trait in TRAITS)):
        for style in STYLES:
            probability: float = styles[style]["share"]
            for trait, value in zip(TRAITS, values, strict=True):
                probability *= customer[trait][value]
            found[first_state(*values, style=style)] = probability
    return found


def _written(prior: Belief, act: Act, *, as_suggested: bool) -> Belief:
    """Bayes' rule for what was sent, as far as it tells of the style; empty where nobody sends it.

    What goes out as it was suggested is the likelier the more it is liked. All else is written in
    the tone of the business.
    """
    likely = {
        style: SETTINGS["business"]["disliked"] ** dislike(act, style)
        if as_suggested
        else float(act.tone == style)
        for style in STYLES
    }
    return _normalised({state: p * likely[state.style] for state, p in prior.items()})


def _after(prior: Belief, sent: Act, text: str) -> Belief:
    """Bayes' rule for one answer; empty where nobody gives it."""
    likely: Belief = {}
    for state, probability in prior.items():
        move = customer_move(state, *sent)
        said = wordings(move.reply, state.project, state.budget, state.urgency)
        share = said.count(text) / len(said)
        likely[move.after] = probability * (1 - move.agrees) * (1 - move.leaves) * share
    return _normalised(likely)


def _normalised(weights: Belief) -> Belief:
    total = sum(weights.values())
    return {state: weight / total for state, weight in weights.items() if weight > 0}


def _customer_text(turns: Sequence[Mapping[str, Any]], number: int) -> str:
    text = turns[number - 1].get("customer")
    kind = reply_type(text) if isinstance(text, str) else UNKNOWN
    if kind == UNKNOWN:
        raise DataError(
            f"shop: turn {number}: no customer of the shop says {text!r}. "
            "The truth is known for conversations of the built-in shop only."
        )
    if kind == "agrees_to_visit":
        raise DataError(
            f"shop: turn {number}: the customer agreed to the visit ({text!r}), and nothing comes "
            "after that. Ask for the value of earlier turns."
        )
    assert isinstance(text, str)
    return text
