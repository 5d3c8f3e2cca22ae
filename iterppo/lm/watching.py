"""Watches a policy step: reads the policy every so many updates, stops the step, keeps the best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import msgspec
import torch
from transformers import TrainerCallback

from iterppo.config import PPOConfig
from iterppo.lm.watch import BestOf, Reference, Watch
from iterppo.progress import say
from iterppo.rl.stopping import Limits, Reading, best, broken

Weights = dict[str, torch.Tensor]

BEST = "best."


def limits_of(config: PPOConfig) -> Limits:
    """Those of a stage's configuration. A coefficient that is moved until the KL is as wanted is no
    price of it."""
    return Limits(
        kl_coefficient=0.0 if config.kl_target else config.kl_coefficient,
        kl=config.kl_budget,
        entropy=config.least_entropy,
        distinct=config.least_distinct,
        judge_fall=config.judge_fall,
    )


class Watching(TrainerCallback):
    """Reads before the first update, behind every so many, and behind the last."""

    def __init__(
        self,
        watch: Watch,
        limits: Limits,
        *,
        every: int,
        per_update: int,
        best_of: int,
        reference: Reference,
        weights: Callable[[], Weights],
    ) -> None:
        """
        Args:
            watch: Prompts, and what scores them.
            limits: Where the step ends.
            every: Updates between two readings.
            per_update: Optimiser steps of an update.
            best_of: N of the best-of-N baseline; less than 2: none.
            reference: π_ref.
            weights: Copies of the weights that the policy has now, by name.
        """
        self._watch = watch
        self._limits = limits
        self._every = every
        self._per_update = per_update
        self._n = best_of
        self._reference = reference
        self._weights_now = weights
        self.readings: list[Reading] = []
        self.best_of: BestOf | None = None
        """Of the policy before the first update."""
        self.reason: str | None = None
        """Why the step ended before its last update."""
        self.best_weights: Weights = {}

    @property
    def best(self) -> Reading:
        """The reading of the policy that is kept."""
        return self.readings[best(self.readings, self._limits)]

    # --- the trainer's calls

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """A training that goes on has its readings already."""
        if self.readings:
            return
        if self._n > 1:
            self.best_of = self._watch.best_of(self._n)
        self._read(0)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Before the checkpoint of this update is written, which shall hold the reading."""
        update, rest = divmod(state.global_step, self._per_update)
        is_last = state.global_step >= state.max_steps
        if rest or (update % self._every and not is_last):
            return
        self._read(update)
        self.reason = broken(self.readings, self._limits)
        if self.reason is not None and not is_last:
            say(f"ppo: stops behind update {update}: {self.reason}")
            control.should_training_stop = True

    def _read(self, update: int) -> None:
        self.readings.append(self._watch.read(update, reference=self._reference))
        if best(self.readings, self._limits) == len(self.readings) - 1:
            self.best_weights = {}  # never both in memory
            self.best_weights = self._weights_now()

    # --- what is told

    def summary(self) -> dict[str, float | bool | str]:
        """For the manifest: the first policy, the kept one, and the baseline."""
        first, kept = self.readings[0], self.best
        found: dict[str, float | bool | str] = {
            "kept_update": float(kept.update),
            "stopped": self.reason or "",
            "watched_q_first": first.q,
            "watched_q_kept": kept.q,
            "watched_kl_kept": kept.kl,
        }
        if kept.judge_P is not None:
            found |= {"watched_judge_first": first.score, "watched_judge_kept": kept.score}
        if self.best_of is not None:
            found |= {"best_of_n": float(self.best_of.n), "best_of_q": self.best_of.q}
            if self.best_of.judge is not None:
                found["best_of_judge"] = self.best_of.judge
        return found

    def sentence(self) -> str:
        """What a person wants to know at the end."""
        first, kept = self.readings[0], self.best
        text = (
            f"keeps the policy of update {kept.update}: on {len(kept.q_P)} held-out prompts its Q "
            f"is {kept.q:.3f}, of the first policy {first.q:.3f}"
        )
        if self.best_of is not None:
            text += f", of the best of {self.best_of.n} of its suggestions {self.best_of.q:.3f}"
        if kept.judge_P is not None:
            text += f"; by Q of other conversations {kept.score:.3f}, before {first.score:.3f}"
            if self.best_of is not None:
                text += f", best of {self.best_of.n} {self.best_of.judge:.3f}"
        return f"{text}; KL {kept.kl:z.2f} nat"

    # --- what a checkpoint keeps

    def saved_notes(self) -> dict[str, Any]:
        """All but the weights; JSON takes it."""
        return {
            "readings": [asdict(reading) for reading in self.readings],
            "best_of": None if self.best_of is None else asdict(self.best_of),
        }

    def saved_tensors(self) -> Weights:
        """The weights, by other names than a training's own."""
        return {f"{BEST}{name}": weight for name, weight in self.best_weights.items()}

    def take(self, notes: Mapping[str, Any], tensors: Weights) -> None:
        """Take everything back."""
        self.readings = msgspec.convert(notes["readings"], list[Reading])
        self.best_of = msgspec.convert(notes["best_of"], BestOf | None)
        self.best_weights = {
            name.removeprefix(BEST): tensor
            for name, tensor in tensors.items()
            if name.startswith(BEST)
        }
