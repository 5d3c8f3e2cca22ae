"""The value of a policy by a fitted Q̂ alone (fitted Q evaluation, FQE).

    V̂ = 1/N Σ_i V̂(s_i1),    V̂(s) = 1/M Σ_m 1/K Σ_k Q̂_m(s, a^k),    a^k ~ π

over conversations that Q̂ was not fitted on. How sure it is has two parts: which first states were
met (S), and on which conversations Q̂ was fitted (B). Each member of Q̂'s ensemble was fitted to a
bootstrap resample of its conversations, so the spread of the members' values estimates B (Hao et
al., 2021, "Bootstrapping fitted Q-evaluation"); with M members it has M − 1 degrees of freedom.

What neither part knows is an error that all members share: a Q̂ that cannot be right, or was never
shown where π goes. It shows where Q̂ breaks its own Bellman equation on conversations that it was
not fitted on, weighted to be those of π,

    Δ = Σ_t γ^{t−1} Σ_i w_it (r_{i,t+1} + γ v_{i,t+1} − q_it),

which is 0 for the true Q, and is what the doubly robust estimate adds to this one. The interval is
widened by |Δ|.

Shapes: N conversations, T turns, M members.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import stats

from iterppo.statistics.off_policy import LEVEL, Interval, OffPolicyValue, doubly_robust_value
from iterppo.statistics.off_policy_log import OffPolicyLog
from iterppo.statistics.resampling import Array


class Mean(NamedTuple):
    """A mean and its standard error."""

    value: float
    error: float


class FittedValue(NamedTuple):
    """V^π by Q̂."""

    value: OffPolicyValue
    correction: float
    """Δ, in discounted outcomes."""
    num_conversations: int
    """Whose first state has a value."""


def fitted_value(log: OffPolicyLog, *, gamma: float) -> FittedValue:
    """V^π by FQE, and its difference to the weighted mean return of the log.

        S = Var_i V̂(s_i1) / N,    B = Var_m V̂_m,    V̂ ± (t_f √(S + B) + |Δ|),
        f = (S + B)² / (S²/(N − 1) + B²/(M − 1))    (Welch & Satterthwaite)

    The difference counts the noise of the mean return as if it were independent; both come from
    conversations of one log, and a lucky log raises both, so this is on the safe side.

    Args:
        log: With members' values of first states, at least two, and q and v. Where ratios are not
            known they are 0, and Δ is that of the conversations as they were.
        gamma: The discount that Q̂ was fitted with.

    Raises:
        ValueError: If there are fewer than two members, or two conversations.
    """
    first_NM = log.first_NM[np.isfinite(log.first_NM).all(axis=1)]
    num, members = first_NM.shape
    if members < 2 or num < 2:
        raise ValueError(f"{members} members and {num} conversations: two of each are needed")
    value = float(first_NM.mean())
    of_states = float(first_NM.mean(axis=1).var(ddof=1)) / num
    of_fit = float(first_NM.mean(axis=0).var(ddof=1))
    logged = _mean(log.returns(gamma=gamma), log.weight_N)
    correction = _correction(log, gamma=gamma)
    more = abs(correction)
    parts = ((of_states, num - 1.0), (of_fit, members - 1.0))
    own = _half(parts) + more
    both = _half((*parts, (logged.error**2, float(np.count_nonzero(log.weight_N) - 1)))) + more
    difference = value - logged.value
    return FittedValue(
        OffPolicyValue(
            Interval(value, value - own, value + own),
            Interval(difference, difference - both, difference + both),
        ),
        correction,
        num,
    )


def _half(parts: tuple[tuple[float, float], ...]) -> float:
    """Half of the interval's width, of variances with their degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return 0.0
    freedom = total**2 / sum(variance**2 / df for variance, df in parts if variance > 0)
    return float(stats.t.ppf(0.5 + LEVEL / 2, freedom)) * math.sqrt(total)


def _correction(log: OffPolicyLog, *, gamma: float) -> float:
    """Δ, over conversations that Q̂ knows from their first state on; 0 where none of them has a
    known return."""
    known_N = np.isfinite(log.first_NM).all(axis=1) & (log.weight_N > 0)
    if not known_N.any():
        return 0.0
    own = log.chosen(known_N)
    first = float(own.weight_N @ own.v_NT[:, 0] / own.weight_N.sum())
    return doubly_robust_value(own, gamma=gamma) - first


def _mean(value_N: Array, weight_N: Array) -> Mean:
    """Weighted, with the standard error of a ratio of sums."""
    total = float(weight_N.sum())
    num = int(np.count_nonzero(weight_N))
    if num < 2:
        return Mean(math.nan, math.nan)
    mean = float(weight_N @ value_N) / total
    error = float(np.linalg.norm(weight_N * (value_N - mean))) / total * math.sqrt(num / (num - 1))
    return Mean(mean, error)
