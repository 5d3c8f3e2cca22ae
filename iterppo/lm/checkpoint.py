"""A file that a killed training goes on from, to the same result.

Tensors and a few notes in one safetensors file, replaced as a whole: whoever is killed while it is
written leaves the one before. No pickle: a checkpoint is read by whoever starts the command again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from iterppo.progress import warn


class Saved(NamedTuple):
    """What a checkpoint holds."""

    tensors: dict[str, torch.Tensor]
    notes: dict[str, Any]


class Companion(Protocol):
    """State beside parameters and optimiser that a training cannot go on without."""

    def saved(self) -> Saved:
        """What to write."""

    def restore(self, saved: Saved) -> None:
        """Take it back."""


class Checkpoint:
    """Where a training is saved, every so many steps.

    Args:
        file: Its place; nothing is there before the first save.
        key: Of what is trained, from what: a checkpoint of anything else is left alone.
        every: Steps between two saves.
    """

    def __init__(self, file: Path, *, key: str, every: int) -> None:
        self._file = file
        self._key = key
        self.every = every

    def save(self, saved: Saved) -> None:
        """Replace what was saved before; on a full disk, say so and keep it.

        A checkpoint is a convenience: the training that it is for goes on.
        """
        half = self._file.with_name(f"{self._file.name}.half")
        tensors = {name: t.detach().contiguous().clone() for name, t in saved.tensors.items()}
        metadata = {"key": self._key, "notes": json.dumps(saved.notes)}
        try:
            save_file(tensors, half, metadata=metadata)
            os.replace(half, self._file)
        except (OSError, SafetensorError) as error:
            half.unlink(missing_ok=True)
            warn(f"{self._file}: no checkpoint could be written ({error}); the training goes on")

    def load(self) -> Saved | None:
        """What was saved; None where nothing was, or something else."""
        try:
            with safe_open(self._file, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self._key:
                    return None
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError):
            return None
        return Saved(tensors, json.loads(metadata["notes"]))

    def remove(self) -> None:
        """When the training is done."""
        for file in (self._file, self._file.with_name(f"{self._file.name}.half")):
            file.unlink(missing_ok=True)


def training_state(
    parameters: Sequence[torch.nn.Parameter], optimiser: torch.optim.Optimizer
) -> dict[str, torch.Tensor]:
    """Parameters, the optimiser's memory of them, and the state of the random numbers."""
    tensors = {"random": torch.get_rng_state()}
    for number, parameter in enumerate(parameters):
        tensors[f"parameter.{number}"] = parameter
        for name, value in optimiser.state[parameter].items():
            tensors[f"optimiser.{number}.{name}"] = torch.as_tensor(value)
    return tensors


@torch.no_grad()
def restore_training_state(
    tensors: Mapping[str, torch.Tensor],
    parameters: Sequence[torch.nn.Parameter],
    optimiser: torch.optim.Optimizer,
) -> None:
    """Undo `training_state`."""
    # AdamW counts its steps on the CPU, wherever the parameter is; its fused form beside it.
    fused = {p for group in optimiser.param_groups if group.get("fused") for p in group["params"]}
    for number, parameter in enumerate(parameters):
        parameter.copy_(tensors[f"parameter.{number}"])
        for name, value in _under(tensors, f"optimiser.{number}."):
            optimiser.state[parameter][name] = (
                value.clone()
                if name == "step" and parameter not in fused
                else value.to(parameter.device, copy=True)
            )
    torch.set_rng_state(tensors["random"])


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in tensors.items():
        if name.startswith(prefix):
            yield name.removeprefix(prefix), value
