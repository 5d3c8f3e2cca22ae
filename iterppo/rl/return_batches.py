"""Batches of whole conversations -> rows of returns@1, in two passes over a log.

    first pass:   trajectories -> steps seen, summed over batches -> Weighting
    second pass:  trajectories, Weighting -> rows, counts and moments, summed over batches

Batches share nothing else, so they may be worked on anywhere and in any order.

Shapes: T turns and N conversations of a batch, S steps of the clock (`iterppo.rl.censoring`).
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema
from iterppo.rl.censoring import (
    Mean,
    Times,
    censoring_weights,
    effective_sample_size,
    steps_seen,
    weighted_mean,
)
from iterppo.rl.returns import conversation_lengths, returns_of_turns

Array = np.ndarray[Any, Any]

SEEN = ["turn", "censored"]
"""Columns of trajectories that the first pass reads."""
PAID = ["conversation_id", "turn", "reward", "censored"]
"""Columns that the second pass reads."""
ANSWERED = ["sent", "sent_time"]
"""Columns that both read besides for weights: of a decision after which nothing was sent the log
may have the moment."""
CREDITED = ["normalised_reward"]
"""Columns of credit that the second pass reads, where rewards are those."""
TIMES = ["customer_time"]
"""And where the log was cut by a clock."""


class Weighting:
    """Weights by step of the clock, from the whole log.

    Args:
        seen_2S: Conversations of the log seen to their end, and the others, by step.
        fate_known_until: See `Times`; None where the log was not cut by a clock.
        max_weight: Cap of the weights.
    """

    def __init__(
        self, seen_2S: Array, fate_known_until: np.datetime64 | None, *, max_weight: float
    ) -> None:
        self.seen_2S = seen_2S
        self.fate_known_until = fate_known_until
        self.max_weight = max_weight

    @cached_property
    def full_S(self) -> Array:
        """Weights before the cap."""
        return censoring_weights(*self.seen_2S)

    @cached_property
    def weight_S(self) -> Array:
        """Weights as they are used."""
        return np.minimum(self.full_S, self.max_weight)

    @property
    def share_unseen(self) -> float:
        """Share of the conversations that are longer than all that were seen to their end: nobody
        stands for them."""
        num_all = float(self.seen_2S.sum())
        return max(0.0, 1 - float(self.full_S @ self.seen_2S[0]) / num_all) if num_all else 0.0


class Moments(NamedTuple):
    """Number of conversations, Σ G_1 and Σ G_1², of shape (3, …)."""

    known_31: Array = np.zeros((3, 1))
    """Of the conversations whose return is known."""
    ended_3S: Array = np.zeros((3, 1))
    """Of those seen to their end, by step of the clock; zero without weights."""

    def plus(self, other: Moments) -> Moments:
        """Those of two batches."""
        return Moments(*(padded_sum(*both) for both in zip(self, other, strict=True)))

    def metrics(self, weighting: Weighting | None) -> dict[str, float]:
        """The mean return as if the known ones were a fair sample, and weighted."""
        ended_1, total_1, square_1 = self.known_31
        naive = weighted_mean(ended_1, np.zeros(1), total_1, square_1, max_weight=math.inf)
        found = _interval("mean_return_naive", naive)
        if weighting is None:
            return found
        (ended_S, censored_S), (_, total_S, square_S) = weighting.seen_2S, self.ended_3S
        cap = weighting.max_weight
        mean = weighted_mean(ended_S, censored_S, total_S, square_S, max_weight=cap)
        return {
            **found,
            **_interval("mean_return_weighted", mean),
            "weight_max": float(weighting.weight_S[ended_S > 0].max(initial=0.0)),
            "effective_sample_size": effective_sample_size(weighting.weight_S, ended_S),
            "share_unseen": weighting.share_unseen,
        }


class Paid(NamedTuple):
    """What the second pass makes of a batch."""

    rows: pa.Table
    """Of returns@1."""
    counts: Counter[str]
    """For the manifest."""
    moments: Moments


def count_seen(turns: pa.Table, fate_known_until: np.datetime64 | None) -> Array:
    """Conversations seen to their end, and the others, by step: of shape (2, S)."""
    step_N, ended_N = _steps_seen(turns, fate_known_until)
    num_steps = int(step_N.max(initial=0)) + 1
    return np.stack(
        [np.bincount(step_N[chosen], minlength=num_steps) for chosen in (ended_N, ~ended_N)]
    )


def sum_seen(seen: Iterable[Array]) -> Array:
    """What `count_seen` found in batches that make up a log, or a part of it."""
    return functools.reduce(padded_sum, seen, np.zeros((2, 1), dtype=np.int64))


def pay(turns: pa.Table, *, gamma: float, weighting: Weighting | None) -> Paid:
    """Returns and weights of a batch.

    Without a weighting every known return has weight 1. With one, a return is also without weight
    where it is known although failures of the same days are not (`iterppo.rl.censoring`).
    """
    turn_T = turns["turn"].to_numpy()
    length_N = conversation_lengths(turn_T)
    last_N = np.cumsum(length_N) - 1
    known_N = ~turns["censored"].to_numpy()[last_N]
    return_T = returns_of_turns(turns["reward"].to_numpy(), turn_T, gamma=gamma)
    first_N = return_T[last_N + 1 - length_N]
    ended_N, capped_N, weight_N = known_N, np.zeros_like(known_N), known_N.astype(np.float64)
    ended_3S = np.zeros((3, 1))
    if weighting is not None:
        step_N, ended_N = _steps_seen(turns, weighting.fate_known_until)
        weight_N = np.where(ended_N, weighting.weight_S[step_N], 0.0)
        capped_N = ended_N & (weighting.full_S[step_N] > weighting.max_weight)
        ended_3S = _moments(first_N[ended_N], step_N[ended_N], len(weighting.weight_S))
    unknown_T = np.repeat(~known_N, length_N)
    columns = {
        "conversation_id": turns["conversation_id"],
        "turn": turns["turn"],
        "reward": turns["reward"],
        "return": pa.array(return_T, mask=unknown_T),
        "weight": pa.array(np.repeat(weight_N, length_N)),
        "horizon": pa.array(
            np.repeat(length_N + 1, length_N).astype(np.int32) - turn_T, mask=unknown_T
        ),
    }
    counts = Counter(
        conversations=len(length_N),
        conversations_censored=int(np.sum(~known_N)),
        turns=len(turn_T),
        turns_with_return=int(length_N[known_N].sum()),
        turns_censored=int(length_N[~known_N].sum()),
        turns_too_recent=int(length_N[known_N & ~ended_N].sum()),
        turns_capped=int(length_N[capped_N].sum()),
    )
    rows = pa.table(columns, schema=arrow_schema(ROWS["returns"]))
    known_31 = _moments(first_N[known_N], np.zeros(int(known_N.sum()), np.int64), 1)
    return Paid(rows, counts, Moments(known_31, ended_3S))


def with_credit(turns: pa.Table, credit: pa.Table) -> pa.Table:
    """Turns with the rewards of `iterppo credit` in the place of those of the log; 0 where there is
    none, whose return is unknown then.

    Raises:
        ValueError: If a conversation that is not censored has a turn without a reward.
    """
    reward = credit["normalised_reward"]
    unknown_T = reward.is_null().to_numpy()
    if not turns["censored"].to_numpy()[unknown_T].all():
        raise ValueError("a conversation that is not censored has a turn without a reward")
    place = turns.schema.get_field_index("reward")
    return turns.set_column(place, turns.schema.field(place), reward.fill_null(0.0))


def padded_sum(left: Array, right: Array) -> Array:
    """Sum of two arrays, the shorter one filled up with zeros at the end of its last axis.

    >>> padded_sum(np.array([[1, 2]]), np.array([[1, 1, 1]]))
    array([[2, 3, 1]])
    """
    short, long = sorted((left, right), key=lambda array: array.shape[-1])
    total = long.copy()
    total[..., : short.shape[-1]] += short
    return total


def _steps_seen(turns: pa.Table, fate_known_until: np.datetime64 | None) -> tuple[Array, Array]:
    times = None
    if fate_known_until is not None:
        times = Times(
            turns["customer_time"].to_numpy(), turns["sent_time"].to_numpy(), fate_known_until
        )
    answered_T = pc.or_(*(turns[name].is_valid() for name in ANSWERED)).to_numpy()
    return steps_seen(turns["turn"].to_numpy(), turns["censored"].to_numpy(), answered_T, times)


def _moments(value_N: Array, place_N: Array, num_places: int) -> Array:
    powers = (np.ones_like(value_N), value_N, value_N**2)
    sums = [np.bincount(place_N, power, minlength=num_places) for power in powers]
    return np.stack(sums).astype(np.float64)  # where there is nothing, bincount returns integers


def _interval(name: str, mean: Mean) -> dict[str, float]:
    return {name: mean.value, f"{name}_low": mean.low, f"{name}_high": mean.high}
