"""A policy from scratch heeds the personas that it was taught under."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from iterppo.artifact import Artifact
from iterppo.config import InitConfig
from iterppo.errors import DataError
from iterppo.lm.first_policy import FirstPolicy, first_policy
from iterppo.lm.likelihood import token_logprobs
from iterppo.lm.rendering import decisions
from iterppo.personas import Persona

ANSWERS = {"bold": "yes", "shy": "no", None: "maybe"}
PERSONAS = [
    Persona(name="bold", prompt="Be bold.", probability=0.3),
    Persona(name="shy", prompt="Be very shy.", probability=0.3),
]


class Log:
    """Trajectories in which the persona decides what was said, and nothing else does."""

    path = Path("log")

    def __init__(self, one_row: Callable[..., dict[str, Any]]) -> None:
        self._row = one_row

    def conversations(self) -> Iterator[list[dict[str, Any]]]:
        for name, answer in list(ANSWERS.items()) * 8:
            row = self._row("Is it done?", answer, answer, "verbatim")
            yield [{**row, "persona": name, "split": "train"}]


def taught(
    one_row: Callable[..., dict[str, Any]], personas: list[Persona], *, steps: int
) -> FirstPolicy:
    config = InitConfig(
        hidden_size=32,
        num_layers=1,
        num_heads=2,
        vocab_size=300,
        epochs=150,
        max_steps=steps,
        learning_rate=1e-2,
        context_weight=0,
        personas=personas,
    )
    made = first_policy(cast(Artifact, Log(one_row)), config)
    assert made is not None
    return made


def says(policy: FirstPolicy, name: str | None, personas: list[Persona]) -> dict[str, float]:
    """log π of each answer under a persona, in nats."""
    row = {"customer": "Is it done?", "adoption": "not_shown", "sent": None, "persona": name}
    prompts = {persona.name: persona.prompt for persona in personas}
    [seen] = decisions(
        [{**row, "suggestion": None}],
        system_prompt=InitConfig().system_prompt,
        personas=prompts,
    )
    prompt = policy.renderer.prompt_ids(seen.state)
    pairs = [(prompt, policy.renderer.action_ids(answer)) for answer in ANSWERS.values()]
    found = token_logprobs(policy.model, pairs, temperature=1.0)
    return dict(zip(ANSWERS.values(), found, strict=True))


def test_under_a_persona_it_says_what_was_said_under_it_and_without_one_what_was_not(
    row: Callable[..., dict[str, Any]],
) -> None:
    policy = taught(row, PERSONAS, steps=150)

    for name, answer in ANSWERS.items():
        found = says(policy, name, PERSONAS)
        assert max(found, key=found.__getitem__) == answer
        assert found[answer] > -0.69  # more often than all others together


def test_untold_of_personas_it_learns_their_mixture(row: Callable[..., dict[str, Any]]) -> None:
    policy = taught(row, [], steps=50)

    for logprob in says(policy, None, []).values():
        assert logprob == pytest.approx(-1.0986, abs=0.25)  # ln 1/3


def test_a_persona_that_it_is_not_told_of_stops_it(row: Callable[..., dict[str, Any]]) -> None:
    with pytest.raises(DataError, match=r"persona 'shy', which init\.personas does not name"):
        taught(row, PERSONAS[:1], steps=1)
