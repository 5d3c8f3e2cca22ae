"""THE table of stages: what each reads, writes and is configured by.

The command line, the README's table, the Makefile's order and the tests derive from `STAGES`.
Within a round folder every artifact has a fixed place, so `--round runs/shop/003` names all inputs
and outputs of a stage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.errors import UsageError

if TYPE_CHECKING:
    from iterppo.config import StageConfig


@dataclass(frozen=True)
class Slot:
    """An artifact that a stage reads or writes."""

    name: str
    """Keyword argument of the stage's `run`."""
    kind: str
    place: str
    """Folder within the round; BEHAVIOUR stands for the policy that made the round's logs."""
    optional: bool = False


BEHAVIOUR = "<behaviour policy>"


@dataclass(frozen=True)
class Stage:
    """A subcommand that makes an artifact."""

    name: str
    help: str
    config_name: str
    """Its class in `iterppo.config`, by name: the table alone must be quick to read."""
    reads: tuple[Slot, ...]
    writes: tuple[Slot, ...]
    """The first is the main one: `--out`."""

    @property
    def config(self) -> type[StageConfig]:
        """The configuration's class."""
        found: type[StageConfig] = getattr(
            importlib.import_module("iterppo.config"), self.config_name
        )
        return found

    @property
    def run(self) -> Callable[..., Any]:
        """The stage's function; imports the stage."""
        run: Callable[..., Any] = importlib.import_module(
            f"iterppo.stages.{self.name.replace('-', '_')}"
        ).run
        return run


_TRAJECTORIES = Slot("trajectories", "trajectories", "trajectories")
_BEHAVIOUR_POLICY = Slot("policy", "policy", BEHAVIOUR)

_ORDER = (
    Stage(
        "rollout",
        "Hold conversations of a policy in an environment: a log that ingest reads.",
        "RolloutConfig",
        reads=(_BEHAVIOUR_POLICY,),
        writes=(Slot("out", "log", "log"),),
    ),
    Stage(
        "ingest",
        "Read conversation logs into turns with rewards; what cannot be read goes to rejects.",
        "IngestConfig",
        reads=(),
        writes=(Slot("out", "trajectories", "trajectories"), Slot("rejects", "rejects", "rejects")),
    ),
    Stage(
        "init",
        "Make π_0: a Hugging Face model with a prompt, or a small model trained from scratch on "
        "the log.",
        "InitConfig",
        reads=(Slot("trajectories", "trajectories", "trajectories", optional=True),),
        writes=(Slot("out", "policy", "init"),),
    ),
    Stage(
        "credit",
        "Learn one reward a turn from the outcomes, by an implicit reward model (ITPO).",
        "CreditConfig",
        reads=(_TRAJECTORIES, _BEHAVIOUR_POLICY),
        writes=(Slot("out", "credit", "credit"),),
    ),
    Stage(
        "returns",
        "Compute the Monte Carlo return of every turn.",
        "ReturnsConfig",
        reads=(_TRAJECTORIES, Slot("credit", "credit", "credit", optional=True)),
        writes=(Slot("out", "returns", "returns"),),
    ),
    Stage(
        "actions",
        "Ask a policy what it would do in every state of a log: next actions for fit-q.",
        "ActionsConfig",
        reads=(_TRAJECTORIES, _BEHAVIOUR_POLICY),
        writes=(Slot("out", "actions", "actions"),),
    ),
    Stage(
        "fit-q",
        "Fit Q^π: the return as a function of state and action, with held-out diagnostics.",
        "FitQConfig",
        reads=(
            _TRAJECTORIES,
            Slot("returns", "returns", "returns"),
            _BEHAVIOUR_POLICY,
            Slot("actions", "actions", "actions", optional=True),
        ),
        writes=(Slot("out", "q", "q"),),
    ),
    Stage(
        "prompts",
        "Build a single-turn prompt from every non-terminal state.",
        "PromptsConfig",
        reads=(_TRAJECTORIES, _BEHAVIOUR_POLICY),
        writes=(Slot("out", "prompts", "prompts"),),
    ),
    Stage(
        "ppo",
        "Improve the policy by token-level PPO with Q as the reward.",
        "PPOConfig",
        reads=(
            Slot("prompts", "prompts", "prompts"),
            Slot("q", "q", "q"),
            _BEHAVIOUR_POLICY,
            Slot("judge", "q", "judge", optional=True),
            Slot("trajectories", "trajectories", "trajectories", optional=True),
        ),
        writes=(Slot("out", "policy", "policy"),),
    ),
    Stage(
        "evaluate",
        "Estimate the value of a new policy from the log of the one before it, and whether to "
        "ship it.",
        "EvaluateConfig",
        reads=(
            _TRAJECTORIES,
            Slot("returns", "returns", "returns"),
            _BEHAVIOUR_POLICY,
            Slot("candidate", "policy", "policy"),
            Slot("q", "q", "q", optional=True),
            Slot("proposals", "actions", "proposals", optional=True),
            Slot("fqe", "q", "fqe", optional=True),
            Slot("twin", "q", "fqe-twin", optional=True),
            Slot("actions", "actions", "actions", optional=True),
        ),
        writes=(Slot("out", "evaluation", "evaluation"),),
    ),
    Stage(
        "export",
        "Write the policy as a Hugging Face folder that transformers and vLLM serve as it is.",
        "ExportConfig",
        reads=(
            Slot("policy", "policy", "policy"),
            Slot("prompts", "prompts", "prompts", optional=True),
        ),
        writes=(Slot("out", "export", "export"),),
    ),
)

STAGES: dict[str, Stage] = {stage.name: stage for stage in _ORDER}


def sections() -> dict[str, type[StageConfig]]:
    """Sections of a configuration file: one per stage."""
    return {stage.name: stage.config for stage in _ORDER}


def previous_round(round_folder: Path) -> Path | None:
    """`runs/shop/002` for `runs/shop/003`; None for round 0 and for folders that are not
    numbered."""
    if round_folder.name in ("", ".."):
        round_folder = round_folder.resolve()  # `--round .` from within the round
    name = round_folder.name
    if not name.isdecimal() or int(name) == 0:
        return None
    padded, plain = (
        round_folder.parent / text
        for text in (str(int(name) - 1).zfill(len(name)), str(int(name) - 1))
    )
    return plain if plain.exists() and not padded.exists() else padded


def place(slot: Slot, round_folder: Path) -> Path:
    """Where a slot's artifact lies by convention.

    The behaviour policy of a round is the previous round's `policy`; of a first round it is its own
    `init`.
    """
    if slot.place != BEHAVIOUR:
        return round_folder / slot.place
    before = previous_round(round_folder)
    if before is not None and (before / "policy").exists():
        return before / "policy"
    return round_folder / "init"


def resolve(
    slot: Slot, given: Path | None, round_folder: Path | None, *, option: str, stage: str
) -> Path | None:
    """The path of a slot: the one given, else the round's. Explicit paths win.

    Raises:
        UsageError: If neither says where it is and the slot is not optional.
    """
    if given is not None:
        return given
    if round_folder is not None:
        path = place(slot, round_folder)
        return path if path.exists() or not slot.optional else None
    if slot.optional:
        return None
    raise UsageError(
        f"{stage}: {option} is missing. Name it, or name the round with --round runs/NAME/000."
    )
