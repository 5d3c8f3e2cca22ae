"""Where a killed PPO goes on: behind an update, with all that the next one depends on.

    NAME.safetensors   what is trained (value head too), optimiser, scheduler, curves
    NAME.jsonl         the completions sampled so far

What an update samples, and the order of its minibatches, depend on the seed and its number alone
(`prompts_of_update`, `seed_sampling`): neither random numbers nor a place in the data is kept.

transformers' own checkpoints pickle the optimiser, and under ZeRO cannot be read by another number
of processes; hence a file of our own, which the trainer takes back before its first step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from transformers import TrainerCallback

from iterppo.lm.checkpoint import Checkpoint, Saved
from iterppo.lm.saved_rows import SavedRows
from iterppo.lm.sharding import restore_optimiser, whole_training_state
from iterppo.lm.team import team
from iterppo.progress import say, warn


class Resumable(Protocol):
    """What is asked of a trainer beside transformers' attributes."""

    def saved_notes(self) -> dict[str, Any]:
        """Numbers of the training that are in no tensor; JSON takes them."""

    def saved_tensors(self) -> dict[str, Any]:
        """Tensors that are none of the training's own; the checkpoint hands them to it when it is
        made."""

    def take_notes(self, notes: dict[str, Any]) -> None:
        """Take them back."""


class PPOCheckpoint:
    """The two files of a training, and which update they stand behind.

    Args:
        place: Their path, without the suffix.
        key: Of what is trained, from what: a checkpoint of anything else is left alone.
        every: Updates between two saves.
    """

    def __init__(self, place: Path, *, key: str, every: int) -> None:
        self.every = every
        self._state = Checkpoint(place.with_name(f"{place.name}.safetensors"), key=key, every=every)
        self._rows = SavedRows(place.with_name(f"{place.name}.jsonl"))
        self._size_bytes = 0
        self._pending: list[dict[str, Any]] = []

    def load(self) -> tuple[Saved, list[dict[str, Any]]] | None:
        """The state and the rows up to it; None where there is no whole pair of this key."""
        saved = self._state.load()
        rows = None if saved is None else self._rows.read(saved.notes["rows_size_bytes"])
        if saved is None or rows is None:
            return None
        self._size_bytes = saved.notes["rows_size_bytes"]
        return saved, rows

    def note(self, rows: list[dict[str, Any]]) -> None:
        """Rows that the next save must hold."""
        self._pending += rows

    def save(self, saved: Saved) -> None:
        """Replace what was saved before; on a full disk, say so and keep it."""
        if not self._size_bytes:
            self._state.remove()  # of another training, whose rows now go
        try:
            self._size_bytes = self._rows.append(self._pending, size_bytes=self._size_bytes)
        except OSError as error:
            warn(f"no checkpoint could be written ({error}); the training goes on")
            return
        self._pending = []
        self._state.save(Saved(saved.tensors, {**saved.notes, "rows_size_bytes": self._size_bytes}))

    def remove(self) -> None:
        """When the artifact is whole."""
        self._state.remove()
        self._rows.remove()


class Resume(TrainerCallback):
    """Takes the state back as the training begins, and saves it behind every so many updates."""

    def __init__(
        self, trainer: Any, checkpoint: PPOCheckpoint, saved: Saved | None, *, per_update: int
    ) -> None:
        self._trainer = trainer
        self._checkpoint = checkpoint
        self._saved = saved
        self._per_update = per_update

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After the optimiser was made and the model was wrapped, before the first step."""
        if self._saved is None:
            return
        notes, trainer = self._saved.notes, self._trainer
        restore_optimiser(self._saved.tensors, trainer.trained, trainer.optimizer)
        trainer.lr_scheduler.load_state_dict(notes["scheduler"])
        for group, rate in zip(
            trainer.optimizer.param_groups, notes["scheduler"]["_last_lr"], strict=True
        ):
            group["lr"] = rate
        state.global_step = trainer._globalstep_last_logged = notes["step"]
        state.num_input_tokens_seen = notes["num_input_tokens_seen"]
        state.log_history = notes["log_history"]
        trainer._step = notes["step"] * args.gradient_accumulation_steps
        trainer.take_notes(notes["trainer"])
        if team().leads:
            say(f"ppo: goes on behind update {notes['step'] // self._per_update}")
        self._saved = None

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Behind the last step of an update, when its curves are complete."""
        update, rest = divmod(state.global_step, self._per_update)
        if rest or update % self._checkpoint.every or state.global_step >= state.max_steps:
            return
        if control.should_training_stop:  # what goes on from here would not know that it is over
            return
        trainer = self._trainer
        notes = {
            "step": state.global_step,
            "num_input_tokens_seen": state.num_input_tokens_seen,
            "log_history": state.log_history,
            "scheduler": trainer.lr_scheduler.state_dict(),
            "trainer": trainer.saved_notes(),
        }
        tensors = whole_training_state(trainer.trained, trainer.optimizer)
        tensors |= trainer.saved_tensors()
        if team().leads:
            self._checkpoint.save(Saved(tensors, notes))
