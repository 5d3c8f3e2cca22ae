"""Fitting Q̂ to Monte Carlo returns: one causal pass over a conversation scores all its turns.

The epoch that predicts best on a tenth of the training conversations, kept out of the gradient, is
the one that is kept: a reward that has memorised its noise is worse than none. The held-out split
is not looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from iterppo.config import FitQConfig
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import Segment
from iterppo.lm.training import minimise, token_batches
from iterppo.logs.splits import unit_hash

VALIDATION_SHARE = 0.1


@dataclass(frozen=True)
class Target:
    """A segment, with return and weight at each of its ends; NaN and 0 where the return is
    unknown."""

    conversation_id: str
    segment: Segment
    returns: list[float]
    weights: list[float]

    @property
    def usable(self) -> bool:
        """Whether there is anything to learn from it."""
        return any(weight > 0 for weight in self.weights)


@dataclass(frozen=True)
class Fit:
    """How the fit went."""

    losses: list[float]
    validation: list[float]
    """Loss on the validation conversations, before training and after each epoch."""
    best_epoch: int


def fit(q: QFunction, targets: Sequence[Target], config: FitQConfig) -> Fit:
    """Fit Q̂ in place and leave it at its best epoch.

    Raises:
        ValueError: If no target has a known return, or a return is outside [0, 1] under the bce
        loss.
    """
    usable = [target for target in targets if target.usable]
    _check(usable, config)
    is_validation = [
        unit_hash(t.conversation_id, seed=config.seed + 1) < VALIDATION_SHARE for t in usable
    ]
    train = [t for t, kept_out in zip(usable, is_validation, strict=True) if not kept_out] or usable
    validation = [t for t, kept_out in zip(usable, is_validation, strict=True) if kept_out]
    history = [_mean_loss(q, validation, config)]
    best = (history[0], 0, _copy(q))

    def after_epoch(_: int) -> None:
        nonlocal best
        history.append(_mean_loss(q, validation, config))
        if not validation or history[-1] < best[0]:
            best = (history[-1], len(history) - 1, _copy(q))
        q.model.train()

    # By the log's mean weight, not by the batch's own: batches hold conversations of one length,
    # weights depend on the length, and would cancel.
    weights = [w for target in train for w in target.weights if w > 0]
    mean_weight = sum(weights) / len(weights)

    def loss_of(batch: list[int]) -> torch.Tensor:
        total, _, number = _weighted_loss(q, [train[index] for index in batch], config)
        return total / (number * mean_weight)

    torch.manual_seed(config.seed)
    q.model.train()
    losses = minimise(
        list(q.model.parameters()),
        loss_of,
        [len(target.segment.ids) for target in train],
        epochs=config.epochs,
        max_steps=config.max_steps,
        tokens_per_batch=config.tokens_per_batch,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed,
        what="fit-q",
        after_epoch=after_epoch,
    )
    q.model.load_state_dict(best[2])
    q.model.eval()
    return Fit(losses, history, best[1])


def _check(targets: Sequence[Target], config: FitQConfig) -> None:
    known = [g for t in targets for g, w in zip(t.returns, t.weights, strict=True) if w > 0]
    if not known:
        raise ValueError("no training turn has both an action and a known return")
    if not all(math.isfinite(value) for value in known):
        raise ValueError("a return with a weight is not a finite number")
    if config.loss == "bce" and not (min(known) >= 0 and max(known) <= 1):
        raise ValueError(
            f"returns lie in [{min(known):.3g}, {max(known):.3g}]; the bce loss needs [0, 1]"
        )


def _weighted_loss(
    q: QFunction, targets: Sequence[Target], config: FitQConfig
) -> tuple[torch.Tensor, float, int]:
    """Sum of the weighted losses of all turns, sum of their weights, and number of those that have
    one."""
    raw_N = q.raw([target.segment for target in targets])
    weight_N = torch.tensor([w for t in targets for w in t.weights], device=raw_N.device)
    return_N = torch.tensor(
        [g for t in targets for g in t.returns], device=raw_N.device
    ).nan_to_num()
    if config.loss == "bce":
        loss_N = torch.nn.functional.binary_cross_entropy_with_logits(
            raw_N, return_N, reduction="none"
        )
    else:
        loss_N = (raw_N - return_N).square()
    return (loss_N * weight_N).sum(), float(weight_N.sum()), int((weight_N > 0).sum())


@torch.no_grad()
def _mean_loss(q: QFunction, targets: Sequence[Target], config: FitQConfig) -> float:
    if not targets:
        return math.inf
    q.model.eval()
    total = mass = 0.0
    lengths = [len(target.segment.ids) for target in targets]
    for batch in token_batches(lengths, tokens_per_batch=config.tokens_per_batch, seed=None):
        loss, weight, _ = _weighted_loss(q, [targets[index] for index in batch], config)
        total += float(loss)
        mass += weight
    return total / mass


def _copy(q: QFunction) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in q.model.state_dict().items()}
