"""Can a log of b say anything of π? How far the conversations that weigh most outweigh the others.

Shapes: N conversations, T turns.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from iterppo.config import EvaluateConfig
from iterppo.statistics import FEWEST_CONVERSATIONS
from iterppo.statistics.off_policy_log import OffPolicyLog

LARGEST_ERRORS = 3.29
"""Standard errors by which the mean ratio may miss 1: passed once in a thousand logs."""
SMALLEST_MISS = 0.01
"""Of the mean ratio, and so of the outcome rate as a share of itself: nobody decides by less. Two
policies that are nearly the same have standard errors that rounding of log-probabilities passes."""


@dataclass(frozen=True)
class Limits:
    """What importance sampling must keep."""

    least_effective: float
    """Effective sample size, in conversations."""
    most_weight: float
    """Share of all weight that one conversation may have."""
    ratio_range: tuple[float, float]
    """Ratios of a turn that count as overlap."""
    least_turn_overlap: float
    """Effective share of the turns below which nobody can tell whether Q̂ is right where π goes; 0:
    nobody asks."""


def limits_of(config: EvaluateConfig) -> Limits:
    """Those of the stage's configuration."""
    return Limits(
        least_effective=config.least_effective,
        most_weight=config.most_weight,
        ratio_range=(config.ratio_low, config.ratio_high),
        least_turn_overlap=config.least_turn_overlap,
    )


@dataclass(frozen=True)
class Overlap:
    """Of the ratios of whole conversations, and of turns."""

    num_conversations: int
    """Whose outcome is known."""
    effective_sample_size: float
    """(Σ w)² / Σ w²: conversations of equal weight that would say as much."""
    max_weight_share: float
    """Of the conversation that weighs most."""
    share_in_range: float
    """Of the turns, those whose ratio lies in the range; NaN where no turn has an action."""
    mean_ratio: float
    """Of whole conversations. It is 1 in expectation where π does nothing that b never does; far
    below 1, π goes where the log does not."""
    mean_ratio_error: float
    """Its standard error."""


def turn_overlap(log: OffPolicyLog) -> float:
    """(Σ ρ)² / (n Σ ρ²) of the n turns with an action, each by itself: what share of them says
    something of π; 1 where there is none.

    >>> from iterppo.statistics.off_policy_log import LoggedConversation, arrays
    >>> turn_overlap(arrays([LoggedConversation("a", [0, 0], [math.log(3), math.log(2)])]))
    0.961538461538
    """
    turn_M = log.log_ratio_NT[log.action_NT]
    if len(turn_M) == 0:
        return 1.0
    top = float(turn_M.max())
    if not math.isfinite(top):
        return 0.0
    ratio_M = np.exp(turn_M - top)
    return round(float(ratio_M.sum() ** 2 / (ratio_M @ ratio_M)) / len(ratio_M), 12)


def overlap(log: OffPolicyLog, limits: Limits) -> Overlap:
    """How much of a log importance sampling can use.

    Args:
        log: Whose ratios are known at all turns.
        limits: The range of ratios.
    """
    known_N = log.weight_N > 0
    num = int(known_N.sum())
    low, high = (math.log(end) if end > 0 else -math.inf for end in limits.ratio_range)
    turn_M = log.log_ratio_NT[log.action_NT]
    share = float(np.mean((turn_M >= low) & (turn_M <= high))) if len(turn_M) else math.nan
    if num == 0:
        return Overlap(0, 0.0, math.nan, share, math.nan, math.nan)
    last_N = log.cumulative()[known_N, -1]
    top = float(last_N.max())
    if not math.isfinite(top):  # π would never have led to any of these conversations
        return Overlap(num, 0.0, math.nan, share, 0.0, 0.0)
    censoring_N = log.weight_N[known_N]
    weight_N = censoring_N * np.exp(last_N - top)
    total = float(weight_N.sum())
    with np.errstate(over="ignore", invalid="ignore"):
        ratio_N = np.exp(last_N)
        mean = float(censoring_N @ ratio_N / censoring_N.sum())
        error = float(np.linalg.norm(censoring_N * (ratio_N - mean)) / censoring_N.sum())
    return Overlap(
        num,
        total**2 / float(weight_N @ weight_N),
        float(weight_N.max()) / total,
        share,
        mean,
        error,
    )


def unsupported(found: Overlap, limits: Limits) -> str | None:
    """Why importance sampling has no answer; None where it has one.

    1. Too few conversations with a known outcome: no interval can be bootstrapped.
    2. The effective sample size is below the limit: few conversations stand for all of π's.
    3. One conversation has too much of the weight.
    4. The mean ratio is far from 1: the policies are not those that they are said to be, or π does
       what b never did, which no weight can make up for.
    """
    if found.num_conversations < FEWEST_CONVERSATIONS:
        return (
            f"{found.num_conversations} conversations with a known outcome; "
            f"{FEWEST_CONVERSATIONS} are needed"
        )
    if found.effective_sample_size < limits.least_effective:
        return (
            f"effective sample size {found.effective_sample_size:.1f} of "
            f"{found.num_conversations} conversations, below {limits.least_effective:g}: the "
            "policies are too far apart for this log, or some of its log-probabilities are off"
        )
    if found.max_weight_share > limits.most_weight:
        return (
            f"one conversation has {found.max_weight_share:.0%} of the weight, more than "
            f"{limits.most_weight:.0%}"
        )
    most = max(SMALLEST_MISS, LARGEST_ERRORS * found.mean_ratio_error)
    if not abs(found.mean_ratio - 1) <= most:
        return (
            f"the mean ratio is {found.mean_ratio:.3g} (standard error "
            f"{found.mean_ratio_error:.2g}) where 1 is due: the new policy does what the log never "
            "shows, or the log-probabilities are not those of its policy"
        )
    return None
