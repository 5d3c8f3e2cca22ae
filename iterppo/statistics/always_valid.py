"""A comparison that may be looked at every day, and stopped on any of them.

    θ̂ ± √( V (V + τ²)/τ² · [2 log(1/α) + log((V + τ²)/V)] )

Shapes: any, elementwise; θ̂ and V are those of the looks.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from iterppo.statistics.resampling import Array

LEAST_DEGREES_OF_FREEDOM = 10.0
"""An estimate of a variance that rests on fewer is too unsure for a test without an end."""


class AlwaysValid(NamedTuple):
    """What holds at every look together."""

    p_value: Array
    low: Array
    high: Array


def always_valid(
    difference: Array | float, variance: Array | float, *, scale: float, level: float
) -> AlwaysValid:
    """Interval and p-value of the mixture sequential probability ratio test.

        Λ = √(V/(V + τ²)) · exp( τ² θ̂² / (2 V (V + τ²)) ),    p = min(1, 1/Λ)

    Λ is the likelihood ratio of θ = 0 against θ ~ N(0, τ²). While nothing differs it is a
    martingale that begins at 1, so that by Ville's inequality it ever exceeds 1/α with a chance of
    at most α, however often one looks. The interval holds the θ that are not rejected: Robbins'
    (1970) normal mixture; for A/B tests Johari, Koomen, Pekelis & Walsh (2022, Operations Research
    70(3)). V is estimated, so all this holds as the arms grow (asymptotically), not for a dozen
    conversations.

    τ should be the difference that one would like to find: among all τ the interval is narrowest
    where τ² = 8.2 V (at α = 0.05), and there its half is 1.06 τ, 1.5 times that of an interval for
    one look.

    Args:
        difference: θ̂, estimated difference at each look.
        variance: V, squared standard error of θ̂ at each look; infinite where it is not known.
        scale: τ, in the units of θ̂.
        level: 1 − α.

    Raises:
        ValueError: If scale is not positive.

    >>> found = always_valid(0.1, 0.0004, scale=0.05, level=0.95)
    >>> round(float(found.p_value), 6), round(float(found.low), 4), round(float(found.high), 4)
    (5.6e-05, 0.0392, 0.1608)
    """
    if not scale > 0:
        raise ValueError(f"scale {scale}")
    known = np.isfinite(variance)
    theta = np.where(known, difference, 0.0)
    v = np.where(known, variance, 1.0)
    total = v + scale**2
    exponent = np.log(v / total) / 2 + scale**2 * theta**2 / (2 * v * total)
    half = np.sqrt(v * total / scale**2 * (2 * np.log(1 / (1 - level)) + np.log(total / v)))
    half = np.where(known, half, np.inf)
    return AlwaysValid(
        np.where(known, np.exp(-np.maximum(exponent, 0)), 1.0), theta - half, theta + half
    )


def rate_variance(
    successes: Array | int,
    trials: Array | int,
    base_successes: Array | int,
    base_trials: Array | int,
) -> Array:
    """Squared standard error of the difference of two rates that does not vanish at 0 and 1.

        V = max( p̃(1 − p̃)(1/n + 1/m), p̃_1(1 − p̃_1)/n + p̃_0(1 − p̃_0)/m ),    p̃ = (s + 2)/(t + 4)

    p̃ is Agresti & Coull's (1998). The first is right where nothing differs, the second where
    something does; a test without an end must err in neither. Infinite where an arm is empty.

    >>> round(float(rate_variance(50, 100, 50, 100)), 6)
    0.005
    >>> float(rate_variance(0, 0, 1, 5))
    inf
    """
    n, m = np.asarray(trials, dtype=float), np.asarray(base_trials, dtype=float)

    def spread(s: Array, t: Array) -> Array:
        p = (s + 2) / (t + 4)
        found: Array = p * (1 - p)
        return found

    one, other = np.asarray(successes), np.asarray(base_successes)
    with np.errstate(divide="ignore"):
        pooled = spread(one + other, n + m) * (1 / n + 1 / m)
        apart = spread(one, n) / n + spread(other, m) / m
    return np.maximum(pooled, apart)
