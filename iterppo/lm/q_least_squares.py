"""Fitting the heads of Q̂ and V̂ in closed form, on the policy's backbone as it is.

    lstd     V̂ is the fixed point of r + γ V̂(s'), Q̂ the regression on it
    lstdq    Q̂ is the fixed point of r + γ Q̂(s', a') over actions a' of the policy to evaluate

A policy that was cloned from conversations has learned to say what follows what, and reads both
sides; what its last hidden states say of an outcome is found by one pass over the log and one
system of equations (`iterppo.rl.least_squares`). Nothing is trained, so nothing is overfitted but
the heads, which a ridge holds: the one whose Q̂ predicts the returns of left-out conversations best.

The same pass tells what heads of the other conversations think of each fold (lstd): all of a fit
but the backbone is made anew without it.

Shapes: N turns, T transitions, D features (`iterppo.lm.q_heads`), H hidden, M members, F folds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from iterppo.config import FitQConfig
from iterppo.lm.branches import branch_features
from iterppo.lm.q_examples import Examples
from iterppo.lm.q_fitting import draws_of
from iterppo.lm.q_function import Estimate, QFunction
from iterppo.lm.q_heads import Features, Heads
from iterppo.lm.q_log import Conversation, of_actions
from iterppo.lm.q_transitions import Transitions
from iterppo.logs.splits import unit_hash
from iterppo.progress import progress
from iterppo.rl.least_squares import Array, Errors, Moments

RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4)
"""Tried, in transitions."""
OWN_HEAD_RIDGE = 10.0
"""Of the model's own head, where the heads are not linear, in turns."""
FOLDS = 5
CONVERSATIONS_AT_ONCE = 256
"""Whose features are held in memory."""

NextActions = Mapping[tuple[str, int], Sequence[str]]
"""By conversation and turn (from 1), what the policy to evaluate would do."""


@dataclass(frozen=True)
class LeastSquares:
    """How the fit went."""

    ridge: float
    """The one that was taken, in transitions."""
    errors: dict[float, float]
    """Mean squared error of Q̂ for the returns of left-out conversations, by ridge; empty where the
    ridge was given. Their heads have not seen these conversations, the directions of the features
    have: it is for choosing the ridge, not for telling how good Q̂ is."""
    left_out: Sequence[Heads] = ()
    """By fold, those of a fit that never saw it, with one member; none where nobody asked, or where
    the other folds were too few to fit on."""
    config: FitQConfig | None = None
    split_by: str = "conversation"

    def left_out_estimates(
        self, q: QFunction, conversations: Sequence[Conversation]
    ) -> list[list[list[Estimate]]]:
        """What the heads that never saw a conversation think of it, by its segments and their ends.

        Args:
            q: That was fitted.
            conversations: Of those it was fitted on.
        """
        assert self.config is not None
        found = []
        shown = progress(conversations, "fit-q: left out", total=len(conversations), unit="")
        for c in shown:
            heads = self.left_out[_fold_of(c, self.config, self.split_by)]
            found.append([q.estimates_of(read, heads) for read in q.features(c.segments)])
        return found


def fit_least_squares(
    q: QFunction,
    conversations: Sequence[Conversation],
    config: FitQConfig,
    *,
    gamma: float,
    actions: NextActions | None = None,
    earlier: Sequence[Conversation] = (),
    split_by: str = "conversation",
    leave_out: bool = False,
) -> LeastSquares:
    """Set the heads of Q̂ and V̂ in place.

    Args:
        q: What is fitted; its values are linear in its heads (loss `squared`).
        conversations: To fit on.
        earlier: Others, of earlier policies. What an action led to they tell as well; V̂, which says
            what that is worth, is of `conversations` alone: so Q̂ is of their policy (lstd).
        config: Of the stage.
        gamma: Discount per turn, in [0, 1].
        actions: lstdq: what the policy to evaluate would do. None: lstd.
        split_by: What a fold never divides (`ingest.split_by`).
        leave_out: Whether to fit without each fold as well (lstd).

    Raises:
        ValueError: If no turn's fate is known, or there is no solution.
    """
    assert q.settings.loss == "squared", "a sigmoid is not linear"
    members = q.settings.members

    def fold_of(c: Conversation) -> int:
        return _fold_of(c, config, split_by)

    examples = None
    if config.compared_turns:
        examples = Examples.of(q, [*conversations, *earlier], config, fold_of=fold_of)
    whole = _Fit.of(q, examples, config, members=members, own=actions is None)
    q.heads = whole.heads
    others: list[_Fit] = []
    if leave_out and examples is not None:
        others = [
            _Fit.of(q, examples.without(fold), config, without=fold)
            for fold in range(FOLDS)
            if examples.has_others(fold)
        ]
    parts = [
        (log[start : start + CONVERSATIONS_AT_ONCE], log is conversations)
        for log in (conversations, earlier)
        for start in range(0, len(log), CONVERSATIONS_AT_ONCE)
    ]
    for some, own in progress(parts, "fit-q: reading", total=len(parts), unit="parts"):
        read = _joined(q.features([s for c in some for s in c.segments]))
        if read is None:  # no turn fits the context
            continue
        valued, following = (
            (_own_states(some), None) if actions is None else _asked(q, some, actions)
        )
        found = Transitions.of(
            some,
            valued,
            gamma=gamma,
            members=members,
            draws_of=lambda c: draws_of(c.conversation_id, members, config.seed),
            fold_of=fold_of,
        )
        for each in (whole, *others):
            each.add(found, read, value=own, following=following)
    if whole.moments.of(whole.folds).value_mass_G[0] == 0:
        raise ValueError("no training turn has both an action and a known fate")
    ridge, errors = whole.solve(config)
    left_out: list[Heads] = []
    if leave_out:
        # Features that are not learned are the same without a fold, and so are their sums.
        shared = map(whole.without_fold, range(FOLDS))
        left_out = _solved(shared if examples is None else others, config)
    with torch.no_grad():
        if examples is not None:
            q.own_head = _nearest(q, examples)
    return LeastSquares(ridge, errors, left_out, config, split_by)


@dataclass(frozen=True)
class _Fit:
    """Heads, and the sums that they are solved from.

    Args:
        heads: To be set.
        moments: Of groups: members, then folds.
        errors: Of folds.
        without: The fold that is left out.
        own: Whether the log is of the policy whose Q is asked for (lstd).
    """

    heads: Heads
    moments: Moments
    errors: Errors
    without: int | None
    own: bool

    @classmethod
    def of(
        cls,
        q: QFunction,
        examples: Examples | None,
        config: FitQConfig,
        *,
        members: int = 1,
        without: int | None = None,
        own: bool = True,
    ) -> _Fit:
        """Nothing read yet."""
        heads = q.heads
        if examples is not None:
            width = q.backbone.config.hidden_size
            heads = Heads(width, members, predictive=examples.predictive(config))
        pair, state = heads.members.weight.shape[1], heads.state.weight.shape[1]
        value, regression = (state, pair) if own else (pair, state)
        groups = FOLDS + (members if without is None else 0)
        return cls(
            heads.to(q.model.device),
            Moments.empty(groups=groups, value=value, regression=regression),
            Errors.empty(groups=FOLDS, features=pair),
            without,
            own,
        )

    @property
    def members(self) -> int:
        """Groups before the folds: members that have a head of their own."""
        return len(self.moments.mass_G) - FOLDS

    @property
    def folds(self) -> range:
        """Their groups."""
        return range(self.members, self.members + FOLDS)

    def add(
        self, found: Transitions, read: Features, *, value: bool, following: Array | None
    ) -> None:
        """Transitions.

        Args:
            found: Them.
            read: What was read of their turns.
            value: Whether they are of the policy whose value is asked for.
            following: lstdq: features of the next states; None: those of the turns' own.
        """
        pair_ND, state_ND = (each.numpy() for each in _lifted(self.heads, read))
        lead_ND, follow_ND = (state_ND, pair_ND) if self.own else (pair_ND, state_ND)
        valued_ND = state_ND if following is None else following
        t, r = found.fold_T != self.without, found.told_fold_R != self.without
        if t.any():
            rows, next_T = found.turn_T[t], found.next_T[t]
            after_TD = found.discount_T[t, None].astype(lead_ND.dtype) * np.where(
                next_T[:, None] >= 0, valued_ND[next_T], 0
            )
            folds_TF = np.eye(FOLDS)[found.fold_T[t]]
            weight_TG = np.hstack([found.draws_TM[t, : self.members], folds_TF])
            self.moments.add(
                lead_ND[rows], after_TD, follow_ND[rows], found.reward_T[t], weight_TG, value=value
            )
        if value and r.any():
            weight_RF = found.weight_R[r, None] * np.eye(FOLDS)[found.told_fold_R[r]]
            self.errors.add(pair_ND[found.told_R[r]], found.return_R[r], weight_RF)

    def without_fold(self, fold: int) -> _Fit:
        """Of the same sums, where features do not depend on the log."""
        heads = Heads(self.heads.width, 1).to(self.heads.state.weight.device)
        return replace(self, heads=heads, without=fold)

    def solve(self, config: FitQConfig) -> tuple[float, dict[float, float]]:
        """Set the heads; the ridge, and what was found of each that was tried.

        Raises:
            ValueError: If there is no solution that is finite.
        """
        kept = [fold for fold in range(FOLDS) if fold != self.without]
        tried: dict[float, float] = {}
        if config.ridge == 0:
            for ridge in RIDGES:
                tried[ridge] = left_out_error(
                    self.moments,
                    self.errors,
                    ridge,
                    members=self.members,
                    own=self.own,
                    folds=kept,
                )
        ridge = config.ridge or min(RIDGES, key=tried.__getitem__)
        state_D, head_D = self._order(
            self.moments.of([self.members + fold for fold in kept]).solve(ridge)
        )
        heads_MD = np.stack([head_D] * len(self.heads.members.weight))
        for member in range(len(heads_MD) if len(heads_MD) > 1 else 0):
            if self.moments.value_mass_G[member] > 0:  # a resample of a few may hold none
                _, heads_MD[member] = self._order(self.moments.solve(ridge, group=member))
        with torch.no_grad():
            self.heads.state.weight.copy_(torch.from_numpy(state_D[None]))
            self.heads.members.weight.copy_(torch.from_numpy(heads_MD))
        return ridge, tried

    def _order(self, solved: tuple[Array, Array]) -> tuple[Array, Array]:
        """V̂'s and Q̂'s, of value and regression."""
        value_D, regression_D = solved
        return (value_D, regression_D) if self.own else (regression_D, value_D)


def left_out_error(
    moments: Moments,
    errors: Errors,
    ridge: float,
    *,
    members: int = 0,
    own: bool = True,
    folds: Sequence[int] = range(FOLDS),
) -> float:
    """Mean squared error for the returns of each fold, of a head that the others gave.

    Args:
        moments: Of groups: members, then folds.
        errors: Of folds.
        ridge: In transitions.
        members: Their number.
        own: Whether the head is Q̂'s own; of a policy whose returns nobody has seen it is that of
            the regression on the returns of the log.
        folds: All that there are to learn from.
    """
    total = mass = 0.0
    for fold in folds:
        others = [other for other in folds if other != fold]
        try:
            if own:
                _, head_D = moments.of([members + other for other in others]).solve(ridge)
            else:
                head_D = errors.of(others).least(ridge)
        except ValueError:
            return math.inf
        total += errors.squared(head_D, group=fold)
        mass += errors.mass_G[fold]
    return total / mass if mass > 0 else math.nan


def _solved(fits: Iterable[_Fit], config: FitQConfig) -> list[Heads]:
    """The heads of every fold's fit; none where one of them has too little to learn from."""
    found = []
    for fit in fits:
        if (
            fit.moments.of(
                [fit.members + f for f in range(FOLDS) if f != fit.without]
            ).value_mass_G[0]
            == 0
        ):
            return []
        try:
            fit.solve(config)
        except ValueError:
            return []
        found.append(fit.heads)
    return found if len(found) == FOLDS else []


def _fold_of(c: Conversation, config: FitQConfig, split_by: str) -> int:
    return int(unit_hash(f"fold/{c.kept_together(split_by)}", seed=config.seed) * FOLDS)


def _nearest(q: QFunction, examples: Examples) -> torch.Tensor:
    """The head (H,) of the last hidden state alone whose values are nearest to Q̂'s."""
    pair_ND = torch.cat([examples.pair_NH, examples.x_ND], dim=1)
    with torch.no_grad():
        value_N = q.heads.of_pairs(pair_ND.to(q.model.device)).mean(dim=1).double().cpu()
    near = Errors.empty(groups=1, features=examples.pair_NH.shape[1])
    near.add(examples.pair_NH.numpy(), value_N.numpy(), np.ones((len(value_N), 1)))
    return torch.from_numpy(near.least(OWN_HEAD_RIDGE))


def _joined(read: Sequence[Features]) -> Features | None:
    """Of all segments, one after another; None where there are none."""
    return Features(*map(torch.cat, zip(*read, strict=True))) if read else None


@torch.no_grad()
def _lifted(heads: Heads, read: Features) -> Features:
    """What is linear in the heads."""
    device = heads.state.weight.device
    found = heads.lifted(Features(*(each.to(device) for each in read)))
    return Features(*(each.cpu() for each in found))


def _own_states(conversations: Sequence[Conversation]) -> list[dict[int, int]]:
    """Of each turn that is read, by its index, its number among all that are."""
    numbers = itertools.count()
    return [
        {index: next(numbers) for segment in c.segments for index, _ in segment.ends}
        for c in conversations
    ]


@torch.no_grad()
def _asked(
    q: QFunction, conversations: Sequence[Conversation], actions: NextActions
) -> tuple[list[dict[int, int]], Array]:
    """Of each turn with other actions, by its index, a row; and the rows (N, D): φ' of its state,
    the mean over them."""
    asked = of_actions(conversations, actions, lambda requests: branch_features(q, requests))
    rows: list[Array] = []
    found: list[dict[int, int]] = []
    for one in asked:
        here = {}
        for n, each in one.items():
            known = [x_D for x_D in each if x_D is not None]
            if known:
                here[n] = len(rows)
                lifted_ND = q.heads.lifted_pairs(torch.stack(known).to(q.model.device))
                rows.append(lifted_ND.mean(dim=0).cpu().numpy())
        found.append(here)
    return found, np.stack(rows) if rows else np.zeros((1, 1))
