"""Logs of scripted policies in the shop, and the true value of any such policy.

    Mixture b -> Played …;    Mixture π -> its exact value

A policy is a mixture of two of the shop's scripts: on each turn it is the one or the other. All of
them draw the tone as the script `mediocre` does, and given intent and tone all sayings are equally
likely, whatever the policy. So ratios of texts are ratios of intents: exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from random import Random

from iterppo.environments.scripts import draw
from iterppo.environments.shop import SCRIPTS, Act, Shop, recognise, reply_type, sayings
from iterppo.environments.shop_solution import ShopSolution

GAMMA = 1.0
"""The value is the outcome rate."""

TONES = SCRIPTS["mediocre"].tones
"""Of all policies here."""


@dataclass(frozen=True)
class Mixture:
    """A policy over intents: `second` with probability `share`, else `first`, on each turn."""

    first: str
    second: str
    share: float

    def __call__(self, reply: str, turn: int) -> dict[str | None, float]:
        """Probability of each intent; None: it abstains."""
        return _mixed(self, reply, turn)

    def acts(self, reply: str, turn: int) -> dict[Act | None, float]:
        """Probability of each intent and tone."""
        found: dict[Act | None, float] = {}
        for intent, probability in self(reply, turn).items():
            if intent is None:
                found[None] = probability
            else:
                found |= {Act(intent, tone): probability * p for tone, p in TONES.items()}
        return found


@cache
def _mixed(policy: Mixture, reply: str, turn: int) -> dict[str | None, float]:
    one, other = SCRIPTS[policy.first](reply, turn), SCRIPTS[policy.second](reply, turn)
    return {
        intent: (1 - policy.share) * one.get(intent, 0.0) + policy.share * other.get(intent, 0.0)
        for intent in {**one, **other}
    }


@cache
def actions() -> tuple[str | None, ...]:
    """What scripts can suggest: intents, and None."""
    found = {intent for script in SCRIPTS.values() for intent in script("", 1)}
    return (None, *sorted(intent for intent in found if intent is not None))


@dataclass(frozen=True)
class PlayedTurn:
    """A turn as a log shows it, texts read as intents."""

    reply: str
    """Type of the customer's message."""
    turn: int
    action: str | None
    """Suggested intent; None: abstained."""
    sent: str
    outcome: bool


Played = list[PlayedTurn]


def play(policy: Mixture, *, num: int, seed: int) -> list[Played]:
    """Conversations of a policy, with customers of their own."""
    random = Random(f"mixture-{seed}")
    shop = Shop()
    found = []
    for number in range(num):
        seen = shop.reset(seed * 1_000_003 + number)
        turns: Played = []
        while not seen.done:
            assert seen.customer is not None
            turn = len(turns) + 1
            reply = reply_type(seen.customer)
            action = draw(random, policy(reply, turn))
            text = None if action is None else random.choice(sayings(action, draw(random, TONES)))
            seen = shop.step(text)
            turns.append(PlayedTurn(reply, turn, action, recognise(seen.sent or ""), seen.outcome))
        found.append(turns)
    return found


@cache
def true_value(policy: Mixture) -> float:
    """Its outcome rate, exactly."""
    opening = {"customer": Shop().reset(0).customer}
    return ShopSolution(policy.acts, gamma=GAMMA).state_value([opening])
