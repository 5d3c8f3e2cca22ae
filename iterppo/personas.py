"""Exploration: personas, prompts that make a policy say other things than it would by itself.

    configs/personas.toml -> personas, each with its probability -> at most one for a conversation

A log of the plain policy holds next to nothing of what that policy seldom says, and no Q can learn
from it what such a suggestion is worth. A share of the conversations is therefore held under a
persona, drawn once for the whole conversation; the rest is the plain policy's.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

Style = Literal[
    "as it comes",
    "warm",
    "formal",
    "short",
    "long",
    "emoji",
    "question",
    "statement",
    "leads",
    "follows",
]


class Persona(BaseModel):
    """One way to explore."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )

    name: Annotated[str, Field(min_length=1)]
    """What the log calls it: the column `persona`."""
    prompt: str = ""
    """Stands below the policy's own prompt in the system message."""
    probability: Annotated[float, Field(gt=0, le=1)]
    """Share of the conversations that are held under it."""
    temperature_scale: Annotated[float, Field(gt=0)] = 1.0
    """Times the policy's temperature; above 1 a policy that does not heed prompts explores too."""
    style: Style = "as it comes"
    """What a scripted assistant, which reads no prompt, looks for among its proposals."""


def probability_of(personas: Sequence[Persona], name: str | None) -> float:
    """Of a persona by its name; of None, that a conversation is held without one.

    >>> probability_of([Persona(name="brief", probability=0.25)], None)
    0.75
    """
    if name is None:
        return max(0.0, round(1 - sum(persona.probability for persona in personas), 12))
    return next(persona.probability for persona in personas if persona.name == name)


def persona_at(personas: Sequence[Persona], uniform: float) -> Persona | None:
    """The persona of a conversation; None: it is held without one.

    Args:
        personas: With probabilities that sum to at most 1.
        uniform: Drawn in [0, 1), once for the conversation.

    >>> persona_at([Persona(name="brief", probability=0.25)], 0.3) is None
    True
    """
    for persona in personas:
        uniform -= persona.probability
        if uniform < 0:
            return persona
    return None


def prompts_of(personas: Sequence[Persona]) -> dict[str, str]:
    """Prompt by name."""
    return {persona.name: persona.prompt for persona in personas}


def read_personas(file: Path) -> list[Persona]:
    """The tables `[[persona]]` of a TOML file.

    Raises:
        ValueError: If it is none; the message names the file and what is wrong.
    """
    try:
        content = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"there is no file {file}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{file}: {error}") from None
    tables = content.get("persona")
    if set(content) != {"persona"} or not isinstance(tables, list):
        raise ValueError(f"{file}: holds tables [[persona]] and nothing else")
    try:
        return _checked(tables)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _checked(tables: Sequence[Any]) -> list[Persona]:
    personas: list[Persona] = []
    for number, table in enumerate(tables, start=1):
        try:
            persona = Persona.model_validate(table)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(["", *(str(part) for part in first["loc"])])
            raise ValueError(f"persona {number}{key}: {first['msg']}") from None
        if any(persona.name == other.name for other in personas):
            raise ValueError(f"two personas are called {persona.name!r}")
        personas.append(persona)
    total = sum(persona.probability for persona in personas)
    if total > 1 + 1e-9:
        raise ValueError(f"the probabilities of the personas sum to {total:.4g}, more than 1")
    return personas


def _read(given: Any) -> Any:
    if isinstance(given, str):
        return given if given in ("policy", "none") else read_personas(Path(given))
    return _checked(given) if isinstance(given, list) else given


Personas = Annotated[list[Persona], BeforeValidator(_read)]
"""A list of tables, or the name of a file as `configs/personas.toml`: it is read when the
configuration is, so that manifests hold the personas themselves."""

PersonasOf = Annotated[Literal["policy", "none"] | list[Persona], BeforeValidator(_read)]
"""The same; or `policy`, those that a policy was exported with; or `none`."""
