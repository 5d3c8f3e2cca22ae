"""Whether a Q̂ tells actions apart: pairs of different actions in one state.

Two conversations were in the same state, the assistant did different things, and one went better:
did that one have the higher Q̂? A model that knows the state and nothing of the action is right in
half of such pairs. Where too few states are met twice, states that look alike are compared
(the same turn number and last message of the customer). There knowing the rest of the state helps
too, and the state-only model V says how much: what counts is by how much Q̂ beats V on those pairs.

Shapes: N turns, P pairs, S resamples of conversations.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iterppo.statistics.intervals import percentile_interval
from iterppo.statistics.resampling import Array, Resamples

FEWEST_PAIRS = 50  # in the same state; with fewer, states that look alike are compared
MOST_PAIRS = 20_000  # that are compared
MOST_CANDIDATES = 2_000_000  # that are looked at; beyond that, a random choice of so many


@dataclass(frozen=True)
class Discrimination:
    """Share of pairs in the right order, and how much of it state-only knowledge cannot give.

    `gain` is `share` − 1/2 in the same state; in states that look alike, `share` minus V's share on
    the same pairs (NaN without a V). `matched_by` says which: `state`, `matched`, or None where
    there is no pair.
    """

    share: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    num_pairs: int
    num_conversations: int
    matched_by: str | None


def comparable_pairs(
    key_N: Array, action_N: Array, return_N: Array, conversation_N: Array, *, seed: int
) -> tuple[Array, Array]:
    """All pairs (better turn, worse turn) with equal keys, of different conversations, with
    different actions and different returns; at most `MOST_PAIRS`, by a seeded choice.

    Args:
        key_N: State of each turn, as a number.
        action_N: Action of each turn, as a number; equal for equal actions.
        return_N: Return.
        conversation_N: Conversation, as a number.
        seed: Of the choice.

    >>> key, action = np.array([0, 0, 0, 1]), np.array([5, 6, 6, 5])
    >>> better, worse = comparable_pairs(key, action, np.array([0., 1., 1., 9.]), np.arange(4),
    ...                                  seed=0)
    >>> better.tolist(), worse.tolist()
    ([1, 2], [0, 0])
    """
    if len(key_N) == 0:
        return np.empty(0, dtype=int), np.empty(0, dtype=int)
    generator = np.random.default_rng(seed)
    order = np.argsort(key_N, kind="stable")
    sizes = np.bincount(key_N)
    pairs_within = sizes * (sizes - 1) // 2
    ends, starts = np.cumsum(pairs_within), np.cumsum(sizes) - sizes
    total = int(ends[-1])
    flat = (
        np.arange(total)
        if total <= MOST_CANDIDATES
        else np.unique(generator.integers(total, size=MOST_CANDIDATES))
    )
    group = np.searchsorted(ends, flat, side="right")
    small, large = _pair_of_number(flat - (ends - pairs_within)[group])
    one, other = order[starts[group] + small], order[starts[group] + large]
    fit = (
        (conversation_N[one] != conversation_N[other])
        & (action_N[one] != action_N[other])
        & (return_N[one] != return_N[other])
    )
    one, other = one[fit], other[fit]
    if len(one) > MOST_PAIRS:
        chosen = np.sort(generator.choice(len(one), size=MOST_PAIRS, replace=False))
        one, other = one[chosen], other[chosen]
    first_better = return_N[one] > return_N[other]
    return np.where(first_better, one, other), np.where(first_better, other, one)


def _pair_of_number(number: Array) -> tuple[Array, Array]:
    """Pair i < j with number j (j − 1) / 2 + i: (0, 1), (0, 2), (1, 2), (0, 3) …"""
    large = ((1 + np.sqrt(8.0 * number + 1)) / 2).astype(np.int64)
    large -= large * (large - 1) // 2 > number  # a square root rounded up
    large += large * (large + 1) // 2 <= number  # or down
    return number - large * (large - 1) // 2, large


def discrimination(
    q: Array,
    state_value: Array | None,
    return_: Array,
    weight: Array,
    *,
    state: Array,
    matched: Array,
    action: Array,
    resamples: Resamples,
    seed: int,
) -> Discrimination:
    """Share of comparable pairs in which the better turn has the higher Q̂ (ties count half).

        Σ_p w_i w_j [1(q_i > q_j) + 1(q_i = q_j) / 2] / Σ_p w_i w_j,    G_i > G_j

    Args:
        q: Q̂ of each turn.
        state_value: V̂ of its state, from a model that does not see the action; or None.
        return_: Return.
        weight: Weight of the turn; a pair has the product.
        state: State of each turn, as a number.
        matched: A coarser state, as a number; used where fewer than 50 pairs share a state.
        action: Action, as a number.
        resamples: For the 95 % intervals, by conversation.
        seed: Of the choice of pairs where there are too many.
    """
    unit, conversation = resamples.unit_N, resamples.conversation_N
    matched_by = "state"
    better, worse = comparable_pairs(state, action, return_, unit, seed=seed)
    if len(better) < FEWEST_PAIRS:
        matched_by = "matched"
        better, worse = comparable_pairs(matched, action, return_, unit, seed=seed)
    if len(better) == 0:
        nan = math.nan
        return Discrimination(nan, nan, nan, nan, nan, nan, 0, 0, None)
    baseline: Array | float = 0.5
    if matched_by == "matched":
        baseline = math.nan if state_value is None else _right(state_value, better, worse)
    mass = weight[better] * weight[worse]
    right = _right(q, better, worse)
    columns = np.stack([mass, mass * right, mass * (right - baseline)], axis=1)
    whole = columns.sum(axis=0)
    drawn = resamples.pair_sums(better, worse, columns)
    drawn = drawn[drawn[:, 0] > 0]
    low, high = percentile_interval(drawn[:, 1] / drawn[:, 0])
    gain_low, gain_high = percentile_interval(drawn[:, 2] / drawn[:, 0])
    return Discrimination(
        share=float(whole[1] / whole[0]),
        low=low,
        high=high,
        gain=float(whole[2] / whole[0]),
        gain_low=gain_low,
        gain_high=gain_high,
        num_pairs=len(better),
        num_conversations=len(np.unique(conversation[np.concatenate([better, worse])])),
        matched_by=matched_by,
    )


def _right(score: Array, better: Array, worse: Array) -> Array:
    return (np.sign(score[better] - score[worse]) + 1) / 2
