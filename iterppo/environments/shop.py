"""A simulated home renovation business and its customer: the built-in environment `shop`.

    suggestion -> what the business sends -> its intent -> interest -> the customer's reply

Everything that matters happens between intents and a small hidden state; text is only the surface
on which both are shown. Language and numbers stand in shop.toml. The customer is moved by what is
sent, never by what was suggested.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import resources
from random import Random
from typing import Any, TypeVar

from iterppo.environments.protocol import Observation

UNKNOWN = "unknown"

SETTINGS: dict[str, Any] = tomllib.loads(
    (resources.files("iterppo.environments") / "shop.toml").read_text(encoding="utf-8")
)
_INTENTS: dict[str, dict[str, Any]] = SETTINGS["intents"]
_BUSINESS: dict[str, Any] = SETTINGS["business"]
_ASSISTANT: dict[str, Any] = SETTINGS["assistant"]
_CUSTOMER: dict[str, Any] = SETTINGS["customer"]
_REPLIES: dict[str, list[str]] = SETTINGS["replies"]

INTENTS: tuple[str, ...] = tuple(intent for intent in _INTENTS if intent != UNKNOWN)
"""Everything that a message can be meant as, `unknown` left out."""

_PATTERNS = {intent: re.compile("|".join(_INTENTS[intent]["patterns"])) for intent in INTENTS}
_SALUTATION = re.compile(r"^(hi|hello|hey)( there)?[,.!]+\s+")
_STUTTER = re.compile(r"\b(\w+)[\s,]+\1\b")
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")

_Key = TypeVar("_Key")


def _draw(random: Random, weights: Mapping[_Key, float]) -> _Key:
    return random.choices(list(weights), list(weights.values()))[0]


# A policy repeats itself, and its texts cost more to read than its conversations to play.
@lru_cache(maxsize=8192)
def recognise(text: str) -> str:
    """The intent of a message, or `unknown`.

    Rules read the lower-cased text. A salutation is skipped when something follows it. A text that
    stutters, says little in many words or never ends is nobody's intent, so that a policy cannot
    earn anything by piling up keywords.

    >>> recognise("Hello! Which room shall we renovate?"), recognise("room room room")
    ('ask_project', 'unknown')
    """
    plain = _SALUTATION.sub("", " ".join(text.lower().split()))
    words = re.findall(r"\w+", plain)
    if len(words) > SETTINGS["max_words"] or _STUTTER.search(plain):
        return UNKNOWN
    if len(words) >= 4 and len(set(words)) < 0.6 * len(words):
        return UNKNOWN
    return next((intent for intent in INTENTS if _PATTERNS[intent].search(plain)), UNKNOWN)


def _fill(template: str, project: str, budget: str) -> str:
    return template.format(project=_CUSTOMER["said"][project], budget=_CUSTOMER["sum"][budget])


_REPLY_TYPES = {
    _fill(template, project, budget): reply
    for reply, templates in _REPLIES.items()
    for template in templates
    for project in _CUSTOMER["project"]
    for budget in _CUSTOMER["budget"]
}


def reply_type(text: str) -> str:
    """The type of a message of the shop's customer, or `unknown` for anybody else's."""
    return _REPLY_TYPES.get(text, UNKNOWN)


class ScriptedAssistant:
    """The mediocre assistant that makes the first logs.

    It knows the number of the turn and the customer's last message, and nothing else of the past.
    It tries every intent often enough for the value of each to be learned from its logs.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(f"scripted-{seed}")

    @staticmethod
    def probabilities(customer: str, turn: int) -> dict[str | None, float]:
        """Of each intent after this message on this turn (from 1); None: it abstains."""
        weights: dict[str, float] = _ASSISTANT["first_turn" if turn == 1 else "later"]
        reflexes: dict[str, float] = _ASSISTANT["reflexes"].get(reply_type(customer), {})
        weights = {intent: weight * reflexes.get(intent, 1) for intent, weight in weights.items()}
        speaks: float = (1 - _ASSISTANT["abstain"]) / sum(weights.values())
        return {None: _ASSISTANT["abstain"]} | {
            intent: speaks * weight for intent, weight in weights.items()
        }

    def suggest(self, customer: str, turn: int) -> str | None:
        """A message for the business, or None to abstain."""
        intent = _draw(self._random, self.probabilities(customer, turn))
        return None if intent is None else self._random.choice(_INTENTS[intent]["paraphrases"])


@dataclass(frozen=True)
class _State:
    """The conversation, as far as its future depends on it."""

    project: str
    budget: str
    patience: str
    interest: int
    worked: frozenset[str] = frozenset()
    """Intents that had their effect: to send one again only annoys."""
    last: str = ""
    turn: int = 0
    done: bool = False


class Shop:
    """The environment. A conversation is decided by its seed and the suggestions, and only by them.

    The business sends a suggestion as it is, edits it, sends another message of the same intent, or
    rejects it and follows its own habits. The customer's interest moves with what is sent, and
    decides between a booked visit (the outcome), another reply and silence.
    """

    def __init__(self) -> None:
        self._random = Random()
        self._state: _State | None = None

    @staticmethod
    def scripted_assistant(seed: int) -> ScriptedAssistant:
        """The assistant of the first logs."""
        return ScriptedAssistant(seed)

    def clone(self) -> "Shop":
        """An independent copy that, given the same suggestions, goes on in the same way."""
        copy = Shop()
        copy._state = self._state
        copy._random.setstate(self._random.getstate())
        return copy

    def reset(self, seed: int) -> Observation:
        """A new customer writes the first message."""
        self._random = Random(f"shop-{seed}")
        project, budget, patience = (
            _draw(self._random, _CUSTOMER[trait]) for trait in ("project", "budget", "patience")
        )
        interest = _CUSTOMER["start_interest"][project]
        self._state = _State(project, budget, patience, interest)
        return Observation(self._say("opening"), outcome=False, done=False)

    def step(self, suggestion: str | None) -> Observation:
        """The business reads the suggestion and writes; the customer answers, agrees or leaves."""
        if self._state is None:
            raise RuntimeError("the shop has no customer yet: call reset(seed) before step")
        if self._state.done:
            raise RuntimeError("this conversation is over: call reset(seed) before the next step")
        sent, adoption = self._business(suggestion)
        reply = self._customer(recognise(sent))
        outcome = reply == "agrees_to_visit"
        customer = None if reply is None else self._say(reply)
        done = outcome or reply is None
        self._state = replace(self._state, done=done)
        return Observation(customer, outcome, done, sent, adoption)

    def _say(self, reply: str) -> str:
        assert self._state is not None
        template = self._random.choice(_REPLIES[reply])
        return _fill(template, self._state.project, self._state.budget)

    def _business(self, suggestion: str | None) -> tuple[str, str]:
        """What is sent, and how it came from the suggestion.

        `verbatim` and "the sent text is the suggestion" are one thing: whatever the business
        writes on its own differs from what it was shown.
        """
        if suggestion is None:
            return self._own_message(None), "abstained"
        intent = recognise(suggestion)
        adoption = _draw(self._random, _INTENTS[intent]["adoption"])
        if not suggestion.strip():
            adoption = "rejected"  # an empty message cannot be sent
        if adoption == "edited":
            edits = self._edits(suggestion)
            if edits:
                return self._random.choice(edits), "edited"
            adoption = "verbatim"
        if adoption == "influenced":
            return self._paraphrase(intent, suggestion), "influenced"
        if adoption == "verbatim":
            return suggestion, "verbatim"
        return self._own_message(suggestion), "rejected"

    def _own_message(self, suggestion: str | None) -> str:
        return self._paraphrase(_draw(self._random, _BUSINESS["habits"]), suggestion)

    def _paraphrase(self, intent: str, unlike: str | None) -> str:
        paraphrases: list[str] = _INTENTS[intent]["paraphrases"]
        return self._random.choice([text for text in paraphrases if text != unlike])

    @staticmethod
    def _edits(text: str) -> list[str]:
        """Small changes to a message, those left out that would change its intent."""
        sentences = _SENTENCE_END.split(text.strip())
        changed = [f"{opener} {text}" for opener in _BUSINESS["openers"]]
        changed += [f"{text} {sign_off}" for sign_off in _BUSINESS["sign_offs"]]
        if len(sentences) > 1:
            changed += [" ".join(sentences[1:]), " ".join(sentences[:-1])]
        return [edit for edit in changed if recognise(edit) == recognise(text)]

    def _customer(self, intent: str) -> str | None:
        """Moves the customer's state; the type of reply, None when the customer leaves."""
        before = self._state
        assert before is not None
        rule = _INTENTS[intent]
        turn = before.turn + 1
        if intent == "offer_visit" and self._random.random() < _CUSTOMER["agrees"][before.interest]:
            self._state = replace(before, last=intent, turn=turn)
            return "agrees_to_visit"

        repeated = intent in before.worked or intent == before.last
        in_place = rule.get("needs", intent) in before.worked | {intent}
        if repeated or turn > rule.get("latest_turn", turn):
            change = rule["again"]
        else:
            change = rule["gain"] if in_place else rule["early"]
        if intent == "quote_price":
            change += _CUSTOMER["price_shift"][before.budget]
        works = in_place and intent not in ("offer_visit", UNKNOWN)
        interest = min(max(before.interest + change, 0), SETTINGS["max_interest"])
        self._state = replace(
            before,
            interest=interest,
            worked=before.worked | {intent} if works else before.worked,
            last=intent,
            turn=turn,
        )
        leaves = _CUSTOMER["leave"][before.patience] + _CUSTOMER["bored"][interest]
        leaves += rule["leave"] + (_CUSTOMER["again"] if repeated else 0.0)
        if turn == SETTINGS["max_turns"] or self._random.random() < leaves:
            return None
        return self._reply(intent, repeated=repeated, in_place=in_place, interest=interest)

    @staticmethod
    def _reply(intent: str, *, repeated: bool, in_place: bool, interest: int) -> str:
        warm = interest >= _CUSTOMER["keen"]
        if intent == "push":
            return "annoyed"
        if intent == UNKNOWN:
            return "confused"
        if intent == "offer_visit":
            return "visit_too_soon" if interest > 0 else "refuses_visit"
        if repeated:
            return "impatient"
        return {
            "greet": "greeted",
            "small_talk": "chats",
            "ask_project": "told_project",
            "ask_budget": "told_budget" if in_place else "guarded",
            "show_examples": "likes_examples" if warm else "lukewarm_examples",
            "quote_price": "finds_price_fair" if warm else "finds_price_high",
        }[intent]
