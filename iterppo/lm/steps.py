"""Who makes an optimiser's step of a loss: this process by itself, or a team that shares it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from iterppo.lm.team import average

MAX_GRADIENT_NORM = 1.0
"""Clipping of the gradient's norm, over all that is trained."""


class Steps(Protocol):
    """A step in two halves, between which the loss of all processes is looked at."""

    optimiser: Any
    """What holds the optimiser's memory; `iterppo.lm.sharding` reads and writes it."""

    def backward(self, loss: torch.Tensor) -> None:
        """Take the gradient of the mean of all processes' losses."""

    def step(self) -> None:
        """Clip it, and move the parameters."""


MakeSteps = Callable[[torch.optim.Optimizer], Steps]


class WholeSteps:
    """Every process holds all weights and the optimiser's whole memory.

    Args:
        optimiser: torch's.
        parameters: What is trained.
    """

    def __init__(
        self, optimiser: torch.optim.Optimizer, parameters: Sequence[torch.nn.Parameter]
    ) -> None:
        self.optimiser: Any = optimiser
        self._parameters = parameters

    def backward(self, loss: torch.Tensor) -> None:
        """See `Steps`."""
        self.optimiser.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        average(p.grad for p in self._parameters if p.grad is not None)

    def step(self) -> None:
        """See `Steps`."""
        torch.nn.utils.clip_grad_norm_(self._parameters, MAX_GRADIENT_NORM)
        self.optimiser.step()
