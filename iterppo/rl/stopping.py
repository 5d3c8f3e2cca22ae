"""When a policy step ends, and which of its policies is kept.

The policy is read now and then on prompts that it is not trained on. PPO climbs Q̂, and what it
finds in the end are Q̂'s errors: the true value has a peak, Q̂ has none (Gao et al., 2023). A second
Q̂, fitted on other conversations, has other errors; where it falls while the first one still rises,
the step has begun to exploit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """A policy on the watched prompts. Shapes: P prompts."""

    update: int
    """Updates that it has had."""
    q_P: tuple[float, ...]
    """Reward of its completion of each prompt, in discounted outcomes."""
    judge_P: tuple[float, ...] | None
    """The same by the second Q̂; None where there is none."""
    kl: float
    """Mean of Σ_t log π − log π_ref over the completions, in nats."""
    entropy: float
    """Mean of −Σ_t log π over the completions: a one-sample estimate of H(π(·|s)), in nats."""
    distinct: float
    """Share of different bigrams among all bigrams of the completions."""

    @property
    def q(self) -> float:
        """Mean reward."""
        return sum(self.q_P) / len(self.q_P)

    @property
    def score(self) -> float:
        """What a policy is judged by: the judge's mean, or the reward's without one."""
        scores = self.q_P if self.judge_P is None else self.judge_P
        return sum(scores) / len(scores)


@dataclass(frozen=True)
class Limits:
    """What a policy step must not pass, 0 switches a limit off; and what a nat costs it."""

    kl_coefficient: float = 0.0
    """β of the objective that is climbed, in units of the reward per nat."""
    kl: float = 0.0
    """Largest KL from the policy before, in nats per completion."""
    entropy: float = 0.0
    """Least entropy, as a share of the first reading's."""
    distinct: float = 0.0
    """Least share of distinct bigrams, as a share of the first reading's."""
    judge_fall: float = 0.0
    """Standard errors that the judge's mean may fall below its best."""


def broken(readings: Sequence[Reading], limits: Limits) -> str | None:
    """Which limit the last reading passes, in words; None if it passes none.

        KL(π‖π_ref) > kl        H < entropy · H_0        distinct < distinct · distinct_0
        mean_p d_p > judge_fall · sd(d)/√P  with  d_p = judge_p(best) − judge_p(last),
                                            while q has risen since the best

    The differences are taken prompt by prompt: prompts differ far more than policies do.

    Args:
        readings: In the order of the updates, the policy before the first update first.
        limits: See `Limits`.
    """
    first, last = readings[0], readings[-1]
    if limits.kl and last.kl > limits.kl:
        return f"KL of {last.kl:.2f} nat is over its budget of {limits.kl:g}"
    # An entropy that is zero from the start cannot collapse.
    if limits.entropy and last.entropy < limits.entropy * first.entropy:
        return f"entropy fell from {first.entropy:.2f} to {last.entropy:.2f} nat"
    if limits.distinct and last.distinct < limits.distinct * first.distinct:
        return f"distinct bigrams fell from {first.distinct:.2f} to {last.distinct:.2f}"
    return _judge_falls(readings, limits)


def best(readings: Sequence[Reading], limits: Limits) -> int:
    """Index of the best reading among those within the KL budget, of equal ones the earliest. The
    policy before the first update is always within it.

        argmax_u  score(π_u) − β KL(π_u‖π_ref)

    That is what the step climbs. By the score alone, a policy that has gone far for next to nothing
    would be preferred to one that has since come back.
    """
    allowed = [
        number
        for number, reading in enumerate(readings)
        if number == 0 or not limits.kl or reading.kl <= limits.kl
    ]

    def objective(number: int) -> float:
        return readings[number].score - limits.kl_coefficient * readings[number].kl

    return max(allowed, key=lambda number: (objective(number), -number))


def _judge_falls(readings: Sequence[Reading], limits: Limits) -> str | None:
    highest, last = readings[best(readings, limits)], readings[-1]
    if not limits.judge_fall or highest.judge_P is None or last.judge_P is None:
        return None
    fall_P = [a - b for a, b in zip(highest.judge_P, last.judge_P, strict=True)]
    fall = sum(fall_P) / len(fall_P)
    variance = sum((each - fall) ** 2 for each in fall_P) / max(1, len(fall_P) - 1)
    if last.q > highest.q and fall > limits.judge_fall * math.sqrt(variance / len(fall_P)):
        return (
            f"Q on other conversations fell from {highest.score:.3f} to {last.score:.3f} while the "
            f"reward rose from {highest.q:.3f} to {last.q:.3f}"
        )
    return None
