"""Robbins' mixture: its interval is its test's, is narrowest where it says, and holds daily."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, optimize, stats

from iterppo.statistics.always_valid import always_valid, rate_variance


@pytest.mark.parametrize("theta", [0.0, 0.03, -0.08])
def test_the_p_value_is_of_the_likelihood_ratio_against_the_mixture(theta: float) -> None:
    """Λ = ∫ N(θ̂; θ, V) N(θ; 0, τ²) dθ / N(θ̂; 0, V), here by quadrature."""
    variance, scale = 0.0005, 0.05

    def joint(effect: float) -> float:
        return float(
            stats.norm.pdf(theta, effect, math.sqrt(variance)) * stats.norm.pdf(effect, 0, scale)
        )

    mixed, _ = integrate.quad(joint, -1, 1, points=[0.0, theta])
    ratio = mixed / stats.norm.pdf(theta, 0, math.sqrt(variance))

    found = always_valid(theta, variance, scale=scale, level=0.95)

    assert float(found.p_value) == pytest.approx(min(1.0, 1 / ratio), rel=1e-6)


@given(
    difference=st.floats(-0.5, 0.5),
    variance=st.floats(1e-6, 0.1),
    level=st.floats(0.5, 0.999),
    scale=st.floats(0.005, 0.5),
)
def test_the_interval_excludes_zero_where_the_p_value_is_small(
    difference: float, variance: float, level: float, scale: float
) -> None:
    found = always_valid(difference, variance, scale=scale, level=level)

    alpha = 1 - level
    if found.p_value < alpha * (1 - 1e-9):
        assert found.low > 0 or found.high < 0
    elif found.p_value > alpha * (1 + 1e-9):
        assert found.low <= 0 <= found.high


def test_the_interval_is_narrowest_where_it_reaches_as_far_as_the_wanted_difference() -> None:
    variance = 0.0004

    def width(scale: float) -> float:
        found = always_valid(0.0, variance, scale=scale, level=0.95)
        return float(found.high - found.low)

    best = optimize.minimize_scalar(
        width, bounds=(1e-3, 1), method="bounded", options={"xatol": 1e-9}
    )

    times = best.x**2 / variance  # x = 2 log(1/α) + log(1 + x), where the derivative vanishes
    assert times == pytest.approx(2 * math.log(20) + math.log(1 + times), rel=1e-4)
    assert times == pytest.approx(8.21, rel=1e-3)
    assert width(best.x) / 2 / best.x == pytest.approx(1.06, rel=0.01)
    assert width(best.x) / 2 / (1.96 * math.sqrt(variance)) == pytest.approx(1.55, rel=0.01)


def test_an_unknown_variance_excludes_nothing() -> None:
    found = always_valid(0.4, math.inf, scale=0.05, level=0.95)

    assert (float(found.p_value), float(found.low), float(found.high)) == (1.0, -math.inf, math.inf)


def test_a_scale_is_positive() -> None:
    with pytest.raises(ValueError, match="scale 0"):
        always_valid(0.1, 0.1, scale=0, level=0.95)


@pytest.mark.parametrize("rate", [0.02, 0.3])
def test_a_daily_look_at_an_experiment_without_a_difference_seldom_finds_one(rate: float) -> None:
    """2,000 A/A tests, 60 days of 50 conversations per arm; all looks at once."""
    generator = np.random.default_rng(0)
    won, base_won = generator.binomial(50, rate, size=(2, 2000, 60)).cumsum(axis=2)
    num = 50 * np.arange(1, 61)

    found = always_valid(
        (won - base_won) / num, rate_variance(won, num, base_won, num), scale=0.05, level=0.95
    )

    assert np.mean((found.p_value <= 0.05).any(axis=1)) <= 0.055
    assert np.mean(((found.low > 0) | (found.high < 0)).any(axis=1)) <= 0.055


def test_the_interval_holds_the_truth_at_every_look_together() -> None:
    generator = np.random.default_rng(1)
    won, base_won = (generator.binomial(50, p, size=(2000, 60)).cumsum(axis=1) for p in (0.3, 0.2))
    num = 50 * np.arange(1, 61)

    found = always_valid(
        (won - base_won) / num, rate_variance(won, num, base_won, num), scale=0.05, level=0.95
    )

    assert np.mean(((found.low <= 0.1) & (found.high >= 0.1)).all(axis=1)) >= 0.945
    assert np.mean(found.p_value[:, -1] <= 0.05) > 0.99, "and it finds what is there"
