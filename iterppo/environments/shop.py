"""A simulated home renovation business and its customer: the built-in environment `shop`.

    suggestion -> what the business sends -> its intent -> interest -> the customer's reply

Everything that matters happens between intents and a small hidden state; text is only the surface
on which both are shown. Language and numbers stand in shop.toml. The customer is moved by what is
sent, never by what was suggested.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from random import Random
from typing import Any, NamedTuple, TypeVar

from iterppo.environments.protocol import Observation
from iterppo.errors import UsageError

UNKNOWN = "unknown"

SETTINGS: dict[str, Any] = tomllib.loads(
    (resources.files("iterppo.environments") / "shop.toml").read_text(encoding="utf-8")
)
_INTENTS: dict[str, dict[str, Any]] = SETTINGS["intents"]
_BUSINESS: dict[str, Any] = SETTINGS["business"]
_ASSISTANTS: dict[str, dict[str, Any]] = SETTINGS["assistants"]
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


@cache
def wordings(reply: str, project: str, budget: str) -> tuple[str, ...]:
    """What this customer may say as a reply of this type, one as likely as the other."""
    named = {"project": _CUSTOMER["said"][project], "budget": _CUSTOMER["sum"][budget]}
    return tuple(template.format(**named) for template in _REPLIES[reply])


_REPLY_TYPES = {
    text: reply
    for reply in _REPLIES
    for project in _CUSTOMER["project"]
    for budget in _CUSTOMER["budget"]
    for text in wordings(reply, project, budget)
}


def reply_type(text: str) -> str:
    """The type of a message of the shop's customer, or `unknown` for anybody else's."""
    return _REPLY_TYPES.get(text, UNKNOWN)


@dataclass(frozen=True)
class Script:
    """A policy over intents: it knows the type of the customer's last message and the number of the
    turn, and nothing else of the past. Weights stand in shop.toml."""

    name: str

    def __call__(self, reply: str, turn: int) -> dict[str | None, float]:
        """Probability of each intent after this reply on this turn (from 1); None: it abstains."""
        settings = _ASSISTANTS[self.name]
        weights: dict[str, float] = settings["first_turn" if turn == 1 else "later"]
        reflexes: dict[str, float] = settings["reflexes"].get(reply, {})
        weights = {intent: weight * reflexes.get(intent, 1) for intent, weight in weights.items()}
        speaks: float = (1 - settings["abstain"]) / sum(weights.values())
        return {None: settings["abstain"]} | {
            intent: speaks * weight for intent, weight in weights.items()
        }


SCRIPTS: dict[str, Script] = {name: Script(name) for name in _ASSISTANTS}
"""By name. `mediocre` makes the first logs, `expert` sells, `uniform` explores."""


class ScriptedAssistant:
    """Puts a script into words.

    `mediocre` tries every intent often enough for the value of each to be learned from its logs.
    """

    def __init__(self, seed: int, script: Script = SCRIPTS["mediocre"]) -> None:
        self._random = Random(f"scripted-{seed}")
        self._script = script

    def probabilities(self, customer: str, turn: int) -> dict[str | None, float]:
        """Of each intent after this message on this turn (from 1); None: it abstains."""
        return self._script(reply_type(customer), turn)

    def suggest(self, customer: str, turn: int) -> str | None:
        """A message for the business, or None to abstain."""
        intent = _draw(self._random, self.probabilities(customer, turn))
        return None if intent is None else self._random.choice(_INTENTS[intent]["paraphrases"])


class ShopState(NamedTuple):
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


def first_state(project: str, budget: str, patience: str) -> ShopState:
    """A customer who has written the first message."""
    return ShopState(project, budget, patience, _CUSTOMER["start_interest"][project])


class CustomerMove(NamedTuple):
    """What may follow when an intent is sent: agreement, else silence, else a reply."""

    agrees: float
    """Probability that the customer agrees to a visit."""
    leaves: float
    """Probability of silence where the customer does not agree."""
    reply: str
    """The type of reply, where there is one."""
    after: ShopState
    """Where the customer does not agree."""


# A filter over many logged conversations asks about the same few states.
@lru_cache(maxsize=16384)
def customer_move(before: ShopState, intent: str) -> CustomerMove:
    """The law by which the customer answers `intent`; the shop draws from it."""
    rule = _INTENTS[intent]
    turn = before.turn + 1
    repeated = intent in before.worked or intent == before.last
    worked = before.worked | {intent}
    in_place = rule.get("needs", intent) in worked
    if repeated or turn > rule.get("latest_turn", turn):
        change = rule["again"]
    else:
        change = rule["gain"] if in_place else rule["early"]
    if intent == "quote_price":
        change += _CUSTOMER["price_shift"][before.budget]
    works = in_place and intent not in ("offer_visit", UNKNOWN)
    interest = min(max(before.interest + change, 0), SETTINGS["max_interest"])
    leaves = _CUSTOMER["leave"][before.patience] + _CUSTOMER["bored"][interest]
    leaves += rule["leave"] + (_CUSTOMER["again"] if repeated else 0.0)
    return CustomerMove(
        agrees=_CUSTOMER["agrees"][before.interest] if intent == "offer_visit" else 0.0,
        leaves=1.0 if turn == SETTINGS["max_turns"] else leaves,
        reply=_reply(intent, repeated=repeated, in_place=in_place, interest=interest),
        after=ShopState(
            before.project,
            before.budget,
            before.patience,
            interest,
            worked=worked if works else before.worked,
            last=intent,
            turn=turn,
        ),
    )


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


class Shop:
    """The environment. A conversation is decided by its seed and the suggestions, and only by them.

    The business sends a suggestion as it is, edits it, sends another message of the same intent, or
    rejects it and follows its own habits. The customer's interest moves with what is sent, and
    decides between a booked visit (the outcome), another reply and silence.
    """

    def __init__(self) -> None:
        self._random = Random()
        self._state: ShopState | None = None

    @staticmethod
    def scripted_assistant(seed: int, name: str = "mediocre") -> ScriptedAssistant:
        """The assistant of the first logs, or another of `SCRIPTS`.

        Raises:
            UsageError: If no script has this name.
        """
        if name not in SCRIPTS:
            raise UsageError(
                f"the shop has no script called {name!r}; name one of: {', '.join(SCRIPTS)}"
            )
        return ScriptedAssistant(seed, SCRIPTS[name])

    def clone(self, seed: int | None = None) -> "Shop":
        """An independent copy.

        Args:
            seed: None: given the same suggestions, the copy goes on in the same way. Otherwise its
                future, not its customer, is drawn anew: copies of different seeds part ways.
        """
        copy = Shop()
        copy._state = self._state
        if seed is None:
            copy._random.setstate(self._random.getstate())
        else:
            copy._random = Random(f"shop-clone-{seed}")
        return copy

    @classmethod
    def resume(cls, state: ShopState, seed: int) -> "Shop":
        """A conversation that has come to `state`, and goes on as `seed` decides."""
        shop = cls()
        shop._state = state
        return shop.clone(seed)

    @property
    def state(self) -> ShopState:
        """What is hidden from every assistant; for the truth that estimates are held against.

        Raises:
            RuntimeError: Before the first `reset`.
        """
        if self._state is None:
            raise RuntimeError("the shop has no customer yet: call reset(seed) first")
        return self._state

    def reset(self, seed: int) -> Observation:
        """A new customer writes the first message."""
        self._random = Random(f"shop-{seed}")
        project, budget, patience = (
            _draw(self._random, _CUSTOMER[trait]) for trait in ("project", "budget", "patience")
        )
        self._state = first_state(project, budget, patience)
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
        self._state = self._state._replace(done=done)
        return Observation(customer, outcome, done, sent, adoption)

    def _say(self, reply: str) -> str:
        assert self._state is not None
        return self._random.choice(wordings(reply, self._state.project, self._state.budget))

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
        assert self._state is not None
        move = customer_move(self._state, intent)
        if intent == "offer_visit" and self._random.random() < move.agrees:
            return "agrees_to_visit"
        self._state = move.after
        return None if self._random.random() < move.leaves else move.reply
