"""How sure one may be that two rates differ, in agreement with Newcombe's interval."""

from __future__ import annotations

from statistics import NormalDist

from scipy.optimize import brentq

from iterppo.statistics.intervals import newcombe_interval


def newcombe_p_value(successes: int, trials: int, base_successes: int, base_trials: int) -> float:
    """The level at which Newcombe's interval of the difference begins to hold 0.

    A test of its own beside the interval would now and then contradict it. Below 2·10⁻⁹ it is 0,
    since there the interval is that of a hundred standard errors.

    >>> round(newcombe_p_value(56, 70, 48, 80), 4)
    0.0081
    >>> newcombe_p_value(5, 10, 5, 10)
    1.0
    """
    difference = successes / trials - base_successes / base_trials
    if difference == 0:
        return 1.0
    sign = 1 if difference > 0 else -1

    def nearest_end(z: float) -> float:
        level = 2 * NormalDist().cdf(z) - 1
        low, high = newcombe_interval(successes, trials, base_successes, base_trials, level=level)
        return low if sign > 0 else -high

    if nearest_end(6.0) > 0:
        return 0.0
    z = brentq(nearest_end, 1e-9, 6.0)
    return 2 * NormalDist().cdf(-float(z))
