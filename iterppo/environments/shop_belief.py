"""Who the shop's customer may be, given a conversation so far: an exact filter.

    turns -> P(hidden state | turns) ∝ P(traits) Π_i P(c_{i+1} | hidden state i, m_i)

A log shows neither project, budget nor patience, nor the interest that follows from them. Traits
are few, and given traits and sent messages interest moves in one way only, so the posterior is a
finite sum. What was suggested, and how the business took it, does not depend on the customer: it
cancels, whatever policy made the log.
"""

from collections.abc import Mapping, Sequence
from itertools import product
from random import Random
from typing import Any

from iterppo.environments.shop import (
    SETTINGS,
    UNKNOWN,
    Shop,
    ShopState,
    customer_move,
    first_state,
    recognise,
    reply_type,
    wordings,
)
from iterppo.errors import DataError

Belief = dict[ShopState, float]
"""Probability of each hidden state that the turns allow."""


def belief(turns: Sequence[Mapping[str, Any]]) -> Belief:
    """The posterior over the customer's hidden state, with the traits in it.

    Silence tells too: who is still there is patient, more likely than not.

    Args:
        turns: The conversation so far, as trajectory rows or as an assistant sees it: `customer` of
            every turn, `sent` of all but the last, which waits for its suggestion.

    Returns:
        Probabilities, which sum to 1.

    Raises:
        DataError: If no customer of the shop could have had this conversation.

    >>> opening = {"customer": "Hi there, do you do renovations?"}
    >>> asked = {**opening, "sent": "Which room would you like to renovate?"}
    >>> {state.project for state in belief([asked, {"customer": "We need to redo the kitchen."}])}
    {'kitchen'}
    """
    if not turns:
        raise DataError("shop: a conversation without turns; the customer writes the first message")
    opening = _customer_text(turns, 1)
    if reply_type(opening) != "opening":
        raise DataError(
            f"shop: turn 1: no customer of the shop opens with {opening!r}. "
            "Give the conversation from its first turn."
        )
    posterior = _prior()
    for number, turn in enumerate(turns[:-1], start=1):
        sent = turn.get("sent")
        if not isinstance(sent, str) or not sent.strip():
            raise DataError(
                f"shop: turn {number}: `sent` is {sent!r}, but the shop always sends a message. "
                "Give turns of the shop, with what was sent."
            )
        text = _customer_text(turns, number + 1)
        posterior = _after(posterior, recognise(sent), text)
        if not posterior:
            raise DataError(
                f"shop: turn {number + 1}: after {sent!r} on turn {number} no customer of the shop "
                f"goes on with {text!r}. Give turns of one conversation of the shop, all of them."
            )
    return posterior


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
    return {
        first_state(project, budget, patience): customer["project"][project]
        * customer["budget"][budget]
        * customer["patience"][patience]
        for project, budget, patience in product(
            customer["project"], customer["budget"], customer["patience"]
        )
    }


def _after(prior: Belief, intent: str, text: str) -> Belief:
    """Bayes' rule for one answer; empty where nobody gives it."""
    likely: Belief = {}
    for state, probability in prior.items():
        move = customer_move(state, intent)
        said = wordings(move.reply, state.project, state.budget)
        share = said.count(text) / len(said)
        weight = probability * (1 - move.agrees) * (1 - move.leaves) * share
        if weight > 0:
            likely[move.after] = weight
    total = sum(likely.values())
    return {state: weight / total for state, weight in likely.items()}


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
