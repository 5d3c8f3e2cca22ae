"""A training that was killed goes on to the same result."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from iterppo.lm.checkpoint import Checkpoint, Saved
from iterppo.lm.training import minimise


class Killed(Exception):
    pass


class Notes:
    """Something that a training must remember besides."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def saved(self) -> Saved:
        return Saved({"companion": torch.tensor(self.seen)}, {"seen": self.seen})

    def restore(self, saved: Saved) -> None:
        assert saved.tensors["companion"].tolist() == saved.notes["seen"]
        self.seen = list(saved.notes["seen"])


def train(
    checkpoint: Checkpoint | None, *, kill_at: int | None = None
) -> tuple[list[float], torch.Tensor, Notes]:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(3, 2))
    notes = Notes()

    def loss_of(batch: list[int]) -> torch.Tensor:
        if len(notes.seen) == kill_at:
            raise Killed
        notes.seen.append(sum(batch))
        noise = torch.randn(2)  # as dropout would draw it
        return ((weight * (1 + batch[0])).sum(dim=0) - noise).square().sum()

    losses = minimise(
        [weight],
        loss_of,
        [5] * 30,
        epochs=2,
        max_steps=25,
        tokens_per_batch=10,
        learning_rate=0.1,
        weight_decay=0.01,
        seed=3,
        what="test",
        checkpoint=checkpoint,
        companion=notes,
    )
    return losses, weight.detach(), notes


@pytest.mark.parametrize("kill_at", [3, 7, 8, 24])
def test_a_killed_training_ends_as_if_it_had_not_been(kill_at: int, tmp_path: Path) -> None:
    whole = train(None)
    checkpoint = Checkpoint(tmp_path / "state", key="a", every=4)
    with pytest.raises(Killed):
        train(checkpoint, kill_at=kill_at)
    again = train(checkpoint)

    assert again[0] == whole[0]
    assert torch.equal(again[1], whole[1])
    assert again[2].seen == whole[2].seen


def test_what_was_done_is_not_done_again(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "state", key="a", every=4)
    with pytest.raises(Killed):
        train(checkpoint, kill_at=11)
    # Had it begun anew, it would be killed again at the ninth step.
    with pytest.raises(Killed):
        train(checkpoint, kill_at=24)
    saved = checkpoint.load()
    assert saved is not None
    assert len(saved.notes["losses"]) == 24


def test_a_checkpoint_of_something_else_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(Checkpoint(tmp_path / "state", key="a", every=4), kill_at=11)
    assert Checkpoint(tmp_path / "state", key="b", every=4).load() is None
    assert Checkpoint(tmp_path / "state", key="a", every=4).load() is not None


@pytest.mark.parametrize("content", [b"", b"half of a fi", None])
def test_a_damaged_checkpoint_is_as_none(content: bytes | None, tmp_path: Path) -> None:
    file = tmp_path / "state"
    if content is not None:
        file.write_bytes(content)

    assert Checkpoint(file, key="a", every=4).load() is None


def test_a_save_that_is_killed_leaves_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = Checkpoint(tmp_path / "state", key="a", every=1)
    checkpoint.save(Saved({"x": torch.ones(1)}, {"n": 1}))

    def killed(*_: Any) -> None:
        raise Killed

    monkeypatch.setattr("iterppo.lm.checkpoint.os.replace", killed)
    with pytest.raises(Killed):
        checkpoint.save(Saved({"x": torch.zeros(1)}, {"n": 2}))
    saved = checkpoint.load()
    assert saved is not None
    assert saved.notes == {"n": 1}
    assert saved.tensors["x"].tolist() == [1.0]

    monkeypatch.undo()
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError("No space left"), SafetensorError("No space left")])
def test_a_full_disk_costs_the_checkpoint_and_not_the_training(
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    whole = train(None)

    def full(tensors: Any, file: Path, **_: Any) -> None:
        file.write_bytes(b"half")
        raise error

    monkeypatch.setattr("iterppo.lm.checkpoint.save_file", full)
    losses, weight, _ = train(Checkpoint(tmp_path / "state", key="a", every=4))

    assert losses == whole[0]
    assert torch.equal(weight, whole[1])
    assert "no checkpoint could be written (No space left)" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
