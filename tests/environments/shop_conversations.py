"""Conversations of the shop as an assistant sees them, for the tests of what is true of it."""

from collections.abc import Sequence

from iterppo.environments.episodes import Suggestion, TurnSoFar
from iterppo.environments.shop import PLAIN, Script, ScriptedAssistant, Shop, sayings

OPENING = "Hi there, do you do renovations?"


def text_of(intent: str, tone: str = PLAIN) -> str:
    """Something that means `intent`, in this tone."""
    return sayings(intent, tone)[0]


def history(*messages: str) -> list[TurnSoFar]:
    """Turns from messages in their order: customer, business, customer, …, customer. What was sent
    is what had been suggested."""
    return [
        {"customer": customer, "suggestion": sent, "sent": sent}
        for customer, sent in zip(messages[::2], [*messages[1::2], None], strict=True)
    ]


def play(shop: Shop, suggestions: Sequence[str | None], seed: int) -> list[TurnSoFar] | None:
    """The conversation after these suggestions, waiting; None if it has ended by then."""
    observed = shop.reset(seed)
    turns: list[TurnSoFar] = []
    for suggestion in suggestions:
        customer = observed.customer
        observed = shop.step(suggestion)
        turns.append(
            {
                "customer": customer,
                "suggestion": suggestion,
                "adoption": observed.adoption,
                "sent": observed.sent,
            }
        )
        if observed.done:
            return None
    waiting = {"customer": observed.customer, "suggestion": None, "adoption": "not_shown"}
    return [*turns, {**waiting, "sent": None}]


class InWords:
    """A script as an assistant of episodes."""

    version = "scripted"

    def __init__(self, script: Script, seed: int = 0) -> None:
        self._assistant = ScriptedAssistant(seed, script)

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        return [
            Suggestion(self._assistant.suggest(turns[-1]["customer"], len(turns)), None)
            for turns in conversations
        ]
