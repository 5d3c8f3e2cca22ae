"""A PPO that was killed goes on to the result of one that was not."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from iterppo.config import PPOConfig
from iterppo.lm.checkpoint import Saved
from iterppo.lm.policy import load_policy
from iterppo.lm.ppo import PPOTrainer
from iterppo.lm.ppo_checkpoint import PPOCheckpoint
from iterppo.lm.prompts_of_updates import prompts_of_update

UPDATES = 5
STEPS = 2 * 2  # microbatches of an update: minibatches, accumulation


class Killed(Exception):
    pass


class Result:
    """All that a training leaves behind."""

    def __init__(self, trainer: PPOTrainer, samples: list[dict[str, Any]]) -> None:
        self.samples = samples
        self.weights = {n: v.clone() for n, v in trainer.model.state_dict().items()}
        self.kept = trainer.finish()
        self.curves = [
            {n: v for n, v in row.items() if n not in ("step_time", "epoch")}
            for row in trainer.state.log_history
            if "q" in row
        ]
        self.notes = trainer.saved_notes()


Train = Callable[..., Result]


@pytest.fixture(scope="module")
def train(
    make_policy: Callable[..., Path],
    prompts: list[dict[str, Any]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Train]:
    """Trains, until it is killed at a call of its loss."""

    def run(
        checkpoint: PPOCheckpoint | None = None,
        *,
        kill_at: int | None = None,
        seed: int = 0,
        kl_budget: float = 0.0,
    ) -> Result:
        AcceleratorState._reset_state(reset_partial_state=True)
        samples: list[dict[str, Any]] = []
        trainer = PPOTrainer(
            policy=load_policy(make_policy(steps=100)),
            reward=lambda states, actions: [float(action == "yes") for action in actions],
            prompts=prompts,
            config=PPOConfig(
                updates=UPDATES,
                completions_per_update=16,
                minibatches=2,
                microbatch_size=4,
                epochs=1,
                learning_rate=3e-3,
                critic_samples=32,
                watch_updates=2,
                kl_budget=kl_budget,
                least_entropy=0.0,
                least_distinct=0.0,
                judge_fall=0.0,
                seed=seed,
            ),
            work=tmp_path_factory.mktemp("work"),
            on_samples=samples.extend,
            watched=prompts,
            judge=lambda states, actions: [float(action == "no") for action in actions],
            checkpoint=checkpoint,
        )
        compute, calls = trainer._compute_loss, []

        def counted(*arguments: Any) -> Any:
            if len(calls) == kill_at:
                raise Killed
            calls.append(None)
            return compute(*arguments)

        trainer._compute_loss = counted  # type: ignore[method-assign]
        trainer.train()
        return Result(trainer, samples)

    with pytest.MonkeyPatch.context() as patch:
        # Every scale of advantages is made from the one before: whoever forgets it gets another.
        patch.setattr("iterppo.lm.ppo.ADVANTAGE_SCALE_KEPT", 3.0)
        yield run
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def whole(train: Train) -> Result:
    """Of a training that nobody killed, and that saved nothing."""
    return train()


def files_at(folder: Path, *, key: str = "a", every: int = 2) -> PPOCheckpoint:
    return PPOCheckpoint(folder / ".policy.checkpoint", key=key, every=every)


def assert_same(one: Result, other: Result) -> None:
    assert one.samples == other.samples
    assert one.curves == other.curves
    assert one.weights.keys() == other.weights.keys()
    for name, value in one.weights.items():
        assert torch.equal(value, other.weights[name]), name
    assert one.kept.keys() == other.kept.keys()
    for name, value in one.kept.items():
        assert torch.equal(value, other.kept[name]), name
    assert one.notes == other.notes


def test_the_scale_of_advantages_comes_from_before_a_save(whole: Result) -> None:
    scales = [row["advantage_scale"] for row in whole.curves]

    for update in (2, 4):
        assert scales[update] == pytest.approx(3 * scales[update - 1])


@pytest.mark.parametrize(
    "kill_at",
    [
        pytest.param(STEPS + 3, id="before the first save"),
        pytest.param(2 * STEPS, id="at the first step behind a save"),
        pytest.param(UPDATES * STEPS - 1, id="at the last step of all"),
    ],
)
def test_a_killed_ppo_ends_as_if_it_had_not_been(
    kill_at: int, train: Train, whole: Result, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(files_at(tmp_path), kill_at=kill_at)

    assert_same(train(files_at(tmp_path)), whole)


def test_it_may_be_killed_more_than_once(train: Train, whole: Result, tmp_path: Path) -> None:
    for steps in (2 * STEPS + 1, 2 * STEPS + 1):  # the second counts from the save of the first
        with pytest.raises(Killed):
            train(files_at(tmp_path), kill_at=steps)
    saved = files_at(tmp_path).load()

    assert saved is not None
    assert saved[0].notes["step"] == 4 * 2, "four updates, of two optimiser steps each"
    assert_same(train(files_at(tmp_path), kill_at=STEPS), whole)


def test_saving_changes_nothing(train: Train, whole: Result, tmp_path: Path) -> None:
    assert_same(train(files_at(tmp_path, every=1)), whole)


def test_a_checkpoint_of_another_training_is_not_gone_on_from(
    train: Train, whole: Result, tmp_path: Path
) -> None:
    with pytest.raises(Killed):
        train(files_at(tmp_path, key="a"), kill_at=3 * STEPS)
    with pytest.raises(Killed):
        train(files_at(tmp_path, key="b"), kill_at=3 * STEPS, seed=1)

    assert files_at(tmp_path, key="a").load() is None
    assert files_at(tmp_path, key="b").load() is not None
    assert_same(train(files_at(tmp_path, key="a")), whole)


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    train: Train,
    whole: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    calls: list[int] = []

    def full_at_first(_: int) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise OSError("No space left")

    monkeypatch.setattr("iterppo.lm.saved_rows.os.fsync", full_at_first)
    with pytest.raises(Killed):
        train(files_at(tmp_path), kill_at=4 * STEPS + 1)

    assert "no checkpoint could be written (No space left)" in capsys.readouterr().err
    assert_same(train(files_at(tmp_path)), whole)


def test_rows_of_a_save_that_was_killed_are_not_told_twice(
    train: Train, whole: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = PPOCheckpoint.save, []

    def killed_between_its_files(self: PPOCheckpoint, saved: Saved) -> None:
        calls.append(1)
        if len(calls) == 2:
            self._rows.append(self._pending, size_bytes=self._size_bytes)
            raise Killed
        save(self, saved)

    with monkeypatch.context() as patched:
        patched.setattr(PPOCheckpoint, "save", killed_between_its_files)
        with pytest.raises(Killed):
            train(files_at(tmp_path))

    assert_same(train(files_at(tmp_path)), whole)


def test_one_that_a_limit_stopped_is_stopped_there_again(train: Train, tmp_path: Path) -> None:
    """Killed behind its last update, before its policy was written."""
    stopped = train(kl_budget=1e-6)
    train(files_at(tmp_path), kl_budget=1e-6)

    assert len(stopped.curves) == 4 < UPDATES
    assert_same(train(files_at(tmp_path), kl_budget=1e-6), stopped)


def test_every_prompt_is_met_as_often_as_any_other() -> None:
    met = [
        index
        for update in range(14)
        for index in prompts_of_update(7, per_update=3, update=update, seed=5)
    ]
    assert all(sorted(met[start : start + 7]) == list(range(7)) for start in range(0, 42, 7))
    assert met != [
        index
        for update in range(14)
        for index in prompts_of_update(7, per_update=3, update=update, seed=6)
    ]


def test_an_update_may_be_larger_than_the_prompts() -> None:
    assert sorted(prompts_of_update(2, per_update=6, update=0, seed=0)) == [0, 0, 0, 1, 1, 1]
