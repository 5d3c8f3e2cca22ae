"""Q̂ of the shop from what a conversation shows, in numbers instead of words: what a log can tell.

The least squares are those of `fit-q --set fit-q.method=lstd`; the features are the shop's own
sufficient statistic (`iterppo.environments.shop_visible`): the type of the customer's last message,
the turn, what has worked, interest, annoyances, what is known of customer and business; and every
product of these with the intent and the tone of the suggestion. A Q̂ of texts that ranks worse than
this one from the same logs lacks features, not conversations.

Shapes: N turns, D features of states, C of what is suggested, E of pairs, A acts, F folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from iterppo.environments.shop_language import SETTINGS, UNKNOWN, reply_type
from iterppo.environments.shop_law import STYLES, Act
from iterppo.environments.shop_optimum import ACTS
from iterppo.environments.shop_solution import act_of
from iterppo.environments.shop_visible import URGENCIES, read
from iterppo.lm.q_least_squares import FOLDS, RIDGES, left_out_error
from iterppo.logs.splits import unit_hash
from iterppo.rl.least_squares import Errors, Moments

Array = np.ndarray[Any, Any]
Turns = Sequence[Mapping[str, Any]]

INTENTS = [None, *SETTINGS["intents"]]
TONES = [None, *SETTINGS["tones"]]
REPLIES = [*SETTINGS["replies"], UNKNOWN]
NOWHERE = -1
SAYABLE = [act for act in ACTS if act is None or act.intent != UNKNOWN]
"""What can be said to the business, or left unsaid, but for what nobody understands."""
TOGETHER = 500
"""Conversations."""
POINTS = 2
"""Of dislike that one style has more than the other, at most."""


def state_features(turns: Turns) -> Array:
    """(D,), of the state before the last turn's suggestion."""
    visible, evidence = read(turns)
    points = max(-POINTS, min(POINTS, evidence.points))
    known = evidence.style is not None
    return np.concatenate(
        [
            [1.0, len(visible.pairs)],
            _one_of(REPLIES.index(reply_type(turns[-1]["customer"])), len(REPLIES)),
            _one_of(len(turns) - 1, SETTINGS["max_turns"]),
            [float(intent in visible.worked) for intent in SETTINGS["intents"]],
            _one_of(visible.interest, SETTINGS["max_interest"] + 1),
            _one_of(min(visible.annoyances, 3), 4),
            _one_of(NOWHERE if known else points + POINTS, 2 * POINTS + 1),
            [float(style == evidence.style) for style in STYLES],
            [float(urgency == visible.urgency) for urgency in URGENCIES],
        ]
    )


def choice_features(act: Act | None) -> Array:
    """(C,), of what is suggested: its intent and its tone."""
    intent, tone = (None, None) if act is None else act
    return np.concatenate(
        [_one_of(INTENTS.index(intent), len(INTENTS)), _one_of(TONES.index(tone), len(TONES))]
    )


def pair_features(state_D: Array, act: Act | None) -> Array:
    """(E,), of a state and a suggestion."""
    return np.concatenate([state_D, np.outer(state_D, choice_features(act)).ravel()])


class VisibleQ:
    """Q̂ of the policy that held `own`, to which `earlier` conversations of others add."""

    def __init__(self, own: Sequence[Turns], earlier: Sequence[Turns], *, gamma: float) -> None:
        """Of rows of trajectories, whose conversations are all over."""
        transitions = [_Transitions.of(conversation, gamma) for conversation in (*own, *earlier)]
        width, pairs = transitions[0].phi_ND.shape[1], transitions[0].psi_NE.shape[1]
        moments = Moments.empty(groups=FOLDS, value=width, regression=pairs)
        errors = Errors.empty(groups=FOLDS, features=pairs)
        for mine, those in ((True, transitions[: len(own)]), (False, transitions[len(own) :])):
            for at in range(0, len(those), TOGETHER):
                # One after the other, each would cost a product of matrices of its own.
                n = _Transitions(*map(np.concatenate, zip(*those[at : at + TOGETHER], strict=True)))
                moments.add(n.phi_ND, n.after_ND, n.psi_NE, n.reward_N, n.weight_NF, value=mine)
                if mine:
                    errors.add(n.psi_NE, n.return_N, n.weight_NF)
        ridge = min(RIDGES, key=lambda one: left_out_error(moments, errors, one))
        _, self._head_E = moments.of(range(FOLDS)).solve(ridge)

    def __call__(self, turns: Turns, text: str | None) -> float:
        """Q̂(s, a)."""
        return float(pair_features(state_features(turns), act_of(text)) @ self._head_E)

    def of_acts(self, state_D: Array) -> Array:
        """(A,): Q̂ of each of `SAYABLE` in a state of these features."""
        alone_D, products_DC = np.split(self._head_E, [len(state_D)])
        of_choice_C = state_D @ products_DC.reshape(len(state_D), -1)
        return np.asarray(state_D @ alone_D + _CHOICES_AC @ of_choice_C)


class _Transitions(NamedTuple):
    """Of a conversation, or of several, as `Moments.add` takes them."""

    phi_ND: Array
    after_ND: Array
    psi_NE: Array
    reward_N: Array
    return_N: Array
    weight_NF: Array

    @classmethod
    def of(cls, turns: Turns, gamma: float) -> _Transitions:
        phi_ND = np.stack([state_features(turns[: n + 1]) for n in range(len(turns))])
        reward_N = np.array([row["reward"] for row in turns], dtype=float)
        fold = np.eye(FOLDS)[int(unit_hash(f"fold/{turns[0]['conversation_id']}", seed=0) * FOLDS)]
        return cls(
            phi_ND,
            gamma * np.concatenate([phi_ND[1:], np.zeros_like(phi_ND[:1])]),
            np.stack(
                [
                    pair_features(phi_D, act_of(row["suggestion"]))
                    for phi_D, row in zip(phi_ND, turns, strict=True)
                ]
            ),
            reward_N,
            np.array(list(accumulate(reward_N[::-1], lambda later, r: r + gamma * later)))[::-1],
            np.tile(fold, (len(turns), 1)),
        )


def _one_of(index: int, number: int) -> Array:
    """1 at the index, which `NOWHERE` is none."""
    return (np.arange(number) == index).astype(float)


_CHOICES_AC = np.stack([choice_features(act) for act in SAYABLE])
