"""The law of the shop, between intents, tones and a hidden state: no text, and nothing is drawn.

    suggestion ─ acceptance ─→ sent ─ customer_move ─→ agreement, silence, or a reply

Leaving has several independent causes, so P(stays) is a product: which tone, turn or boredom a
customer survived tells nothing about traits that the factor does not depend on. That keeps what a
conversation tells about its customer small (shop_visible).
"""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from iterppo.environments.shop_language import PLAIN, SETTINGS, UNKNOWN

_INTENTS: dict[str, dict[str, Any]] = SETTINGS["intents"]
_CUSTOMER: dict[str, Any] = SETTINGS["customer"]
_BUSINESS: dict[str, Any] = SETTINGS["business"]

STYLES: tuple[str, ...] = tuple(_BUSINESS["styles"])
"""Of the business; each is also the tone in which such a business writes."""

TRAITS = ("project", "budget", "urgency", "patience")
"""Of the customer; drawn independently of one another."""


class Act(NamedTuple):
    """What a suggestion is, as far as anybody reacts to it."""

    intent: str
    tone: str = PLAIN


class ShopState(NamedTuple):
    """The conversation, as far as its future depends on it."""

    project: str
    budget: str
    urgency: str
    patience: str
    style: str
    """Of the business."""
    interest: int
    worked: frozenset[str] = frozenset()
    """Intents that had their effect: to send one again only annoys."""
    turn: int = 0
    done: bool = False


def first_state(*traits: str, style: str) -> ShopState:
    """A customer of these traits, in the order of `TRAITS`, who has written the first message."""
    project, budget, urgency, patience = traits
    return ShopState(project, budget, urgency, patience, style, _CUSTOMER["start_interest"])


def affords(project: str, budget: str) -> bool:
    """Is a customer of this budget pleased by the price of this project?"""
    return budget in _CUSTOMER["affords"][project]


def place(intent: str, worked: frozenset[str], turn: int) -> str:
    """Whether an intent comes in its place on this turn (from 1): `right`, `early` or `again`."""
    rule = _INTENTS[intent]
    if intent in worked or turn > rule.get("latest_turn", turn):
        return "again"
    return "right" if rule.get("needs", intent) in {*worked, intent} else "early"


@lru_cache(maxsize=4096)
def dislike(act: Act, style: str) -> int:
    """Points of dislike that a business of this style has for a suggestion."""
    points: Mapping[str, int] = _BUSINESS["styles"][style]["dislikes"]
    if act.intent == UNKNOWN:
        return 0
    return points.get(act.intent, 0) + points.get(act.tone, 0)


def acceptance(act: Act, style: str, where: str) -> float:
    """Probability that the business takes up a suggestion: sends it, edits it or says the same.

    P = accept(intent) · disliked^points(intent, tone, style) · early or again, where it is

    Args:
        act: The suggestion.
        style: Of the business.
        where: What `place` says.
    """
    taken: float = _INTENTS[act.intent]["accept"] * _BUSINESS["disliked"] ** dislike(act, style)
    return taken * float(_BUSINESS.get(where, 1.0))


def verbatim_share(intent: str) -> float:
    """Of what is taken up, the share that is sent as it is. Nobody edits what he does not
    understand."""
    return 1.0 if intent == UNKNOWN else float(_BUSINESS["verbatim"])


def habits(style: str) -> Mapping[str, float]:
    """What a business of this style writes when left to itself: probability of each intent."""
    found: Mapping[str, float] = _BUSINESS["styles"][style]["habits"]
    return found


class CustomerMove(NamedTuple):
    """What may follow when a message is sent: agreement, else silence, else a reply."""

    agrees: float
    """Probability that the customer agrees to a visit."""
    leaves: float
    """Probability of silence where the customer does not agree."""
    reply: str
    """The type of reply, where there is one."""
    after: ShopState
    """Where the customer does not agree."""
    annoyed: bool
    """Was it something that patience is needed for?"""


# A filter over many logged conversations asks about the same few states.
@lru_cache(maxsize=1 << 17)
def customer_move(before: ShopState, intent: str, tone: str = PLAIN) -> CustomerMove:
    """The law by which the customer answers a message; the shop draws from it."""
    rule = _INTENTS[intent]
    turn = before.turn + 1
    where = place(intent, before.worked, turn)
    pleased = intent != "quote_price" or affords(before.project, before.budget)
    gain = rule["gain"] if pleased else rule["unaffordable"]
    change = {"right": gain, "early": rule.get("early"), "again": rule["again"]}[where]
    interest = min(max(before.interest + change, 0), SETTINGS["max_interest"])
    works = where == "right" and intent not in ("offer_visit", "push", "greet", UNKNOWN)
    annoyed = rule["annoys"] == "always" or (rule["annoys"] == "again" and where == "again")
    stays = 1 - _CUSTOMER["hurry"][before.urgency]
    stays *= 1 - (_CUSTOMER["annoyed"][before.patience] if annoyed else 0.0)
    stays *= 1 - _CUSTOMER["bored"][interest]
    stays *= 1 - SETTINGS["tones"][tone]["cold"]
    return CustomerMove(
        agrees=_CUSTOMER["agrees"][before.interest] if intent == "offer_visit" else 0.0,
        leaves=1.0 if turn == SETTINGS["max_turns"] else 1 - stays,
        reply=_reply(intent, where, interest=interest, pleased=pleased),
        after=before._replace(
            interest=interest,
            worked=before.worked | {intent} if works else before.worked,
            turn=turn,
        ),
        annoyed=annoyed,
    )


def _reply(intent: str, where: str, *, interest: int, pleased: bool) -> str:
    if intent == "push":
        return "annoyed"
    if intent == UNKNOWN:
        return "confused"
    if intent == "offer_visit":
        return "visit_too_soon" if interest > 0 else "refuses_visit"
    if intent == "greet":
        return "greeted"
    if where == "again":
        return "impatient"
    if where == "early":
        return "lukewarm_examples" if intent == "show_examples" else "guarded"
    warm = interest >= _CUSTOMER["keen"]
    return {
        "small_talk": "chats",
        "ask_project": "told_project",
        "ask_budget": "told_budget",
        "show_examples": "likes_examples" if warm else "lukewarm_examples",
        "quote_price": "finds_price_fair" if pleased else "finds_price_high",
    }[intent]
