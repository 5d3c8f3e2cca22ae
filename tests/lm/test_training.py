"""The supervised loop: batches that cover everything once, and a loss that goes down or stops."""

import math
import random
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from iterppo.config import FitQConfig
from iterppo.errors import DivergenceError
from iterppo.lm.checkpoint import Checkpoint
from iterppo.lm.training import minimise, right_pad, token_batches

some_lengths = st.lists(st.integers(1, 50), max_size=40)
a_seed = st.one_of(st.none(), st.integers(0, 5))


@settings(deadline=None)
@given(lengths=some_lengths, limit=st.integers(1, 120), seed=a_seed)
def test_batches_hold_every_sequence_once_and_no_more_tokens_than_the_limit(
    lengths: list[int], limit: int, seed: int | None
) -> None:
    batches = token_batches(lengths, tokens_per_batch=limit, seed=seed)

    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    for batch in batches:
        padded = len(batch) * max(lengths[index] for index in batch)
        assert padded <= limit or len(batch) == 1


@settings(deadline=None)
@given(lengths=some_lengths, seed=a_seed)
def test_the_number_of_batches_does_not_depend_on_the_seed(
    lengths: list[int], seed: int | None
) -> None:
    counts = {
        len(token_batches(lengths, tokens_per_batch=60, seed=other)) for other in (seed, None, 7, 8)
    }
    assert len(counts) == 1


def test_batches_depend_on_the_seed_and_on_nothing_else() -> None:
    lengths = [n % 7 + 1 for n in range(60)]

    def batches(seed: int | None) -> list[list[int]]:
        return token_batches(lengths, tokens_per_batch=20, seed=seed)

    assert batches(1) == batches(1)
    assert batches(1) != batches(2)
    assert batches(None) == batches(None)
    flat = [index for batch in batches(None) for index in batch]
    assert flat == sorted(range(60), key=lambda n: lengths[n])


def test_right_padding_is_on_the_right() -> None:
    assert right_pad([[1, 2, 3], [4]], value=9).tolist() == [[1, 2, 3], [4, 9, 9]]


# --- minimise ---


class Regression:
    """y = w·x + b, from 64 exact examples."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.x_NK = torch.randn(64, 3)
        self.y_N = self.x_NK @ torch.tensor([1.0, -2.0, 0.5]) + 0.3
        self.weight = torch.nn.Parameter(torch.zeros(3, 1))
        self.bias = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[list[int]] = []

    def loss(self, batch: list[int]) -> torch.Tensor:
        self.seen.append(batch)
        predicted = (self.x_NK[batch] @ self.weight).squeeze(1) + self.bias
        return (predicted - self.y_N[batch]).square().mean()

    def run(
        self,
        *,
        epochs: float = 40,
        max_steps: int = 10_000,
        weight_decay: float = 0.0,
        learning_rate: float = 0.05,
        seed: int = 3,
        epochs_seen: list[int] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> list[float]:
        return minimise(
            [self.weight, self.bias],
            self.loss,
            [1] * 64,
            epochs=epochs,
            max_steps=max_steps,
            tokens_per_batch=16,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            seed=seed,
            what="test",
            after_epoch=None if epochs_seen is None else epochs_seen.append,
            checkpoint=checkpoint,
        )


def test_a_regression_is_learned() -> None:
    problem = Regression()
    losses = problem.run()

    assert len(losses) == 160
    assert losses[0] > 1
    assert losses[-1] < 1e-4
    assert problem.weight.flatten().tolist() == pytest.approx([1.0, -2.0, 0.5], abs=0.02)
    assert problem.bias.item() == pytest.approx(0.3, abs=0.02)


def test_every_epoch_sees_every_example_once_and_in_another_order() -> None:
    problem = Regression()
    problem.run(epochs=2)
    first, second = problem.seen[:4], problem.seen[4:]

    for epoch in (first, second):
        assert sorted(index for batch in epoch for index in batch) == list(range(64))
    assert first != second


def test_training_depends_on_the_seed_and_on_nothing_else() -> None:
    results = []
    for seed in (3, 3, 4):
        problem = Regression()
        problem.run(epochs=1, seed=seed)
        results.append(problem.weight.flatten().tolist())

    assert results[0] == results[1]
    assert results[0] != results[2]


@pytest.mark.parametrize(
    ("epochs", "max_steps", "steps"),
    [(1.5, 1000, 6), (5, 7, 7), (0.01, 1000, 1)],
    ids=["a fraction", "the upper limit", "one at least"],
)
def test_the_number_of_steps_is_as_configured(epochs: float, max_steps: int, steps: int) -> None:
    assert len(Regression().run(epochs=epochs, max_steps=max_steps)) == steps


@pytest.mark.parametrize(
    ("epochs", "calls"), [(2, 2), (2.5, 3), (0.5, 1)], ids=["whole", "and a half", "half of one"]
)
def test_the_end_of_an_epoch_is_told_once_and_the_end_of_training_too(
    epochs: float, calls: int
) -> None:
    seen: list[int] = []
    Regression().run(epochs=epochs, epochs_seen=seen)

    assert len(seen) == calls


def test_weight_decay_is_for_matrices_alone() -> None:
    problem = Regression()
    with torch.no_grad():
        problem.weight.fill_(1.0)
        problem.bias.fill_(1.0)
    problem.loss = lambda batch: 0.0 * (problem.weight.sum() + problem.bias.sum())  # type: ignore[method-assign]
    problem.run(weight_decay=0.5)

    assert problem.weight.max().item() < 0.9
    assert problem.bias.item() == 1.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_the_training_before_it_harms(bad: float) -> None:
    problem = Regression()
    good = problem.loss
    problem.loss = lambda batch: good(batch) * (bad if len(problem.seen) == 3 else 1)  # type: ignore[method-assign]

    said = rf"the training diverged: the loss is {bad} at step 3 of \d+\. Lower its learning rate, "
    with pytest.raises(DivergenceError, match=said):
        problem.run()
    assert torch.isfinite(problem.weight).all()


def test_weights_that_are_no_numbers_in_the_end_are_not_given_away() -> None:
    problem = Regression()

    with pytest.raises(DivergenceError, match="the weights are not finite behind step 1 of 1"):
        problem.run(max_steps=1, learning_rate=math.inf)


def test_from_a_training_that_diverged_nobody_goes_on(tmp_path: Path) -> None:
    problem = Regression()
    good = problem.loss
    problem.loss = lambda batch: good(batch) * (math.nan if len(problem.seen) == 3 else 1)  # type: ignore[method-assign]

    with pytest.raises(DivergenceError):
        problem.run(checkpoint=Checkpoint(tmp_path / "saved.safetensors", key="", every=1))
    assert list(tmp_path.iterdir()) == []


def test_hardly_anything_is_padding_where_q_is_fitted() -> None:
    # A thousand conversations, of a few tokens to a few hundred.
    tokens_per_batch = FitQConfig().tokens_per_batch
    generator = random.Random(0)
    lengths = [min(500, max(5, round(generator.lognormvariate(4.8, 0.6)))) for _ in range(1000)]
    batches = token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=1)
    computed = sum(len(batch) * max(lengths[index] for index in batch) for batch in batches)

    assert sorted(index for batch in batches for index in batch) == list(range(1000))
    assert 1 - sum(lengths) / computed < 0.05
