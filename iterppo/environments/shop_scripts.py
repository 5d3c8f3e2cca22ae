"""Scripted assistants of the shop: policies that look at the customer's last message only."""

from dataclasses import dataclass
from random import Random
from typing import Any

from iterppo.environments.scripts import draw, intent_probabilities
from iterppo.environments.shop_language import SETTINGS, reply_type, sayings
from iterppo.environments.shop_law import Act

_ASSISTANTS: dict[str, dict[str, Any]] = SETTINGS["assistants"]


@dataclass(frozen=True)
class Script:
    """A policy over intents: it knows the type of the customer's last message and the number of the
    turn, and nothing else of the past. Its tone is drawn apart. Weights stand in shop.toml."""

    name: str

    def __call__(self, reply: str, turn: int) -> dict[str | None, float]:
        """Probability of each intent after this reply on this turn (from 1); None: it abstains."""
        return intent_probabilities(_ASSISTANTS[self.name], reply, turn)

    @property
    def tones(self) -> dict[str, float]:
        """Probability of each tone, whatever is said."""
        found: dict[str, float] = _ASSISTANTS[self.name]["tones"]
        return found

    def acts(self, reply: str, turn: int) -> dict[Act | None, float]:
        """Probability of each intent and tone."""
        found: dict[Act | None, float] = {}
        for intent, probability in self(reply, turn).items():
            if intent is None:
                found[None] = probability
                continue
            for tone, share in self.tones.items():
                found[Act(intent, tone)] = probability * share
        return found


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
        intent = draw(self._random, self.probabilities(customer, turn))
        if intent is None:
            return None
        return self._random.choice(sayings(intent, draw(self._random, self._script.tones)))
