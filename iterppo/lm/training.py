"""The supervised loop that behaviour cloning and Q fitting share: token-bounded batches, AdamW,
warm-up and cosine."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import torch

from iterppo.errors import DivergenceError
from iterppo.lm.checkpoint import Checkpoint, Companion, Saved
from iterppo.lm.sharding import restore_optimiser, restore_parameters, whole_training_state
from iterppo.lm.steps import MakeSteps, WholeSteps
from iterppo.lm.team import average, team
from iterppo.progress import progress

Item = TypeVar("Item")


def token_batches(
    lengths: Sequence[int], *, tokens_per_batch: int, seed: int | None
) -> list[list[int]]:
    """Indices of sequences in batches of at most `tokens_per_batch` tokens, padding included (one
    sequence at least).

    Sequences of similar length share a batch. With a seed, ties of length and the order of batches
    are random.
    """
    generator = random.Random(seed)
    order = list(range(len(lengths)))
    if seed is not None:
        generator.shuffle(order)
    order.sort(key=lambda index: lengths[index])
    batches: list[list[int]] = []
    for index in order:
        # Sorted ascending, so this sequence is the longest of the batch it would join.
        if batches and (len(batches[-1]) + 1) * lengths[index] <= tokens_per_batch:
            batches[-1].append(index)
        else:
            batches.append([index])
    if seed is not None:
        generator.shuffle(batches)
    return batches


def right_pad(sequences: Sequence[Sequence[int]], *, value: int) -> torch.Tensor:
    """Integer sequences as one (B, T) tensor."""
    length = max(len(sequence) for sequence in sequences)
    return torch.tensor(
        [[*sequence, *[value] * (length - len(sequence))] for sequence in sequences]
    )


def minimise(
    parameters: Sequence[torch.nn.Parameter],
    loss_of: Callable[[list[int]], torch.Tensor],
    lengths: Sequence[int],
    *,
    epochs: float,
    max_steps: int,
    tokens_per_batch: int,
    learning_rate: float,
    weight_decay: float,
    seed: int,
    what: str,
    after_epoch: Callable[[int], None] | None = None,
    checkpoint: Checkpoint | None = None,
    companion: Companion | None = None,
    divide: MakeSteps | None = None,
) -> list[float]:
    """Minimise a loss over batches of sequences; returns the loss of every step.

    Where several processes train together, the loss of a batch is the mean of theirs.

    Args:
        parameters: What is trained.
        loss_of: From the indices of a batch to its loss, or to this process's part of it.
        lengths: Tokens of each sequence.
        epochs: Passes; may be a fraction.
        max_steps: Upper limit of the steps.
        tokens_per_batch: See `token_batches`.
        learning_rate: Peak; linear warm-up over 5 % of the steps, then a cosine to zero.
        weight_decay: Of AdamW, on matrices alone.
        seed: Of the order of batches.
        what: Name for the progress line.
        after_epoch: Called with the number of each whole pass.
        checkpoint: Where to save, and to go on from if something of this name was saved there.
        companion: What is saved and restored along.
        divide: Divides parameters and optimiser among the processes; None: each has all.

    Raises:
        DivergenceError: If the loss, or in the end a weight, is not a finite number.
    """
    per_epoch = len(token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=seed))
    num_steps = max(1, min(max_steps, round(epochs * per_epoch)))
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=learning_rate,
        betas=(0.9, 0.98),
    )
    warmup = max(1, round(0.05 * num_steps))

    def rate(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, num_steps - warmup)))

    peak = [group["lr"] for group in optimiser.param_groups]
    losses: list[float] = []
    batches = _endless(lengths, tokens_per_batch=tokens_per_batch, seed=seed)
    saved = checkpoint.load() if checkpoint else None
    if saved is not None and saved.notes["what"] != what:
        saved = None
    if saved is not None:
        restore_parameters(saved.tensors, parameters)
    steps = WholeSteps(optimiser, parameters) if divide is None else divide(optimiser)
    if saved is not None:
        restore_optimiser(saved.tensors, parameters, steps.optimiser)
        losses = saved.notes["losses"]
        if companion is not None:
            companion.restore(saved)
        for _ in losses:
            next(batches)

    def diverged(how: str) -> DivergenceError:
        """The same command would go on from the checkpoint to the same end, so it goes."""
        if checkpoint is not None and team().leads:
            checkpoint.remove()
        return DivergenceError(
            f"{what}: the training diverged: {how}. Lower its learning rate, {learning_rate:g}."
        )

    for step in progress(
        range(len(losses), num_steps), what, total=num_steps - len(losses), unit="steps"
    ):
        for group, highest in zip(optimiser.param_groups, peak, strict=True):
            group["lr"] = highest * rate(step)
        loss = loss_of(next(batches))
        steps.backward(loss)
        loss = loss.detach().clone()
        average([loss])
        if not torch.isfinite(loss):
            raise diverged(f"the loss is {loss.item()} at step {step + 1} of {num_steps}")
        steps.step()
        losses.append(float(loss))
        if after_epoch is not None and ((step + 1) % per_epoch == 0 or step + 1 == num_steps):
            after_epoch((step + 1) // per_epoch)
        if checkpoint is not None and (step + 1) % checkpoint.every == 0:
            tensors = whole_training_state(parameters, steps.optimiser)
            if team().leads:
                beside = Saved({}, {}) if companion is None else companion.saved()
                notes = {**beside.notes, "what": what, "losses": losses}
                checkpoint.save(Saved(tensors | beside.tensors, notes))
    if not all(torch.isfinite(parameter).all() for parameter in parameters):
        raise diverged(f"the weights are not finite behind step {num_steps} of {num_steps}")
    return losses


def _endless(lengths: Sequence[int], *, tokens_per_batch: int, seed: int) -> Iterator[list[int]]:
    epoch = 0
    while True:
        yield from token_batches(
            lengths, tokens_per_batch=tokens_per_batch, seed=seed * 1_000_003 + epoch
        )
        epoch += 1
