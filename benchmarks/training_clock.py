"""Time that a model spends in training mode: in its steps, whoever's loop it is."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import torch


class Time(NamedTuple):
    """A moment, or the time between two."""

    busy_s: float
    """Of the processor, added up over cores; where a GPU computes, the same as the wall's."""
    wall_s: float

    def since(self, before: Time) -> Time:
        """What has passed."""
        return Time(self.busy_s - before.busy_s, self.wall_s - before.wall_s)

    def plus(self, other: Time) -> Time:
        """Both together."""
        return Time(self.busy_s + other.busy_s, self.wall_s + other.wall_s)


def now(device: torch.device) -> Time:
    """After what the device was asked for is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    wall_s = time.perf_counter()
    return Time(time.process_time() if device.type == "cpu" else wall_s, wall_s)


class TrainingClock:
    """Adds up the time from a model's `train()` to its `eval()`, or to the end of the `with`."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.time = Time(0.0, 0.0)
        self._model: Any = model
        self._since: Time | None = None

    def __enter__(self) -> TrainingClock:
        switch = self._model.train

        def train(mode: bool = True) -> torch.nn.Module:
            self._stop()
            if mode:
                self._since = now(self._model.device)
            model: torch.nn.Module = switch(mode)
            return model

        self._model.train = train  # `eval()` is `train(False)`
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()
        del self._model.train

    def _stop(self) -> None:
        if self._since is not None:
            self.time = self.time.plus(now(self._model.device).since(self._since))
        self._since = None
