"""Fitting Q̂: one causal pass over a conversation scores all its turns.

    mc                       regress on Monte Carlo returns
    td-lambda, sarsa, fqe    start from there; then, sweep by sweep, regress on targets that the Q̂
                             of the sweep before makes of the next states (fitted Q iteration, whose
                             target network that is)

A member's targets are made of its own values: of common ones their spread would not know that the
targets are unsure themselves.

Of the Monte Carlo fit, the epoch that predicts best on a tenth of the training conversations, kept
out of the gradient, is the one that is kept: a reward that has memorised its noise is worse than
none. The held-out split is not looked at.

Shapes: N turns of a batch, M members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from iterppo.config import FitQConfig
from iterppo.lm.checkpoint import Checkpoint, Saved
from iterppo.lm.q_division import QDivision
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import Segment
from iterppo.lm.sharding import whole_parameters
from iterppo.lm.team import as_the_first_has_it, team
from iterppo.lm.training import minimise, token_batches
from iterppo.logs.splits import unit_hash
from iterppo.rl.q_targets import poisson_counts

VALIDATION_SHARE = 0.1
HALVES = -1
"""Seed of the hash that divides the training conversations into two."""
ROUNDING = 1e-9
"""How far a sum of rewards may lie beyond what it is a sum of."""
STATE_WEIGHT = 0.5
"""Of V̂'s loss beside Q̂'s: the backbone is Q̂'s in the first place."""


@dataclass(frozen=True)
class Target:
    """A segment, with return and weight at each of its ends; NaN and 0 where the return is
    unknown."""

    conversation_id: str
    segment: Segment
    returns: list[float]
    weights: list[float]
    own: list[list[float]] = field(default_factory=list)
    """What each member of Q̂ should say in the place of the return, at each end; empty: the
    return."""

    def of_members(self, number: int) -> list[list[float]]:
        """At each end, of so many members."""
        return self.own or [[value] * number for value in self.returns]

    @property
    def usable(self) -> bool:
        """Whether there is anything to learn from it."""
        return any(weight > 0 for weight in self.weights)


@dataclass(frozen=True)
class Fit:
    """How the fit went."""

    losses: list[float]
    validation: list[float]
    """Loss on the validation conversations, before training and after each epoch of the Monte Carlo
    fit."""
    best_epoch: int
    sweeps: list[float] = field(default_factory=list)
    """Root mean square change of the targets from each sweep to the next."""


def fit(
    q: QFunction,
    targets: Sequence[Target],
    config: FitQConfig,
    *,
    sweep: Callable[[], list[Target]] | None = None,
    checkpoint: Checkpoint | None = None,
    deepspeed: Path | None = None,
) -> Fit:
    """Fit Q̂ in place; leave it at its best epoch, or after the last sweep.

    Args:
        q: What is fitted.
        targets: Monte Carlo returns.
        config: Of the stage.
        sweep: For every method but mc: new targets, made by Q̂ as it is then.
        checkpoint: Where a fit that is killed can go on from.
        deepspeed: DeepSpeed's configuration, by which the processes share the weights in every
            regression; what makes targets between two of them is whole in each. None: without it.

    Raises:
        ValueError: If no target has a known return, or a return is outside [0, 1] under the bce
            loss.
        UsageError: If DeepSpeed's configuration is not one for a Q.
    """
    division = None if deepspeed is None else QDivision(q, deepspeed)
    as_the_first_has_it(q.parameters())  # adapters start at random
    saved = checkpoint.load() if checkpoint else None
    done = 0 if saved is None else int(saved.notes["sweep"])
    made = Fit([], [], 0) if done else _regress(q, targets, config, 0, checkpoint, division)
    if sweep is None:
        return made
    changes: list[float] = []
    current = list(targets)
    for number in range(max(1, done), config.sweeps + 1):
        if saved is not None and number == done:
            # The parameters are restored by `minimise`; the targets were made by those of before.
            current = _with_values(targets, saved)
            changes, made = saved.notes["changes"], Fit(**saved.notes["made"])
        else:
            before, current = current, sweep()
            changes.append(_change(before, current))
        found = _regress(
            q, current, config, number, checkpoint, division, made=made, changes=changes
        )
        made = replace(made, losses=made.losses + found.losses)
    return replace(made, sweeps=changes)


def is_validation(conversation_id: str, config: FitQConfig) -> bool:
    """Whether a training conversation is kept out of the gradient of the Monte Carlo fit."""
    return unit_hash(f"validation/{conversation_id}", seed=config.seed) < VALIDATION_SHARE


def is_in_part(conversation_id: str, config: FitQConfig) -> bool:
    """Whether a training conversation belongs to the part that Q is fitted on. The halves are the
    same for every seed: the fits of both may have different ones."""
    if config.part == "all":
        return True
    return (unit_hash(conversation_id, seed=HALVES) < 0.5) == (config.part == "first-half")


def _regress(
    q: QFunction,
    targets: Sequence[Target],
    config: FitQConfig,
    sweep: int,
    checkpoint: Checkpoint | None,
    division: QDivision | None,
    *,
    made: Fit | None = None,
    changes: Sequence[float] = (),
) -> Fit:
    """One regression on fixed targets; sweep 0 is the Monte Carlo fit."""
    usable = [target for target in targets if target.usable]
    _check(usable, config)
    kept_out = [sweep == 0 and is_validation(t.conversation_id, config) for t in usable]
    train = [t for t, out in zip(usable, kept_out, strict=True) if not out] or [*usable]
    validation = [t for t, out in zip(usable, kept_out, strict=True) if out]
    progress = _Progress(q, targets, sweep, made, list(changes))
    progress.note(_mean_loss(q, validation, config), better=True)

    def after_epoch(_: int) -> None:
        loss = _mean_loss(q, validation, config)
        progress.note(loss, better=not validation or loss < progress.lowest)
        q.model.train()

    # By the log's mean weight, not by the batch's own: batches hold conversations of one length,
    # weights depend on the length, and would cancel.
    weights = [w for target in train for w in target.weights if w > 0]
    mean_weight = sum(weights) / len(weights)
    draws = [draws_of(target.conversation_id, q.settings.members, config.seed) for target in train]

    here = team()

    def loss_of(batch: list[int]) -> torch.Tensor:
        # Every so many-th conversation of a batch is this process's; the mean over the processes
        # of these parts is the batch's loss. Who has none still takes part, with a loss of zero.
        own = batch[here.rank :: here.size]
        share = own or batch[:1]
        number = sum(weight > 0 for index in batch for weight in train[index].weights)
        total = _training_loss(
            q, [train[index] for index in share], [draws[index] for index in share], config
        )
        return total * (here.size if own else 0) / (number * mean_weight)

    torch.manual_seed(config.seed + sweep)
    q.model.train()
    losses = minimise(
        q.parameters(),
        loss_of,
        [len(target.segment.ids) for target in train],
        epochs=config.epochs if sweep == 0 else config.sweep_epochs,
        max_steps=config.max_steps,
        tokens_per_batch=config.tokens_per_batch,
        learning_rate=config.learning_rate if sweep == 0 else config.sweep_learning_rate,
        weight_decay=config.weight_decay,
        seed=config.seed + sweep,
        what="fit-q" if sweep == 0 else f"fit-q, sweep {sweep} of {config.sweeps}",
        after_epoch=after_epoch,
        checkpoint=checkpoint,
        companion=progress,
        divide=None if division is None else division.divide,
    )
    if division is not None:
        division.make_whole()
    progress.take_best()
    q.model.eval()
    return Fit(losses, progress.history, progress.best_epoch)


class _Progress:
    """What a regression must know besides parameters and optimiser: its best epoch so far, and its
    targets."""

    def __init__(
        self,
        q: QFunction,
        targets: Sequence[Target],
        sweep: int,
        made: Fit | None,
        changes: list[float],
    ) -> None:
        self._q, self._targets, self._sweep = q, targets, sweep
        self._made, self._changes = made, changes
        self.history: list[float] = []
        self.lowest = math.inf
        self.best_epoch = 0
        self._best: list[torch.Tensor] = []

    def note(self, loss: float, *, better: bool) -> None:
        """After an epoch."""
        self.history.append(loss)
        if better:
            self.lowest, self.best_epoch = loss, len(self.history) - 1
            self._best = whole_parameters(self._q.parameters())

    @torch.no_grad()
    def take_best(self) -> None:
        """Set the parameters to those of the best epoch."""
        for parameter, value in zip(self._q.parameters(), self._best, strict=True):
            parameter.copy_(value)

    def saved(self) -> Saved:
        """For the checkpoint."""
        tensors = {f"best.{number}": value for number, value in enumerate(self._best)}
        members = self._q.settings.members
        tensors["targets"] = torch.tensor(
            [
                [*each, *own]
                for t in self._targets
                for *each, own in zip(t.returns, t.weights, t.of_members(members), strict=True)
            ],
            dtype=torch.float64,
        )
        notes = {
            "sweep": self._sweep,
            "history": self.history,
            "lowest": self.lowest,
            "best_epoch": self.best_epoch,
            "changes": self._changes,
            "made": vars(self._made or Fit([], [], 0)),
        }
        return Saved(tensors, notes)

    def restore(self, saved: Saved) -> None:
        """From the checkpoint."""
        self.history, self.lowest = saved.notes["history"], saved.notes["lowest"]
        self.best_epoch = saved.notes["best_epoch"]
        device = self._q.model.device
        self._best = [saved.tensors[f"best.{n}"].to(device) for n in range(len(self._best))]


def _change(before: Sequence[Target], after: Sequence[Target]) -> float:
    """Root mean square difference of the targets that both have."""
    known = [
        (old - new) ** 2
        for a, b in zip(before, after, strict=True)
        for old, new, v, w in zip(a.returns, b.returns, a.weights, b.weights, strict=True)
        if v > 0 and w > 0
    ]
    return math.sqrt(sum(known) / len(known)) if known else math.nan


def _with_values(targets: Sequence[Target], saved: Saved) -> list[Target]:
    """The targets that a killed sweep had."""
    rows = iter(saved.tensors["targets"].tolist())
    found = []
    for t in targets:
        here = [next(rows) for _ in t.returns]
        columns = [each for each, *_ in here], [weight for _, weight, *_ in here]
        found.append(Target(t.conversation_id, t.segment, *columns, [own for _, _, *own in here]))
    return found


def draws_of(conversation_id: str, members: int, seed: int) -> list[int]:
    """How often each member's resample holds a conversation."""
    if members == 1:
        return [1]
    return poisson_counts(
        [unit_hash(f"member/{conversation_id}/{m}", seed=seed) for m in range(members)]
    )


def _check(targets: Sequence[Target], config: FitQConfig) -> None:
    known = [
        value
        for t in targets
        for g, own, w in zip(t.returns, t.of_members(1), t.weights, strict=True)
        for value in (g, *own)
        if w > 0
    ]
    if not known:
        raise ValueError("no training turn has both an action and a known return")
    if not all(math.isfinite(value) for value in known):
        raise ValueError("a return with a weight is not a finite number")
    # Shares of an outcome sum to it up to rounding.
    if config.loss == "bce" and not (min(known) >= -ROUNDING and max(known) <= 1 + ROUNDING):
        raise ValueError(
            f"returns lie in [{min(known):.3g}, {max(known):.3g}], and the loss bce needs [0, 1]. "
            "For such returns: --set fit-q.loss=squared"
        )


def _turn_losses(
    raw: torch.Tensor, targets: Sequence[Target], config: FitQConfig
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and weight (N,) of every turn, for outputs of shape (N,), or of members (N, M)."""
    weight_N = torch.tensor([w for t in targets for w in t.weights], device=raw.device)
    values = (t.returns if raw.ndim == 1 else t.of_members(raw.shape[1]) for t in targets)
    aim = torch.tensor([value for each in values for value in each], device=raw.device).nan_to_num()
    if config.loss == "bce":
        loss = torch.nn.functional.binary_cross_entropy_with_logits(raw, aim, reduction="none")
    else:
        loss = (raw - aim).square()
    return loss, weight_N


def _training_loss(
    q: QFunction, targets: Sequence[Target], draws: Sequence[list[int]], config: FitQConfig
) -> torch.Tensor:
    """Sum of the weighted losses of all turns: the members' mean on their own resamples, and
    V̂'s."""
    q_NM, v_N = q.outputs([target.segment for target in targets])
    loss_NM, weight_N = _turn_losses(q_NM, targets, config)
    drawn_NM = torch.tensor(
        [d for t, d in zip(targets, draws, strict=True) for _ in t.weights], device=q_NM.device
    )
    state_loss_N, _ = _turn_losses(v_N, targets, config)
    loss_N = (loss_NM * drawn_NM).mean(dim=1) + STATE_WEIGHT * state_loss_N
    return (loss_N * weight_N).sum()


@torch.no_grad()
def _mean_loss(q: QFunction, targets: Sequence[Target], config: FitQConfig) -> float:
    if not targets:
        return math.inf
    q.model.eval()
    total = mass = 0.0
    lengths = [len(target.segment.ids) for target in targets]
    for batch in token_batches(lengths, tokens_per_batch=config.tokens_per_batch, seed=None):
        chosen = [targets[index] for index in batch]
        loss_N, weight_N = _turn_losses(q.raw([t.segment for t in chosen]), chosen, config)
        total += float((loss_N * weight_N).sum())
        mass += float(weight_N.sum())
    return total / mass
