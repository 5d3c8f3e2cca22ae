"""What the scripted assistants of all built-in environments have in common."""

from collections.abc import Mapping
from random import Random
from typing import Any, TypeVar

_Key = TypeVar("_Key")


def draw(random: Random, weights: Mapping[_Key, float]) -> _Key:
    """One key, as likely as its weight says."""
    return random.choices(list(weights), list(weights.values()))[0]


def intent_probabilities(
    settings: Mapping[str, Any], reply: str, turn: int
) -> dict[str | None, float]:
    """Probability of each intent of a script; None: it abstains.

    Args:
        settings: The script's table of the environment's TOML file: `first_turn` and `later`,
            weights of intents; `reflexes`, by type of reply, factors of those weights; `abstain`,
            a probability.
        reply: Type of the last message that came in.
        turn: Its number, from 1.
    """
    weights: Mapping[str, float] = settings["first_turn" if turn == 1 else "later"]
    reflexes: Mapping[str, float] = settings["reflexes"].get(reply, {})
    weights = {intent: weight * reflexes.get(intent, 1) for intent, weight in weights.items()}
    speaks: float = (1 - settings["abstain"]) / sum(weights.values())
    return {None: settings["abstain"]} | {
        intent: speaks * weight for intent, weight in weights.items()
    }
