"""Q̂ of the shop from what a conversation shows, in numbers instead of words: what a log can tell.

The least squares are those of `fit-q --set fit-q.method=lstd`; the features are the shop's own
sufficient statistic (`iterppo.environments.shop_visible`): the type of the customer's last message,
the turn, what has worked, interest, annoyances, what is known of customer and business; and every
product of these with the intent and the tone of the suggestion. A Q̂ of texts that ranks worse than
this one from the same logs lacks features, not conversations.

Shapes: N turns, D features of states, E of pairs, F folds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from iterppo.environments.shop_language import SETTINGS, UNKNOWN, reply_type
from iterppo.environments.shop_law import STYLES
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


def pair_features(state_D: Array, text: str | None) -> Array:
    """(E,), of a state and a suggestion."""
    act = act_of(text)
    intent, tone = (None, None) if act is None else act
    act_A = np.concatenate(
        [
            _one_of(INTENTS.index(intent), len(INTENTS)),
            _one_of(TONES.index(tone), len(TONES)),
        ]
    )
    return np.concatenate([state_D, np.outer(state_D, act_A).ravel()])


class VisibleQ:
    """Q̂ of the policy that held `own`, to which `earlier` conversations of others add."""

    def __init__(self, own: Sequence[Turns], earlier: Sequence[Turns], *, gamma: float) -> None:
        """Of rows of trajectories, whose conversations are all over."""
        states = [[state_features(c[: n + 1]) for n in range(len(c))] for c in (*own, *earlier)]
        width = len(states[0][0])
        pairs = len(pair_features(states[0][0], None))
        moments = Moments.empty(groups=FOLDS, value=width, regression=pairs)
        errors = Errors.empty(groups=FOLDS, features=pairs)
        for number, (c, states_TD) in enumerate(zip((*own, *earlier), states, strict=True)):
            fold = np.eye(FOLDS)[int(unit_hash(c[0]["conversation_id"], seed=3) * FOLDS)]
            reward_T = np.array([row["reward"] for row in c], dtype=float)
            psi_TE = np.stack(
                [pair_features(s, row["suggestion"]) for s, row in zip(states_TD, c, strict=True)]
            )
            after_TD = gamma * np.stack([*states_TD[1:], np.zeros(width)])
            weight_TF = np.tile(fold, (len(c), 1))
            mine = number < len(own)
            moments.add(np.stack(states_TD), after_TD, psi_TE, reward_T, weight_TF, value=mine)
            if mine:
                discount_TT = np.triu(
                    gamma
                    ** np.maximum(np.subtract.outer(np.arange(len(c)), np.arange(len(c))).T, 0)
                )
                errors.add(psi_TE, discount_TT @ reward_T, weight_TF)
        ridge = min(RIDGES, key=lambda one: left_out_error(moments, errors, one))
        _, self._head_E = moments.of(range(FOLDS)).solve(ridge)

    def __call__(self, turns: Turns, text: str | None) -> float:
        """Q̂(s, a)."""
        return float(pair_features(state_features(turns), text) @ self._head_E)


def _one_of(index: int, number: int) -> Array:
    """1 at the index, which `NOWHERE` is none."""
    return (np.arange(number) == index).astype(float)
