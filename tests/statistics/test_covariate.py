"""Adjustment takes noise out and leaves the effect in."""

import numpy as np
import pytest

from iterppo.statistics.covariate import adjust
from iterppo.statistics.outcome_effect import Outcomes, outcome_effect


def test_the_variance_falls_by_the_square_of_the_correlation() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=20_000)
    y = 0.6 * x + 0.8 * generator.normal(size=20_000)
    arm = np.arange(20_000) % 2

    found = adjust(y + arm, x, arm)

    assert found.theta == pytest.approx(0.6, abs=0.02)
    assert found.variance_explained == pytest.approx(0.36, abs=0.02)
    assert np.var(found.value_N[arm == 0]) == pytest.approx(0.64, abs=0.02)
    difference = found.value_N[arm == 1].mean() - found.value_N[arm == 0].mean()
    assert difference == pytest.approx(1, abs=0.03)


def test_conversations_without_a_covariate_stay_as_they_are() -> None:
    y, x = np.array([1.0, 3.0, 5.0, 7.0, 100.0]), np.array([0.0, 1.0, 0.0, 1.0, np.nan])

    found = adjust(y, x, np.array([0, 0, 1, 1, 1]))

    assert found.theta == 2
    assert found.value_N.tolist() == [2.0, 2.0, 6.0, 6.0, 100.0]


@pytest.mark.parametrize("x", [[1.0, 1.0, 1.0, 1.0], [np.nan] * 4], ids=["constant", "unknown"])
def test_a_covariate_that_says_nothing_changes_nothing(x: list[float]) -> None:
    y = np.array([1.0, 0.0, 1.0, 0.0])

    found = adjust(y, np.array(x), np.array([0, 0, 1, 1]))

    assert (found.value_N.tolist(), found.theta, found.variance_explained) == (y.tolist(), 0.0, 0.0)


def test_adjusted_tests_keep_their_level_and_find_more() -> None:
    """1,000 experiments without a difference and 1,000 with one; V knows half of what there is."""
    generator = np.random.default_rng(0)
    found = {}
    for lift in (0.0, 0.08):
        plain = adjusted = 0
        for _ in range(1000):
            v = generator.choice([0.05, 0.55], size=400)
            arm = np.arange(400) % 2
            y = (generator.random(400) < v + lift * arm).astype(float)
            z = adjust(y, v, arm).value_N
            for name, values in (("plain", y), ("adjusted", z)):
                effect = outcome_effect(
                    Outcomes(values[arm == 1]),
                    Outcomes(values[arm == 0]),
                    is_adjusted=name == "adjusted",
                    scale=None,
                    level=0.95,
                )
                plain += name == "plain" and effect.p_value <= 0.05
                adjusted += name == "adjusted" and effect.p_value <= 0.05
        found[lift] = (plain / 1000, adjusted / 1000)

    assert found[0.0][1] <= 0.065  # 5 % and two standard errors
    assert found[0.08][1] > found[0.08][0] + 0.05
