"""Configuration: one frozen class per stage, from TOML and `--set`, checked before anything heavy
is imported.

seed = 7                 # for every stage that does not name its own
[fit-q]
learning_rate = 3e-4
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from iterppo.errors import UsageError

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]


class StageConfig(BaseModel):
    """What every stage's configuration has."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True
    )

    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random in the stage; numpy takes no larger one."""


class IngestConfig(StageConfig):
    """Logs to trajectories."""

    heldout: Share = 0.2
    """Share of the conversations kept out of every fit, chosen by a hash of seed and conversation
    id."""
    on_reject: Literal["keep", "fail"] = "keep"
    """`fail`: end with exit status 3 if any line is not taken; the rejects are written either
    way."""


class ReturnsConfig(StageConfig):
    """Trajectories to returns."""

    gamma: Share = 0.99
    """Discount factor, per turn."""


class InitConfig(StageConfig):
    """The first policy: a model that exists, or a small one trained from scratch on the log."""

    model: str = "scratch"
    """`scratch`, a Hugging Face folder, or a hub id."""
    system_prompt: str = "You suggest the next message for the business to send."
    """The policy's prompt: the system message of every state."""
    max_prompt_tokens: Count = 448
    """States longer than this are cut from the left, at a message boundary; in tokens."""
    max_new_tokens: Count = 48
    """A completion longer than this is not finished, hence not suggested; in tokens."""
    temperature: Positive = 1.0
    """Temperature that the policy samples with."""
    vocab_size: Count = 1024
    """Tokens of the byte-level BPE (scratch)."""
    hidden_size: Count = 128
    """Width of the model (scratch)."""
    num_layers: Count = 3
    """Layers of the model (scratch)."""
    num_heads: Count = 4
    """Attention heads (scratch)."""
    epochs: Positive = 5.0
    """Passes over the training conversations (scratch)."""
    max_steps: Count = 920
    """Upper limit of the optimiser steps (scratch)."""
    tokens_per_batch: Count = 2048
    """Tokens of an optimiser step (scratch)."""
    learning_rate: Positive = 2e-3
    """Peak learning rate; linear warm-up over 5 % of the steps, cosine decay to zero (scratch)."""
    context_weight: Share = 1.0
    """Weight of all other tokens in the loss; the actions have weight 1. Q starts from what was
    learned here (scratch)."""


class FitQConfig(StageConfig):
    """Trajectories and returns to a Q-function."""

    loss: Literal["bce", "squared"] = "bce"
    """`bce`: cross-entropy of a sigmoid head, for returns in [0, 1]; `squared`: for any returns."""
    epochs: Positive = 3.0
    """Passes over the training conversations."""
    max_steps: Count = 480
    """Upper limit of the optimiser steps."""
    tokens_per_batch: Count = 2048
    """Tokens of an optimiser step."""
    learning_rate: Positive = 3e-4
    """Peak learning rate; linear warm-up over 5 % of the steps, cosine decay to zero."""
    weight_decay: NonNegative = 0.05
    """AdamW weight decay."""
    max_tokens: Count = 496
    """Context of the Q-function; longer renderings are cut as the policy's are."""
    bootstrap_samples: Count = 1000
    """Resamples of held-out conversations for the intervals in metrics.json."""


class PromptsConfig(StageConfig):
    """Trajectories to single-turn prompts."""

    max_prompts: CountOrZero = 0
    """Keep at most so many, chosen by a hash of the seed and the prompt's id; 0: all."""


class PPOConfig(StageConfig):
    """Prompts, Q and a policy to a better policy."""

    updates: Count = 20
    """Generation batches, each followed by `epochs` passes over it."""
    completions_per_update: Count = 128
    """Completions sampled for an update."""
    completions_per_prompt: Annotated[int, Field(ge=2)] = 2
    """Completions sampled for each prompt."""
    minibatches: Count = 2
    """Optimiser steps per pass over an update's completions."""
    microbatch_size: Count = 16
    """Sequences in one forward and backward."""
    epochs: Count = 2
    """Passes over an update's completions."""
    learning_rate: Positive = 5e-4
    """Learning rate of AdamW, with linear decay to zero."""
    clip: Positive = 0.2
    """ε of the clipped surrogate."""
    gamma: Share = 1.0
    """Discount factor, per token. Turns are discounted in Q already."""
    lambda_: Share = Field(default=0.95, alias="lambda")
    """λ of the generalised advantage estimate."""
    value_coefficient: NonNegative = 0.5
    """Weight of the value loss."""
    value_clip: NonNegative = 0.2
    """Clip range of the value around its estimate at sampling; 0: none."""
    kl_coefficient: NonNegative = 0.03
    """β: each token's reward loses β (log π − log π_ref); in units of Q per nat."""
    entropy_coefficient: NonNegative = 0.0
    """Weight of the entropy bonus."""
    whiten_advantages: bool = True
    """Scale the advantages of an update to mean 0 and standard deviation 1."""
    critic_samples: CountOrZero = 512
    """Completions of the first policy that the value head is fitted on before the first update; 0:
    it starts at zero."""
    max_gradient_norm: Positive = 1.0
    """Clipping of the gradient's norm."""


class ExportConfig(StageConfig):
    """A policy to a folder that others serve."""

    check: bool = True
    """Load the folder in a fresh process with plain transformers and complete one prompt."""


class RolloutConfig(StageConfig):
    """A policy in an environment, to a log."""

    env: str = "shop"
    """An entry point of the group `iterppo.environments`, or `module:factory`."""
    conversations: Count = 2400
    """Conversations to hold."""
    parallel: Count = 256
    """Conversations held together; one batch of generation serves all of them."""
    max_turns: Count = 20
    """A conversation that is still open then is logged as unfinished."""


_FILE_SUFFIXES = {".toml"}


def load_config(
    stage: str,
    config_class: type[StageConfig],
    *,
    file: Path | None = None,
    settings: Sequence[str] = (),
    sections: Mapping[str, type[StageConfig]],
) -> StageConfig:
    """The resolved configuration of a stage: defaults, then the file, then `--set
    section.key=value`.

    Every section of the file is checked, not only the stage's own: a typo is found by the first
    stage of a round.

    Raises:
        UsageError: Unknown section or key, or a value out of range; the message names file and key.
    """
    merged: dict[str, Any] = {}
    if file is not None:
        merged = _read_toml(file)
    _check_sections(merged, sections, source=str(file))
    for setting in settings:
        _apply_setting(merged, setting, sections)
    resolved: dict[str, StageConfig] = {}
    for name, cls in sections.items():
        values = dict(merged.get(name, {}))
        values.setdefault("seed", merged.get("seed", 0))
        resolved[name] = _validate(cls, values, section=name, source=str(file) if file else "--set")
    found = resolved[stage]
    assert isinstance(found, config_class)
    return found


def _read_toml(file: Path) -> dict[str, Any]:
    if file.suffix not in _FILE_SUFFIXES:
        raise UsageError(f"{file}: a configuration is a .toml file.")
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UsageError(f"{file}: no such configuration file. Check --config.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError(f"{file}: {error}.") from None


def _check_sections(
    content: Mapping[str, Any], sections: Mapping[str, type[StageConfig]], *, source: str
) -> None:
    for name, value in content.items():
        if name == "seed":
            if not isinstance(value, int) or isinstance(value, bool):
                raise UsageError(f"{source}: seed: must be an integer, is {value!r}.")
        elif name not in sections:
            raise UsageError(
                f"{source}: unknown section {name!r}.{_did_you_mean(name, [*sections, 'seed'])}"
            )
        elif not isinstance(value, dict):
            raise UsageError(f"{source}: {name!r} is a section, write [{name}].")


def _apply_setting(
    merged: dict[str, Any], setting: str, sections: Mapping[str, type[StageConfig]]
) -> None:
    path, equals, text = setting.partition("=")
    section, dot, key = path.strip().partition(".")
    if not equals or (not dot and section != "seed"):
        raise UsageError(
            f"--set {setting}: write section.key=value, as in --set ppo.clip=0.1, or seed=1."
        )
    try:
        value = tomllib.loads(f"value = {text.strip()}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()  # a bare word is a string
    if not dot:
        _check_sections({"seed": value}, sections, source="--set")
        merged["seed"] = value
        return
    if section not in sections:
        raise UsageError(
            f"--set {setting}: unknown section {section!r}.{_did_you_mean(section, list(sections))}"
        )
    merged[section] = {**merged.get(section, {}), key: value}
    _validate(sections[section], {key: value}, section=section, source="--set")


def _validate(
    cls: type[StageConfig], values: Mapping[str, Any], *, section: str, source: str
) -> StageConfig:
    try:
        return cls.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = [field.alias or name for name, field in cls.model_fields.items()]
            raise UsageError(
                f"{source}: unknown key {section}.{key}.{_did_you_mean(key, known)}"
            ) from None
        raise UsageError(
            f"{source}: {section}.{key}: {first['msg']}, is {first['input']!r}."
        ) from None


def _did_you_mean(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(sorted(known))}."
