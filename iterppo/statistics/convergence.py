"""Whether Q still changes from round to round: the numbers behind Algorithm 1's `until`.

Two Q̂ are compared on the same pairs (s, a). What is known of the change is known through a sample
of conversations, so every number has an interval of resampled conversations.

Shapes: N turns, C conversations, S resamples of conversations, V distinct values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from iterppo.statistics.intervals import percentile_interval
from iterppo.statistics.resampling import Array, Resamples, ratio

SAMPLES = 1000
SEED = 0


class Number(NamedTuple):
    """A number and the ends of its 95 % interval; NaN where there is none."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Convergence:
    """How far two Q̂ are apart; all but the correlation in discounted outcomes."""

    rmse: Number
    max_norm: Number
    mean_change: Number
    rank_correlation: Number
    num_turns: int
    num_conversations: int
    tolerance: float

    @property
    def converged(self) -> bool:
        """Whether the whole interval of the RMSE is within the tolerance; never where it is NaN."""
        return self.rmse.high <= self.tolerance

    def told(self) -> dict[str, Any]:
        """As JSON knows it: null where there is no number."""
        found: dict[str, Any] = {
            "converged": self.converged,
            "tolerance": self.tolerance,
            "num_turns": self.num_turns,
            "num_conversations": self.num_conversations,
        }
        for name in ("rmse", "max_norm", "mean_change", "rank_correlation"):
            number: Number = getattr(self, name)
            for end, value in zip(("", "_low", "_high"), number, strict=True):
                found[f"{name}{end}"] = value if math.isfinite(value) else None
        return found


def convergence(
    conversation_ids: Sequence[str],
    previous: Sequence[float] | Array,
    this: Sequence[float] | Array,
    *,
    tolerance: float,
    samples: int = SAMPLES,
    seed: int = SEED,
) -> Convergence:
    """Compare two Q̂ on the same N turns.

        d_n = Q̂_this(s_n, a_n) − Q̂_previous(s_n, a_n)
        RMSE = √(Σ d_n² / N),  max-norm = max_n |d_n|,  mean change = Σ d_n / N,
        rank correlation: Spearman's, equal values sharing their mean rank

    The RMSE decides, not the max-norm. A maximum over sampled pairs only grows with their number:
    it would say more about how many were asked than about Q, and a single odd turn of a log would
    keep the loop running. It is shown all the same, since the theory speaks of it; its interval
    says how much of it hangs on a few conversations, and is no bound on the supremum, which no
    sample gives.

    Limits: both Q̂ were fitted to finite logs, and the noise of both fits is part of d. A tolerance
    below that noise is never met. Fewer than some 20 conversations make an interval too narrow.

    Args:
        conversation_ids: Conversation of each turn.
        previous: Q̂ of the round before, in discounted outcomes.
        this: Q̂ of this round, on the same turns.
        tolerance: Largest RMSE that counts as no change, in discounted outcomes.
        samples: Resamples of the conversations.
        seed: Of the resampling.

    Returns:
        The numbers; all NaN, hence not converged, where a value is not finite.

    Raises:
        ValueError: If the three are not equally long, or empty.

    >>> found = convergence(["a", "a", "b", "b"], [0.1, 0.2, 0.3, 0.4], [0.1, 0.2, 0.3, 0.8],
    ...                     tolerance=0.02)
    >>> [round(n.value, 6) for n in (found.rmse, found.max_norm, found.mean_change)]
    [0.2, 0.4, 0.1]
    >>> found.rank_correlation.value, found.converged
    (1.0, False)
    """
    before_N, after_N = (np.asarray(each, dtype=float) for each in (previous, this))
    if not (before_N.shape == after_N.shape == (len(conversation_ids),)) or not len(before_N):
        raise ValueError(
            f"{len(conversation_ids)} conversations of turns, and values of shapes "
            f"{before_N.shape} and {after_N.shape}"
        )
    resamples = Resamples.of(conversation_ids, samples=samples, seed=seed)
    rmse = max_norm = mean_change = rank_correlation = Number(math.nan, math.nan, math.nan)
    if np.isfinite(before_N).all() and np.isfinite(after_N).all():
        whole_1C = np.ones((1, resamples.num_conversations))
        whole_14 = _changes(before_N, after_N, whole_1C, resamples.conversation_N)
        drawn_S4 = np.vstack(
            [
                np.empty((0, 4)),
                *(
                    _changes(before_N, after_N, times_SC, resamples.conversation_N)
                    for times_SC in resamples.times(width=len(before_N))
                ),
            ]
        )
        rmse, max_norm, mean_change, rank_correlation = (
            Number(float(whole_14[0, column]), *percentile_interval(drawn_S4[:, column]))
            for column in range(4)
        )
    return Convergence(
        rmse,
        max_norm,
        mean_change,
        rank_correlation,
        len(before_N),
        resamples.num_conversations,
        tolerance,
    )


def _changes(before_N: Array, after_N: Array, times_SC: Array, conversation_N: Array) -> Array:
    """RMSE, max-norm, mean and rank correlation of each resample, (S, 4)."""
    change_N = after_N - before_N
    largest_C = np.zeros(times_SC.shape[1])
    np.maximum.at(largest_C, conversation_N, np.abs(change_N))
    weight_SN = times_SC[:, conversation_N]
    turns_S = weight_SN.sum(axis=1)
    return np.stack(
        [
            np.sqrt(weight_SN @ change_N**2 / turns_S),
            np.where(times_SC > 0, largest_C, 0.0).max(axis=1),
            weight_SN @ change_N / turns_S,
            _rank_correlation(before_N, after_N, weight_SN),
        ],
        axis=1,
    )


def _rank_correlation(before_N: Array, after_N: Array, weight_SN: Array) -> Array:
    """Spearman's, each turn standing as often as its weight says; NaN where one is constant."""
    before_SN, after_SN = (_centred_ranks(each, weight_SN) for each in (before_N, after_N))
    product, before, after = (
        (weight_SN * each).sum(axis=1) for each in (before_SN * after_SN, before_SN**2, after_SN**2)
    )
    return ratio(product, np.sqrt(before * after))


def _centred_ranks(value_N: Array, weight_SN: Array) -> Array:
    """Mean ranks as shares of the resample, less 1/2, (S, N); their weighted mean is 0.

    A value that stands W times, above B smaller ones of T in all, has the mean rank B + (W + 1)/2.
    A correlation does not see the 1/2 and the scale: here it is (B + W/2) / T − 1/2.
    """
    values_V, place_N = np.unique(value_N, return_inverse=True)
    order_N = np.argsort(place_N, kind="stable")
    starts_V = np.searchsorted(place_N[order_N], np.arange(len(values_V)))
    mass_SV = np.add.reduceat(weight_SN[:, order_N], starts_V, axis=1)
    below_SV = np.cumsum(mass_SV, axis=1) - mass_SV
    share_SV = (below_SV + mass_SV / 2) / mass_SV.sum(axis=1, keepdims=True) - 0.5
    ranks_SN: Array = share_SV[:, place_N]
    return ranks_SN
