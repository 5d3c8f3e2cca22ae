"""The weights of the best epoch so far, and the losses that it was judged by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from iterppo.lm.checkpoint import Saved


class BestEpoch:
    """Keeps what a training that goes on too long would lose.

    Args:
        parameters: What is trained.
    """

    def __init__(self, parameters: Sequence[torch.nn.Parameter]) -> None:
        self._parameters = parameters
        self._best: list[torch.Tensor] = []
        self.history: list[float] = []
        """Losses, the one before training first."""
        self.lowest = math.inf
        self.number = 0
        """Of the best epoch; 0: before training."""

    def note(self, loss: float) -> None:
        """After an epoch. A loss that is not known (NaN) makes the newest one the best."""
        self.history.append(loss)
        if not loss >= self.lowest:
            self.lowest, self.number = loss, len(self.history) - 1
            self._best = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def take(self) -> None:
        """Set the parameters to those of the best epoch."""
        for parameter, value in zip(self._parameters, self._best, strict=True):
            parameter.copy_(value)

    def saved(self) -> Saved:
        """For the checkpoint."""
        tensors = {f"best.{number}": value for number, value in enumerate(self._best)}
        return Saved(
            tensors, {"history": self.history, "lowest": self.lowest, "number": self.number}
        )

    def restore(self, saved: Saved) -> None:
        """From the checkpoint."""
        self.history, self.lowest = saved.notes["history"], saved.notes["lowest"]
        self.number = saved.notes["number"]
        self._best = [
            saved.tensors[f"best.{number}"].to(parameter.device)
            for number, parameter in enumerate(self._parameters)
        ]
