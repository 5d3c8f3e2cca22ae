"""The critic: a scalar head on the policy's backbone.

Its values are computed inside the model's own forward, so that whatever wraps the model (DDP, ZeRO) sees the head used.

Shapes: B sequences, S positions of prompt and completion together, D hidden.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

HEAD = "value_head"


class Critic:
    """Attaches a value head to a causal language model and collects its outputs on demand."""

    def __init__(self, model: PreTrainedModel) -> None:
        backbone: Any = getattr(model, model.base_model_prefix)
        head = torch.nn.Linear(model.config.get_text_config().hidden_size, 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        model.add_module(HEAD, head.to(model.device))
        self.model = model
        self.train_backbone = True
        """Whether the value loss reaches the policy's weights; not while the head alone warms up."""
        self._collecting: list[torch.Tensor] | None = None
        self._hook = backbone.register_forward_hook(self._after_backbone)

    def _after_backbone(self, module: torch.nn.Module, args: Any, output: Any) -> None:
        if self._collecting is None:
            return
        hidden_BSD = output.last_hidden_state
        if not self.train_backbone:
            hidden_BSD = hidden_BSD.detach()
        self._collecting.append(getattr(self.model, HEAD)(hidden_BSD).squeeze(-1).float())

    @contextlib.contextmanager
    def collecting(self) -> Iterator[list[torch.Tensor]]:
        """Values (B, S) of every forward within the block, one tensor per forward."""
        before, self._collecting = self._collecting, []
        try:
            yield self._collecting
        finally:
            self._collecting = before

    def detach(self) -> dict[str, torch.Tensor]:
        """Take the head off the model, which is then a plain language model again; returns the head's weights."""
        self._hook.remove()
        weights = {name: value.detach().cpu() for name, value in getattr(self.model, HEAD).state_dict().items()}
        delattr(self.model, HEAD)
        return weights
