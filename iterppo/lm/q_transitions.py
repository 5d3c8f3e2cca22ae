"""The transitions of a log, as rows of what was read of its turns.

Shapes: N turns that were read, T transitions, R turns with a known return, M members.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from iterppo.lm.q_log import Conversation
from iterppo.rl.least_squares import Array


class Transition(NamedTuple):
    """From a turn to the next one whose value is known, or to the end (None)."""

    turn: int
    reward: float
    """Discounted, from the turn on."""
    discount: float
    next_turn: int | None


@dataclass(frozen=True)
class Transitions:
    """Those of some conversations whose turns were read one after another.

    Args:
        turn_T: Row of the turn.
        next_T: Row of the value of the next state; -1 where the conversation was over.
        reward_T: Discounted, from the turn on.
        discount_T: Of the next state's value.
        draws_TM: How often each member's resample has it.
        fold_T: Of a cross-validation.
        told_R: Row of a turn whose return is known.
        return_R: It.
        weight_R: Its weight.
        told_fold_R: Its fold.
    """

    turn_T: Array
    next_T: Array
    reward_T: Array
    discount_T: Array
    draws_TM: Array
    fold_T: Array
    told_R: Array
    return_R: Array
    weight_R: Array
    told_fold_R: Array

    @classmethod
    def of(
        cls,
        conversations: Sequence[Conversation],
        valued: Sequence[Mapping[int, int]],
        *,
        gamma: float,
        members: int,
        draws_of: Callable[[Conversation], Sequence[int]],
        fold_of: Callable[[Conversation], int],
    ) -> Transitions:
        """Of conversations.

        Args:
            conversations: In the order in which their turns were read.
            valued: Of each, by the turn's index, the row of the state's value where it has one.
            gamma: Discount per turn.
            members: M.
            draws_of: A conversation's of each member.
            fold_of: Its fold.
        """
        moves: list[tuple[int, int, float, float]] = []
        told: list[tuple[int, float, float]] = []
        draws, folds, told_folds = [], [], []
        first = 0
        for c, rows in zip(conversations, valued, strict=True):
            read = [index for segment in c.segments for index, _ in segment.ends]
            row_of = {index: first + number for number, index in enumerate(read)}
            first += len(read)
            drawn, fold = draws_of(c), fold_of(c)
            for turn, reward, discount, next_turn in transitions(c, row_of, rows, gamma=gamma):
                following = -1 if next_turn is None else rows[next_turn]
                moves.append((row_of[turn], following, reward, discount))
                draws.append(drawn)
                folds.append(fold)
            for target, turns in zip(c.monte_carlo(), c.turns, strict=True):
                for known, share, of in zip(target.returns, target.weights, turns, strict=True):
                    if share > 0:
                        told.append((row_of[of.row["turn"] - 1], known, share))
                        told_folds.append(fold)
        return cls(
            turn_T=np.array([move[0] for move in moves], dtype=int),
            next_T=np.array([move[1] for move in moves], dtype=int),
            reward_T=np.array([move[2] for move in moves], dtype=float),
            discount_T=np.array([move[3] for move in moves], dtype=float),
            draws_TM=np.array(draws, dtype=float).reshape(len(draws), members),
            fold_T=np.array(folds, dtype=int),
            told_R=np.array([each[0] for each in told], dtype=int),
            return_R=np.array([each[1] for each in told], dtype=float),
            weight_R=np.array([each[2] for each in told], dtype=float),
            told_fold_R=np.array(told_folds, dtype=int),
        )


def transitions(
    c: Conversation, read: Mapping[int, object], valued: Mapping[int, object], *, gamma: float
) -> Iterator[Transition]:
    """Those whose fate the log shows. States whose value is not known (they do not fit the context,
    or nothing was suggested in them) are passed over: their rewards are added up."""
    last = len(c.rows) - 1
    for turn in sorted(read):
        reward, discount, at = 0.0, 1.0, turn
        while c.fates_known[at]:
            reward += discount * c.rewards[at]
            if at == last:
                yield Transition(turn, reward, 0.0, None)
                break
            discount, at = discount * gamma, at + 1
            if at in valued:
                yield Transition(turn, reward, discount, at)
                break
