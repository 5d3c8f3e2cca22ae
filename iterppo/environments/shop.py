"""A simulated home renovation business and its customer: the built-in environment `shop`.

    suggestion -> what the business sends -> its intent and tone -> interest -> the customer's reply

Everything that matters happens between intents, tones and a small hidden state (shop_law); text is
only the surface on which they are shown (shop_language). Language and numbers stand in shop.toml.
The customer is moved by what is sent, never by what was suggested.
"""

from random import Random
from typing import Any

from iterppo.environments.protocol import Observation
from iterppo.environments.scripts import draw
from iterppo.environments.shop_language import (
    INTENTS,
    PLAIN,
    SETTINGS,
    TONES,
    UNKNOWN,
    edits,
    recognise,
    reply_type,
    sayings,
    tone_of,
    wordings,
)
from iterppo.environments.shop_law import (
    STYLES,
    TRAITS,
    Act,
    CustomerMove,
    ShopState,
    acceptance,
    customer_move,
    first_state,
    habits,
    place,
    verbatim_share,
)
from iterppo.environments.shop_scripts import SCRIPTS, Script, ScriptedAssistant
from iterppo.errors import UsageError

__all__ = [
    "INTENTS",
    "PLAIN",
    "SCRIPTS",
    "SETTINGS",
    "STYLES",
    "TONES",
    "TRAITS",
    "UNKNOWN",
    "Act",
    "CustomerMove",
    "Script",
    "ScriptedAssistant",
    "Shop",
    "ShopState",
    "customer_move",
    "first_state",
    "recognise",
    "reply_type",
    "sayings",
    "tone_of",
    "wordings",
]

_BUSINESS: dict[str, Any] = SETTINGS["business"]
_CUSTOMER: dict[str, Any] = SETTINGS["customer"]


class Shop:
    """The environment. A conversation is decided by its seed and the suggestions, and only by them.

    The business sends a suggestion as it is, edits it, sends another message of the same intent, or
    rejects it and follows its own habits; which of these depends on what it likes, on the tone and
    on what has been said before. The customer's interest moves with what is sent, and decides
    between a booked visit (the outcome), another reply and silence.
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
        """A new customer writes the first message, to one of the businesses."""
        self._random = Random(f"shop-{seed}")
        traits = [draw(self._random, _CUSTOMER[trait]) for trait in TRAITS]
        styles = {style: _BUSINESS["styles"][style]["share"] for style in STYLES}
        self._state = first_state(*traits, style=draw(self._random, styles))
        return Observation(self._say("opening"), outcome=False, done=False)

    def step(self, suggestion: str | None) -> Observation:
        """The business reads the suggestion and writes; the customer answers, agrees or leaves."""
        if self._state is None:
            raise RuntimeError("the shop has no customer yet: call reset(seed) before step")
        if self._state.done:
            raise RuntimeError("this conversation is over: call reset(seed) before the next step")
        sent, adoption = self._business(suggestion)
        reply = self._customer(Act(recognise(sent), tone_of(sent)))
        outcome = reply == "agrees_to_visit"
        customer = None if reply is None else self._say(reply)
        done = outcome or reply is None
        self._state = self._state._replace(done=done)
        return Observation(customer, outcome, done, sent, adoption)

    def _say(self, reply: str) -> str:
        project, budget, urgency = self.state.project, self.state.budget, self.state.urgency
        return self._random.choice(wordings(reply, project, budget, urgency))

    def _business(self, suggestion: str | None) -> tuple[str, str]:
        """What is sent, and how it came from the suggestion.

        `verbatim` and "the sent text is the suggestion" are one thing: whatever the business
        writes on its own differs from what it was shown. All of that is in its own tone.
        """
        if suggestion is None:
            return self._own_message(None), "abstained"
        act = Act(recognise(suggestion), tone_of(suggestion))
        where = place(act.intent, self.state.worked, self.state.turn + 1)
        blank = not suggestion.strip()  # it cannot be sent
        if blank or self._random.random() >= acceptance(act, self.state.style, where):
            return self._own_message(suggestion), "rejected"
        if self._random.random() < verbatim_share(act.intent):
            return suggestion, "verbatim"
        if self._random.random() < _BUSINESS["edited"] / (1 - _BUSINESS["verbatim"]):
            changed = edits(suggestion, self.state.style)
            if changed:
                return self._random.choice(changed), "edited"
        return self._saying(act.intent, suggestion), "influenced"

    def _own_message(self, suggestion: str | None) -> str:
        return self._saying(draw(self._random, habits(self.state.style)), suggestion)

    def _saying(self, intent: str, unlike: str | None) -> str:
        said = sayings(intent, self.state.style)
        return self._random.choice([text for text in said if text != unlike])

    def _customer(self, sent: Act) -> str | None:
        """Moves the customer's state; the type of reply, None when the customer leaves."""
        move = customer_move(self.state, *sent)
        if sent.intent == "offer_visit" and self._random.random() < move.agrees:
            return "agrees_to_visit"
        self._state = move.after
        return None if self._random.random() < move.leaves else move.reply
