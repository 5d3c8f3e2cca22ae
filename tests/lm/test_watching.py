"""Watching a policy step: when it reads, when it stops, what it keeps."""

import json
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from iterppo.config import PPOConfig
from iterppo.lm.watch import BestOf
from iterppo.lm.watching import Watching, limits_of
from iterppo.rl.stopping import Limits, Reading

STEPS_PER_UPDATE = 2


class Scripted:
    """A watch that reads what it is told to, update by update."""

    def __init__(self, q: dict[int, float], kl: dict[int, float] | None = None) -> None:
        self.q, self.kl = q, kl or {}

    def read(self, update: int, *, reference: Any) -> Reading:
        return Reading(update, (self.q[update],), None, self.kl.get(update, 0.0), 5.0, 0.5)

    def best_of(self, n: int) -> BestOf:
        return BestOf(n, 0.9, None, 0.6)


class Training:
    """A trainer's loop, whose weights are the number of updates that they have had."""

    def __init__(self, watch: Scripted, *, every: int, updates: int, **limits: float) -> None:
        self.updates, self.done = updates, 0
        self.watching = Watching(
            watch,  # type: ignore[arg-type]
            Limits(**limits),
            every=every,
            per_update=STEPS_PER_UPDATE,
            best_of=4,
            reference=lambda: nullcontext(None),  # type: ignore[arg-type]
            weights=lambda: {"w": torch.tensor(float(self.done))},
        )

    def run(self, *, until: int | None = None) -> "Training":
        control = SimpleNamespace(should_training_stop=False)
        state = SimpleNamespace(
            global_step=self.done * STEPS_PER_UPDATE, max_steps=self.updates * STEPS_PER_UPDATE
        )
        self.watching.on_train_begin(None, state, control)
        while not control.should_training_stop and state.global_step < state.max_steps:
            if self.done == until:
                break
            state.global_step += 1
            self.done = state.global_step // STEPS_PER_UPDATE
            self.watching.on_step_end(None, state, control)
        return self

    @property
    def kept(self) -> float:
        return float(self.watching.best_weights["w"])


RISES = {0: 0.1, 2: 0.2, 4: 0.3, 5: 0.4}


def test_it_reads_before_the_first_update_behind_every_so_many_and_behind_the_last() -> None:
    training = Training(Scripted(RISES), every=2, updates=5).run()
    assert [reading.update for reading in training.watching.readings] == [0, 2, 4, 5]
    assert training.kept == 5
    assert training.watching.reason is None


def test_what_is_kept_is_the_best_by_what_was_climbed() -> None:
    price = limits_of(PPOConfig(kl_coefficient=0.02)).kl_coefficient
    kl = {2: 1.0, 4: 9.0, 5: 20.0}
    assert Training(Scripted(RISES, kl), every=2, updates=5).run().kept == 5
    assert Training(Scripted(RISES, kl), every=2, updates=5, kl_coefficient=price).run().kept == 2


def test_a_coefficient_that_follows_a_target_is_no_price() -> None:
    assert limits_of(PPOConfig(kl_coefficient=0.02, kl_target=3.0)).kl_coefficient == 0


def test_the_best_policy_is_kept_not_the_last() -> None:
    training = Training(Scripted({**RISES, 5: 0.2}), every=2, updates=5).run()
    assert training.kept == 4
    assert training.watching.best.update == 4


def test_a_limit_ends_the_training_and_what_broke_it_is_not_kept() -> None:
    watch = Scripted(RISES, kl={2: 1.0, 4: 9.0})
    training = Training(watch, every=2, updates=5, kl=5.0).run()
    assert training.done == 4
    assert training.kept == 2
    assert "KL" in (training.watching.reason or "")


def test_a_policy_that_never_gets_better_stays_as_it_was() -> None:
    training = Training(Scripted({0: 0.5, 2: 0.4, 4: 0.3}), every=2, updates=4).run()
    assert training.kept == 0


@pytest.mark.parametrize("until", [1, 2, 3, 4])
def test_a_watched_training_goes_on_from_a_checkpoint_as_if_nothing_had_happened(
    until: int,
) -> None:
    watch = Scripted({**RISES, 5: 0.2})
    whole = Training(watch, every=2, updates=5).run()
    killed = Training(watch, every=2, updates=5).run(until=until)
    notes = json.loads(json.dumps(killed.watching.saved_notes()))
    resumed = Training(watch, every=2, updates=5)
    resumed.done = until
    resumed.watching.take(notes, killed.watching.saved_tensors())
    resumed.run()
    assert resumed.watching.readings == whole.watching.readings
    assert resumed.watching.best_of == whole.watching.best_of
    assert resumed.kept == whole.kept
