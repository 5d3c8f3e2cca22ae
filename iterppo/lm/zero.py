"""A training loop of our own under DeepSpeed's ZeRO: weights, gradients and the optimiser's memory
divided among the processes.

The stage's configuration decides what is computed, DeepSpeed's file where it lies: one process and
several come to the same result, whatever the file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from iterppo.errors import UsageError
from iterppo.lm.steps import MAX_GRADIENT_NORM
from iterppo.lm.team import team


class DividedSteps:
    """Steps of an engine of DeepSpeed.

    Args:
        module: Whose parameters are divided from now on, in place; a call of `engine` calls it.
        optimiser: torch's, over what is trained of it.
        settings: See `engine_settings`.
    """

    def __init__(
        self, module: torch.nn.Module, optimiser: torch.optim.Optimizer, settings: dict[str, Any]
    ) -> None:
        import deepspeed

        self.engine: Any
        self.engine, *_ = deepspeed.initialize(model=module, optimizer=optimiser, config=settings)
        # At stage 0 nothing is divided, and torch's optimiser holds all.
        self.optimiser: Any = self.engine if self.engine.zero_optimization() else optimiser

    def backward(self, loss: torch.Tensor) -> None:
        """See `iterppo.lm.steps.Steps`."""
        self.engine.backward(loss)

    def step(self) -> None:
        """See `iterppo.lm.steps.Steps`."""
        self.engine.step()


def engine_settings(file: Path, *, stage: str) -> dict[str, Any]:
    """DeepSpeed's file, with what the stage's configuration decides in its place.

    A loss that comes to the engine is that of a whole batch's share of this process, so DeepSpeed
    counts one sample a process and no accumulation. What stands as "auto" is left to DeepSpeed.

    Args:
        file: DeepSpeed's JSON.
        stage: Whose, for messages.

    Raises:
        UsageError: If the file asks for weights of another precision than float32.
    """
    found: dict[str, Any] = _without_auto(json.loads(file.read_text(encoding="utf-8")))
    for precision in ("bf16", "fp16"):
        if found.pop(precision, {}).get("enabled"):
            raise UsageError(
                f"{stage}: --deepspeed {file}: {precision}.enabled is true, and the weights of Q "
                f'stay float32. Set it to "auto"; {stage}.bf16 = true computes in bfloat16.'
            )
    for decided in ("optimizer", "scheduler"):
        found.pop(decided, None)
    return {
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        **found,
        "train_batch_size": team().size,
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": MAX_GRADIENT_NORM,
    }


def _without_auto(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_auto(each) for name, each in value.items() if each != "auto"}
    return value
