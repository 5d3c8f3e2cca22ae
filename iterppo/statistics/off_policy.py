"""The value of a policy π from the log of another one, b: per-turn weighted importance sampling,
and the doubly robust estimate that takes Q̂ to help.

    ρ_it = Π_{s≤t} π(a_is | s_is) / b(a_is | s_is),      ρ_i0 = 1,      c_i the censoring weight
    w_it = c_i ρ_it / Σ_j c_j ρ_jt

    WIS    Σ_t γ^{t−1} Σ_i w_it r_{i,t+1}
    DR     Σ_t γ^{t−1} Σ_i [w_it (r_{i,t+1} − q_it) + w_{i,t−1} v_it]

q_it = Q̂(s_it, a_it), and v_it is the mean of Q̂(s_it, ·) over π. A reward is weighted by the ratios
of the turns up to it, not of the whole conversation (Precup et al., 2000), and by weights that sum
to one at each turn, which costs a bias of order 1/N and spares most of the variance. A conversation
that has ended keeps its ratio: else long conversations, which are the ones that π or b prolongs,
would be all that is left to compare. With a Q̂ that is right DR has little variance, with one that
is wrong it is still consistent, since E[q | s] = v under π whatever Q̂ is (Jiang & Li, 2016; Thomas
& Brunskill, 2016); but Q̂ must not have seen the conversation.

All are functions of sums over conversations, so one product of matrices gives all resamples.

Shapes: N conversations, T turns, S resamples, F = 4T + 2 columns of sums.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from iterppo.statistics.intervals import bca_interval
from iterppo.statistics.off_policy_log import OffPolicyLog
from iterppo.statistics.resampling import Array, Resamples, ratio

SAMPLES = 1000
LEVEL = 0.95


class Interval(NamedTuple):
    """A number and the ends of its interval; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class OffPolicyValue:
    """In discounted outcomes a conversation."""

    value: Interval
    difference: Interval
    """Less the value of b: the weighted mean return of the same conversations, in the same
    resamples."""


def weighted_importance_sampling(
    log: OffPolicyLog, *, gamma: float, seed: int, samples: int = SAMPLES
) -> OffPolicyValue:
    """V^π by per-turn weighted importance sampling.

    Args:
        log: Whose ratios are known at all turns.
        gamma: Discount per turn, in [0, 1].
        seed: Of the resampling of conversations.
        samples: Resamples.

    Returns:
        The estimate with BCa intervals of 95 %.

    Raises:
        ValueError: If a ratio is NaN, or gamma is outside [0, 1].
    """
    return _bootstrapped(log, gamma=gamma, seed=seed, samples=samples, with_q=False)


def doubly_robust(
    log: OffPolicyLog, *, gamma: float, seed: int, samples: int = SAMPLES
) -> OffPolicyValue:
    """V^π by the per-turn weighted doubly robust estimate. As `weighted_importance_sampling`, which
    it is where q and v are 0."""
    return _bootstrapped(log, gamma=gamma, seed=seed, samples=samples, with_q=True)


def doubly_robust_value(log: OffPolicyLog, *, gamma: float) -> float:
    """The estimate of `doubly_robust` without its intervals."""
    rows_NF = _columns(log, gamma=gamma, with_q=True)
    discount_T = gamma ** np.arange(log.reward_NT.shape[1])
    return float(_values(rows_NF.sum(axis=0)[None], discount_T)[0, 0])


def logged_value(log: OffPolicyLog, *, gamma: float, seed: int, samples: int = SAMPLES) -> Interval:
    """V^b: the weighted mean return, with a BCa interval."""
    rows_N2 = np.stack([log.weight_N * log.returns(gamma=gamma), log.weight_N], axis=1)
    total_2 = rows_N2.sum(axis=0)
    resamples = Resamples.of(np.arange(log.num_conversations), samples=samples, seed=seed)
    whole = float(total_2[0] / total_2[1])
    drawn_S, without_N = (ratio(*sums.T) for sums in (resamples.sums(rows_N2), total_2 - rows_N2))
    return Interval(whole, *bca_interval(drawn_S, whole, without_N, level=LEVEL))


def _bootstrapped(
    log: OffPolicyLog, *, gamma: float, seed: int, samples: int, with_q: bool
) -> OffPolicyValue:
    if not 0 <= gamma <= 1:
        raise ValueError(f"gamma is a discount in [0, 1], is {gamma}")
    if np.isnan(log.log_ratio_NT).any():
        raise ValueError("a ratio is not known")
    rows_NF = _columns(log, gamma=gamma, with_q=with_q)
    discount_T = gamma ** np.arange(log.reward_NT.shape[1])
    total_F = rows_NF.sum(axis=0)
    whole = _values(total_F[None], discount_T)[0]
    resamples = Resamples.of(np.arange(log.num_conversations), samples=samples, seed=seed)
    drawn_S2 = _values(resamples.sums(rows_NF), discount_T)
    without_N2 = _values(total_F - rows_NF, discount_T)
    value, difference = (
        Interval(
            float(whole[k]),
            *bca_interval(drawn_S2[:, k], whole[k], without_N2[:, k], level=LEVEL),
        )
        for k in (0, 1)
    )
    return OffPolicyValue(value, difference)


def _columns(log: OffPolicyLog, *, gamma: float, with_q: bool) -> Array:
    """What the estimates sum over conversations: (N, 4T + 2).

    Weights of one turn are scaled alike, by the largest: every sum of a turn is divided by one of
    the same turn, and ratios of hundreds of nats do not overflow.
    """
    logs_NT = log.cumulative()
    largest_T = logs_NT.max(axis=0, initial=-math.inf, where=(log.weight_N > 0)[:, None])
    scaled_NT = np.exp(logs_NT - np.where(np.isfinite(largest_T), largest_T, 0.0))
    weight_NT = log.weight_N[:, None] * np.minimum(scaled_NT, 1.0)
    before_NT = np.hstack([log.weight_N[:, None], weight_NT[:, :-1]])
    q_NT, v_NT = (log.q_NT, log.v_NT) if with_q else (np.zeros_like(log.q_NT),) * 2
    returns_N = log.returns(gamma=gamma)
    return np.hstack(
        [
            weight_NT,
            weight_NT * (log.reward_NT - q_NT),
            before_NT,
            before_NT * v_NT,
            log.weight_N[:, None],
            (log.weight_N * returns_N)[:, None],
        ]
    )


def _values(sums_SF: Array, discount_T: Array) -> Array:
    """V^π and V^π − V^b of each row of sums, (S, 2); NaN where a turn has no weight left."""
    T = len(discount_T)
    below_ST, above_ST, below_v_ST, above_v_ST = (sums_SF[:, k * T : (k + 1) * T] for k in range(4))
    with np.errstate(divide="ignore", invalid="ignore"):
        value_S = (above_ST / below_ST + above_v_ST / below_v_ST) @ discount_T
        logged_S = sums_SF[:, -1] / sums_SF[:, -2]
    return np.stack([value_S, value_S - logged_S], axis=1)
