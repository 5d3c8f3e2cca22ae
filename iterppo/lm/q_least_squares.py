"""Fitting the heads of Q̂ and V̂ in closed form, on the policy's backbone as it is.

    lstd     V̂ is the fixed point of r + γ V̂(s'), Q̂ the regression on it
    lstdq    Q̂ is the fixed point of r + γ Q̂(s', a') over actions a' of the policy to evaluate

A policy that was cloned from conversations has learned to say what follows what, and reads both
sides; what its last hidden states say of an outcome is found by one pass over the log and one
system of equations (`iterppo.rl.least_squares`). Nothing is trained, so nothing is overfitted but
the heads, which a ridge holds: the one whose Q̂ predicts the returns of left-out conversations best.

Shapes: N transitions, D features (`iterppo.lm.q_heads`), H hidden, M members, F folds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from iterppo.config import FitQConfig
from iterppo.lm.branches import branch_features
from iterppo.lm.predictive_state import PredictiveState
from iterppo.lm.q_fitting import draws_of
from iterppo.lm.q_function import QFunction
from iterppo.lm.q_heads import Features, Heads
from iterppo.lm.q_log import Conversation, of_actions
from iterppo.logs.splits import unit_hash
from iterppo.progress import progress
from iterppo.rl.least_squares import Array, Errors, Moments

RIDGES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1e3, 3e3, 1e4, 3e4)
"""Tried, in transitions."""
EXAMPLES_PER_ROW = 16
"""Turns of the log that tell what the future depends on, for every one that states are compared
with."""
LATER = 0.9
"""Weight of a message, as a share of that of the one before, in all that follows."""
OWN_HEAD_RIDGE = 10.0
"""Of the model's own head, where the heads are not linear, in turns."""
FOLDS = 5
CONVERSATIONS_AT_ONCE = 256
"""Whose features are held in memory."""


@dataclass(frozen=True)
class LeastSquares:
    """How the fit went."""

    ridge: float
    """The one that was taken, in transitions."""
    errors: dict[float, float]
    """Mean squared error of Q̂ for the returns of left-out conversations, by ridge; empty where the
    ridge was given. Their heads have not seen these conversations, the directions of the features
    have: it is for choosing the ridge, not for telling how good Q̂ is."""


class _Transition(NamedTuple):
    """From a turn to the next one whose value is known, or to the end (None)."""

    turn: int
    reward: float
    """Discounted, from the turn on."""
    discount: float
    next_turn: int | None


def fit_least_squares(
    q: QFunction,
    conversations: Sequence[Conversation],
    config: FitQConfig,
    *,
    gamma: float,
    actions: Mapping[tuple[str, int], Sequence[str]] | None = None,
    earlier: Sequence[Conversation] = (),
) -> LeastSquares:
    """Set the heads of Q̂ and V̂ in place.

    Args:
        q: What is fitted; its values are linear in its heads (loss `squared`).
        conversations: To fit on.
        earlier: Others, of earlier policies. What an action led to they tell as well; V̂, which says
            what that is worth, is of `conversations` alone: so Q̂ is of their policy (lstd).
        config: Of the stage.
        gamma: Discount per turn, in [0, 1].
        actions: lstdq: by conversation and turn (from 1), what the policy to evaluate would do.
            None: lstd.

    Raises:
        ValueError: If no turn's fate is known, or there is no solution.
    """
    assert q.settings.loss == "squared", "a sigmoid is not linear"
    examples = _lift(q, [*conversations, *earlier], config) if config.compared_turns else None
    members = q.settings.members
    pair, state = q.heads.members.weight.shape[1], q.heads.state.weight.shape[1]
    value, regression = (state, pair) if actions is None else (pair, state)
    moments = Moments.empty(groups=members + FOLDS, value=value, regression=regression)
    errors = Errors.empty(groups=FOLDS, features=pair)
    parts = [
        (log[start : start + CONVERSATIONS_AT_ONCE], log is conversations)
        for log in (conversations, earlier)
        for start in range(0, len(log), CONVERSATIONS_AT_ONCE)
    ]
    for some, own in progress(parts, "fit-q: reading", total=len(parts), unit="parts"):
        _add(moments, errors, q, some, config, gamma=gamma, actions=actions, own=own)
    folds = range(members, members + FOLDS)
    together = moments.of(folds)
    if together.value_mass_G[0] == 0:
        raise ValueError("no training turn has both an action and a known fate")
    tried: dict[float, float] = {}
    if config.ridge == 0:
        for ridge in RIDGES:
            tried[ridge] = left_out_error(
                moments, errors, ridge, members=members, own=actions is None
            )
    ridge = config.ridge or min(RIDGES, key=tried.__getitem__)
    state_D, head_D = _heads(together.solve(ridge), actions)
    heads_MD = np.stack([head_D] * members)
    for member in range(members if members > 1 else 0):
        if moments.value_mass_G[member] > 0:  # of a few conversations a resample may hold none
            _, heads_MD[member] = _heads(moments.solve(ridge, group=member), actions)
    with torch.no_grad():
        q.heads.state.weight.copy_(torch.from_numpy(state_D[None]))
        q.heads.members.weight.copy_(torch.from_numpy(heads_MD))
        if examples is not None:
            q.own_head = _nearest(q, examples)
    return LeastSquares(ridge, tried)


def _lift(q: QFunction, conversations: Sequence[Conversation], config: FitQConfig) -> torch.Tensor:
    """Give Q heads of predictive states, from conversations that are over; what it reads of their
    pairs."""
    wanted = EXAMPLES_PER_ROW * config.compared_turns
    by_chance = sorted(
        (c for c in conversations if c.segments and all(c.fates_known)),
        key=lambda c: unit_hash(f"example/{c.conversation_id}", seed=config.seed),
    )
    chosen: list[Conversation] = []
    number = 0
    for c in by_chance:
        if number >= wanted:
            break
        chosen.append(c)
        number += sum(len(segment.ends) for segment in c.segments)
    if not chosen:
        raise ValueError(
            "of no training conversation it is known how it went on to its end, so that nothing "
            "tells what follows; --set fit-q.compared_turns=0 does without"
        )
    width, members = q.backbone.config.hidden_size, q.settings.members
    q.heads = Heads(width, members, reads_history=True)
    found = q.features([segment for c in chosen for segment in c.segments])
    pair_ND = torch.cat([features.action_ND for features in found])
    predictive = PredictiveState.of(
        pair_ND[:, width:],
        pair_ND[:, :width],
        torch.cat([_sent(q, c) for c in chosen]),
        torch.cat([_futures(q, c) for c in chosen]),
        rows=config.compared_turns,
        states=config.state_size,
        actions=config.action_size,
        seed=config.seed,
    )
    q.heads = Heads(width, members, predictive=predictive).to(q.model.device)
    return pair_ND


@torch.no_grad()
def _sent(q: QFunction, c: Conversation) -> torch.Tensor:
    """What was sent in each turn that is read, in their order."""
    read = [index for segment in c.segments for index, _ in segment.ends]
    return torch.stack([_words(q, c.rows[index]["sent"]) for index in read])


@torch.no_grad()
def _futures(q: QFunction, c: Conversation) -> torch.Tensor:
    """What followed each turn that is read, in their order: the customer's next message, all later
    ones, whether that was the end, how many turns were left, the reward."""
    heard = [_words(q, row["customer"]) for row in c.rows]
    following = later = torch.zeros_like(heard[0])
    found: list[torch.Tensor] = []
    for left, (reward, heard_E) in enumerate(
        zip(reversed(c.rewards), reversed(heard), strict=True)
    ):
        rest = torch.tensor([float(left == 0), float(left), reward])
        found.append(torch.cat([following, later, rest]))
        following, later = heard_E, heard_E + LATER * later
    found.reverse()
    return torch.stack([found[index] for segment in c.segments for index, _ in segment.ends])


def _words(q: QFunction, text: str | None) -> torch.Tensor:
    """The sum of the embeddings of a message's tokens."""
    return q.words.detach()[q.renderer.text_ids(text or "")].sum(dim=0).double().cpu()


def _nearest(q: QFunction, pair_ND: torch.Tensor) -> torch.Tensor:
    """The head (H,) of the last hidden state alone whose values are nearest to Q̂'s."""
    width = q.backbone.config.hidden_size
    with torch.no_grad():
        value_N = q.heads.of_pairs(pair_ND.to(q.model.device)).mean(dim=1).double().cpu()
    near = Errors.empty(groups=1, features=width)
    near.add(pair_ND[:, :width].numpy(), value_N.numpy(), np.ones((len(value_N), 1)))
    return torch.from_numpy(near.least(OWN_HEAD_RIDGE))


def _heads(
    solved: tuple[Array, Array], actions: Mapping[tuple[str, int], Sequence[str]] | None
) -> tuple[Array, Array]:
    """V̂'s and Q̂'s, of value and regression."""
    value_D, regression_D = solved
    return (value_D, regression_D) if actions is None else (regression_D, value_D)


def left_out_error(
    moments: Moments, errors: Errors, ridge: float, *, members: int = 0, own: bool = True
) -> float:
    """Mean squared error for the returns of each fold, of a head that the others gave.

    Args:
        moments: Of groups: members, then folds.
        errors: Of folds.
        ridge: In transitions.
        members: Their number.
        own: Whether the head is Q̂'s own; of a policy whose returns nobody has seen it is that of
            the regression on the returns of the log.
    """
    total = mass = 0.0
    for fold in range(FOLDS):
        others = [other for other in range(FOLDS) if other != fold]
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


def _add(
    moments: Moments,
    errors: Errors,
    q: QFunction,
    conversations: Sequence[Conversation],
    config: FitQConfig,
    *,
    gamma: float,
    actions: Mapping[tuple[str, int], Sequence[str]] | None,
    own: bool,
) -> None:
    """The transitions of some conversations, and the returns of the policy's own."""
    members = q.settings.members
    read = iter(_lifted(q, q.features([s for c in conversations for s in c.segments])))
    by_turn = [_by_turn(c, read) for c in conversations]
    following = (
        [{turn: state_D for turn, (_, state_D) in found.items()} for found in by_turn]
        if actions is None
        else _mean_features(q, conversations, actions)
    )
    phi, after, psi, reward, weight = [], [], [], [], []
    told, wanted, told_weight = [], [], []
    for c, found, next_D in zip(conversations, by_turn, following, strict=True):
        drawn = unit_hash(f"fold/{c.conversation_id}", seed=config.seed)
        fold = np.eye(FOLDS)[int(drawn * FOLDS)]
        weights = np.concatenate([draws_of(c.conversation_id, members, config.seed), fold])
        for turn, paid, discount, next_turn in _transitions(c, found, next_D, gamma=gamma):
            action_D, state_D = found[turn]
            lead, follow = (state_D, action_D) if actions is None else (action_D, state_D)
            phi.append(lead)
            psi.append(follow)
            after.append(discount * next_D[next_turn] if next_turn is not None else 0 * lead)
            reward.append(paid)
            weight.append(weights)
        for target, turns in zip(c.monte_carlo(), c.turns, strict=True):
            for known, share, of in zip(target.returns, target.weights, turns, strict=True):
                if share > 0:
                    told.append(found[of.row["turn"] - 1][0])
                    wanted.append(known)
                    told_weight.append(share * fold)
    if phi:
        features = np.stack(phi), np.stack(after), np.stack(psi)
        moments.add(*features, np.array(reward), np.stack(weight), value=own)
    if told and own:
        errors.add(np.stack(told), np.array(wanted), np.stack(told_weight))


@torch.no_grad()
def _lifted(q: QFunction, read: Sequence[Features]) -> list[Features]:
    """What is linear in Q's heads, of each segment; of none where no turn fits the context."""
    if not read:
        return []
    together = Features(*(torch.cat(each).to(q.model.device) for each in zip(*read, strict=True)))
    ends = [len(features.action_ND) for features in read]
    both = (each.cpu().split(ends) for each in q.heads.lifted(together))
    return list(map(Features, *both))


@torch.no_grad()
def _lifted_mean(q: QFunction, pair_ND: torch.Tensor) -> Array:
    mean_D = q.heads.lifted_pairs(pair_ND.to(q.model.device)).mean(dim=0).cpu()
    return np.asarray(mean_D.numpy())


def _by_turn(c: Conversation, read: Iterator[Features]) -> dict[int, tuple[Array, Array]]:
    """Features of the pair and of the state, by the turn's index."""
    found: dict[int, tuple[Array, Array]] = {}
    for segment in c.segments:
        features = next(read)
        pairs = zip(features.action_ND.numpy(), features.state_ND.numpy(), strict=True)
        found |= {index: pair for (index, _), pair in zip(segment.ends, pairs, strict=True)}
    return found


def _mean_features(
    q: QFunction,
    conversations: Sequence[Conversation],
    actions: Mapping[tuple[str, int], Sequence[str]],
) -> list[dict[int, Array]]:
    """φ' of the states of each conversation, the mean over the actions there, by turn."""
    asked = of_actions(conversations, actions, lambda requests: branch_features(q, requests))
    known = [{n: [x for x in each if x is not None] for n, each in one.items()} for one in asked]
    return [
        {n: _lifted_mean(q, torch.stack(each)) for n, each in one.items() if each} for one in known
    ]


def _transitions(
    c: Conversation, found: Mapping[int, object], next_D: Mapping[int, object], *, gamma: float
) -> Iterator[_Transition]:
    """Those whose fate the log shows. States whose value is not known (they do not fit the context,
    or nothing was suggested in them) are passed over: their rewards are added up."""
    last = len(c.rows) - 1
    for turn in sorted(found):
        reward, discount, at = 0.0, 1.0, turn
        while c.fates_known[at]:
            reward += discount * c.rewards[at]
            if at == last:
                yield _Transition(turn, reward, 0.0, None)
                break
            discount, at = discount * gamma, at + 1
            if at in next_D:
                yield _Transition(turn, reward, discount, at)
                break
