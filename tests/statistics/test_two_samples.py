"""Ratios in two arms: the estimates by hand, the intervals by coverage and by known formulas."""

import math

import numpy as np
import pytest

from iterppo.statistics.two_samples import Sample, ratio_differences, ratios


def means(values: np.ndarray, units: np.ndarray) -> Sample:
    return Sample(values[:, None].astype(float), np.ones((len(values), 1)), units)


def test_a_measure_is_a_ratio_of_sums() -> None:
    sample = Sample(
        np.array([[1.0, 3.0], [2.0, 0.0]]), np.array([[4.0, 0.0], [2.0, 0.0]]), np.array(["a", "b"])
    )

    found = ratios(sample, level=0.95)

    assert found[0].value == 0.5
    assert all(math.isnan(each) for each in found[1]), "nothing to divide by"


@pytest.mark.parametrize(
    ("num", "copies", "has_interval"),
    [
        pytest.param(1, 1, False, id="one"),
        pytest.param(19, 1, False, id="too few"),
        pytest.param(2, 50, False, id="many rows of too few units"),
        pytest.param(20, 1, True, id="enough"),
    ],
)
def test_resamples_of_too_few_units_are_no_interval(
    num: int, copies: int, has_interval: bool
) -> None:
    """One conversation that went well is no certainty; nor is its difference to many others."""
    few = means(np.arange(num * copies) % 2, np.arange(num).repeat(copies))
    many = means(np.arange(100) % 3, 1000 + np.arange(100))

    for estimates in (
        ratios(few, level=0.95),
        ratio_differences(few, many, level=0.95),
        ratio_differences(many, few, level=0.95),
    ):
        assert math.isfinite(estimates[0].value)
        assert [math.isfinite(end) for end in estimates[0][1:]] == [has_interval] * 2
    assert math.isfinite(ratios(many, level=0.95)[0].low)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_measure_that_is_the_same_in_all_units_has_no_interval(value: float) -> None:
    """Of a hundred failures all resamples are alike; the rate may be one in thirty all the same."""
    alike = means(np.full(100, value), np.arange(100))
    others = means(np.arange(100) % 3, 1000 + np.arange(100))
    weighed = Sample(alike.above_NF * 3, alike.below_NF * 3, alike.unit_N)

    for estimates in (
        ratios(alike, level=0.95),
        ratios(weighed, level=0.95),
        ratio_differences(alike, others, level=0.95),
        ratio_differences(others, alike, level=0.95),
    ):
        assert math.isfinite(estimates[0].value)
        assert all(math.isnan(end) for end in estimates[0][1:])


def test_the_interval_of_a_mean_is_the_normal_one_in_large_arms() -> None:
    generator = np.random.default_rng(0)
    one, base = generator.exponential(size=3000), generator.exponential(2, size=2000)

    (found,) = ratio_differences(
        means(one, np.arange(3000)), means(base, 3000 + np.arange(2000)), level=0.95
    )

    error = math.sqrt(np.var(one) / 3000 + np.var(base) / 2000)
    assert found.value == pytest.approx(one.mean() - base.mean())
    # 1,000 resamples know a quantile to about 0.07 standard errors.
    assert found.low == pytest.approx(found.value - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(found.value + 1.96 * error, abs=0.2 * error)


def test_units_are_drawn_as_a_whole() -> None:
    """Ten copies of every value say as much as one."""
    generator = np.random.default_rng(1)
    value, base = generator.random(100), generator.random(100)
    units = np.arange(100)

    alone = ratio_differences(means(value, units), means(base, 100 + units), level=0.95)
    copied = ratio_differences(
        means(value.repeat(10), units.repeat(10)),
        means(base.repeat(10), 100 + units.repeat(10)),
        level=0.95,
    )

    assert copied[0] == pytest.approx(alone[0])


def test_units_in_both_arms_are_drawn_in_both() -> None:
    """Customers differ much, and the arms by 0.1 for each of them: what they differ by cancels."""
    generator = np.random.default_rng(2)
    own = generator.normal(size=200)
    units = np.arange(200)

    (found,) = ratio_differences(means(own + 0.1, units), means(own, units), level=0.95)

    assert tuple(found) == pytest.approx((0.1, 0.1, 0.1))


def test_intervals_of_a_share_of_turns_cover_as_they_say() -> None:
    """Conversations differ in their number of turns and in the share of turns that they adopt."""
    generator = np.random.default_rng(3)
    covered = 0
    for _ in range(400):
        samples = []
        for first in (0, 60):
            turns = generator.integers(1, 8, size=60)
            adopted = generator.binomial(turns, generator.beta(2, 2, size=60))
            samples.append(
                Sample(
                    adopted[:, None].astype(float),
                    turns[:, None].astype(float),
                    first + np.arange(60),
                )
            )
        (found,) = ratio_differences(samples[0], samples[1], level=0.95)
        covered += found.low <= 0 <= found.high

    assert covered / 400 >= 0.95 - 2 * math.sqrt(0.95 * 0.05 / 400)
