"""Personas of conversations that are held: drawn, shown and logged."""

import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from iterppo.environments.episodes import Suggestion, TurnSoFar, hold_conversations
from iterppo.environments.shop import Shop
from iterppo.logs.conversations import turns_of
from iterppo.logs.records import parse_line
from iterppo.personas import Persona

PERSONAS = [Persona(name="bold", probability=0.3), Persona(name="shy", probability=0.2)]


class Remembers:
    """Says nothing, and knows under which personas it was asked to."""

    version = "silent"

    def __init__(self) -> None:
        self.shown: list[list[str | None]] = []

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        self.shown += [[turn.get("persona") for turn in turns] for turns in conversations]
        return [Suggestion(None, None) for _ in conversations]


def held(assistant: Remembers | None = None, **settings: Any) -> list[dict[str, Any]]:
    usual: dict[str, Any] = {"number": 400, "parallel": 50, "max_turns": 2, "seed": 3}
    chosen = {"personas": PERSONAS, **usual, **settings}
    return list(hold_conversations(Shop, assistant or Remembers(), name="shop", **chosen))


def test_personas_have_their_shares_and_their_probabilities_are_logged() -> None:
    lines = held()
    counts = Counter((line["persona"], line["persona_probability"]) for line in lines)

    assert set(counts) == {("bold", 0.3), ("shy", 0.2), (None, 0.5)}
    for (_, probability), count in counts.items():  # five standard errors
        assert abs(count / 400 - probability) < 5 * (probability * (1 - probability) / 400) ** 0.5


def test_a_persona_is_the_same_for_all_turns_and_the_assistant_is_told() -> None:
    assistant = Remembers()
    lines = held(assistant, number=20, parallel=20)

    first_turns = assistant.shown[:20]
    assert first_turns == [[line["persona"]] for line in lines]
    assert all(len(set(shown)) == 1 for shown in assistant.shown)
    assert any(len(shown) == 2 for shown in assistant.shown)


def test_who_has_which_persona_depends_on_the_seed_alone() -> None:
    drawn = [line["persona"] for line in held()]

    assert [line["persona"] for line in held(parallel=7, max_turns=1)] == drawn
    assert [line["persona"] for line in held(seed=4)] != drawn


def test_the_customers_are_those_of_a_rollout_without_personas() -> None:
    with_personas, without = held(number=30), held(number=30, personas=())

    assert [one["messages"][0] for one in with_personas] == [one["messages"][0] for one in without]
    assert all("persona" not in one and "persona_probability" not in one for one in without)


def test_the_persona_reaches_the_turns() -> None:
    for line in held(number=20):
        turns, _ = turns_of(parse_line(json.dumps(line).encode()))
        assert {turn["persona"] for turn in turns} == {line["persona"]}
