"""Q̂ divided among processes for as long as it is fitted, whole before and after.

    whole ── divide ──> backbone and heads under ZeRO; every pass goes through DeepSpeed's engine
      ^                                        │
      └───────── make_whole ───────────────────┘   a copy without weights was kept, and is filled

What looks at Q̂ between two regressions, and when it is fitted, looks at a plain model: DeepSpeed's
changes of a module cannot be undone, so it is thrown away.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from iterppo.lm.q_function import Outputs, QFunction
from iterppo.lm.rendering import Segment
from iterppo.lm.sharding import gathered
from iterppo.lm.zero import DividedSteps, engine_settings


class QDivision:
    """Divides a Q, and makes it whole again.

    Args:
        q: The Q.
        deepspeed: DeepSpeed's configuration.

    Raises:
        UsageError: If the configuration is not one for a Q.
    """

    def __init__(self, q: QFunction, deepspeed: Path) -> None:
        self._q = q
        self._settings = engine_settings(deepspeed, stage="fit-q")
        self._engine: Any = None
        self._empty: Any = None

    def divide(self, optimiser: torch.optim.Optimizer) -> DividedSteps:
        """Divide the Q, and the memory of an optimiser over `q.parameters()`."""
        self._empty = _without_weights(self._q.modules)
        steps = DividedSteps(_Passes(self._q), optimiser, self._settings)
        self._engine = self._q.divided = steps.engine
        return steps

    @torch.no_grad()
    def make_whole(self) -> None:
        """Give the Q plain modules, with the weights that the divided ones have by now."""
        for divided, plain in zip(
            _parameters(self._q.modules), _parameters(self._empty), strict=True
        ):
            with gathered([divided]):
                plain.data = divided.detach().to("cpu", copy=True)
        self._engine.destroy()
        self._q.divided = None
        self._q.modules = self._empty
        self._engine = self._empty = None
        self._q.use_accelerator()


class _Passes(torch.nn.Module):
    """What DeepSpeed sees of a Q: all that is trained, and a pass over segments."""

    def __init__(self, q: QFunction) -> None:
        super().__init__()
        self.backbone = q.backbone
        self.heads = q.heads
        self._pass = q.own_outputs

    def forward(self, segments: Sequence[Segment]) -> Outputs:
        return self._pass(segments)


def _parameters(modules: Any) -> list[torch.nn.Parameter]:
    model, _, heads = modules  # the adapters are within the model
    return [*model.parameters(), *heads.parameters()]


def _without_weights(modules: Any) -> Any:
    """A copy whose parameters have no elements; buffers are kept."""
    known: dict[int, Any] = {
        id(p): torch.nn.Parameter(p.new_empty(0, device="cpu"), requires_grad=p.requires_grad)
        for p in _parameters(modules)
    }
    return copy.deepcopy(modules, known)
