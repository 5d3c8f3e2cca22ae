"""A log of one policy b, with what a new policy π would make of it.

    LoggedConversation … -> OffPolicyLog

Shapes: N conversations, T turns of the longest, M members of an ensemble. A conversation that has
ended stays where it is: reward 0, ratio 1, q = v = 0 (the absorbing state).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np

from iterppo.statistics.resampling import Array


@dataclass(frozen=True)
class LoggedConversation:
    """What is known of each turn; lists of equal length."""

    conversation_id: str
    reward: list[float]
    """r_{i+1}."""
    log_ratio: list[float]
    """log π(a_i | s_i) − log b(a_i | s_i), in nats; 0 where a turn has no action, NaN where a
    probability is not known."""
    weight: float = 1.0
    """Inverse-censoring weight of the conversation; 0 where its return is not known."""
    q: list[float] = field(default_factory=list)
    """Q̂^π(s_i, a_i) by a Q that was not fitted on this conversation, NaN where there is none;
    empty: there is none at all."""
    v: list[float] = field(default_factory=list)
    """Mean of the same Q over actions of π in s_i."""
    first_values: list[float] = field(default_factory=list)
    """V̂^π(s_1) of each member of the ensemble; empty where it is not known."""


@dataclass(frozen=True)
class OffPolicyLog:
    """The same as arrays."""

    weight_N: Array
    reward_NT: Array
    log_ratio_NT: Array
    action_NT: Array
    """Whether the turn is there, and has a ratio that says anything."""
    q_NT: Array
    v_NT: Array
    first_NM: Array

    @property
    def num_conversations(self) -> int:
        """N."""
        return len(self.weight_N)

    def chosen(self, own_N: Array) -> OffPolicyLog:
        """Some of the conversations."""
        return OffPolicyLog(*(getattr(self, field.name)[own_N] for field in fields(self)))

    def returns(self, *, gamma: float) -> Array:
        """Σ_t γ^{t−1} r_{t+1} of each conversation, (N)."""
        total_N: Array = self.reward_NT @ gamma ** np.arange(self.reward_NT.shape[1])
        return total_N

    def cumulative(self) -> Array:
        """log Π_{s≤t} π/b, (N, T); what has probability 0 is −∞."""
        total_NT: Array = np.cumsum(self.log_ratio_NT, axis=1)
        return total_NT


def arrays(conversations: Sequence[LoggedConversation]) -> OffPolicyLog:
    """Lay conversations beside each other.

    A turn of which only one of q and v is known has neither: their difference is what corrects an
    estimate, and it is free of bias for any pair of them that belongs together, 0 and 0 included.

    Raises:
        ValueError: If the lists of a conversation differ in length, or members in number.

    >>> log = arrays([LoggedConversation("a", [0, 1], [0.5, 0]), LoggedConversation("b", [0], [1])])
    >>> log.cumulative().tolist()
    [[0.5, 0.5], [1.0, 1.0]]
    """
    T = max((len(each.reward) for each in conversations), default=0)
    columns: list[list[list[float]]] = [[], [], [], []]
    members = max((len(each.first_values) for each in conversations), default=0)
    for each in conversations:
        empty = [math.nan] * len(each.reward)
        lists = (each.reward, each.log_ratio, each.q or empty, each.v or empty)
        if {len(one) for one in lists} != {len(each.reward)}:
            raise ValueError(f"{each.conversation_id}: its lists differ in length")
        if len(each.first_values) not in (0, members):
            raise ValueError(f"{each.conversation_id}: another number of members")
        for column, values in zip(columns, lists, strict=True):
            column.append([*values, *[0.0] * (T - len(values))])
    reward_NT, log_ratio_NT, q_NT, v_NT = (
        np.asarray(column, dtype=float).reshape(len(conversations), T) for column in columns
    )
    there_NT = np.isfinite(q_NT) & np.isfinite(v_NT)
    length_N = np.asarray([len(each.reward) for each in conversations], dtype=int)
    return OffPolicyLog(
        weight_N=np.asarray([each.weight for each in conversations], dtype=float),
        reward_NT=reward_NT,
        log_ratio_NT=log_ratio_NT,
        action_NT=(np.arange(T) < length_N[:, None]) & (log_ratio_NT != 0),
        q_NT=np.where(there_NT, q_NT, 0.0),
        v_NT=np.where(there_NT, v_NT, 0.0),
        first_NM=np.asarray(
            [each.first_values or [math.nan] * members for each in conversations], dtype=float
        ).reshape(len(conversations), members),
    )
