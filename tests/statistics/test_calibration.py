"""Is a Q̂ of x worth x: by hand, one resample at a time, and how often intervals hold the truth."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.statistics.calibration import (
    calibration,
    calibration_by_group,
    calibration_error,
    prediction_bins,
)
from iterppo.statistics.resampling import Resamples

ONES = np.ones(4)
SCORES = st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 1.0, -3.0])
SCORED = st.lists(st.tuples(SCORES, st.booleans()), min_size=1, max_size=25)


def test_calibration_error_is_that_worked_by_hand() -> None:
    prediction, target = np.array([0.9, 0.1, 0.7, 0.3]), np.array([1.0, 0.0, 0.0, 0.0])

    # Lower bin 0.1, 0.3 against 0, 0: gap 0.2; upper 0.7, 0.9 against 0, 1: gap 0.3.
    assert calibration_error(prediction, target, ONES, num_bins=2) == pytest.approx(0.25)
    # One bin: mean prediction 0.5 against 0.25.
    assert calibration_error(prediction, target, ONES, num_bins=1) == pytest.approx(0.25)
    # Weights 1, 0, 0, 3 (lower bin 0.3 against 0 with mass 3, upper 0.9 against 1 with mass 1).
    weight = np.array([1.0, 0.0, 0.0, 3.0])
    assert calibration_error(prediction, target, weight, num_bins=2) == pytest.approx(
        (3 * 0.3 + 0.1) / 4
    )


def test_a_perfect_prediction_is_calibrated_in_as_many_bins_as_one_likes() -> None:
    target = np.array([0.0, 1.0, 0.5, 1.0, 0.0])

    assert calibration_error(target, target, np.ones(5), num_bins=10) == 0


def test_without_weight_there_is_no_calibration() -> None:
    assert math.isnan(calibration_error(ONES, ONES, ONES * 0))


def test_equal_predictions_share_a_bin() -> None:
    """A constant that is right on average is calibrated, whatever the order of the turns."""
    target = np.repeat([0.0, 1.0], 50)

    assert calibration_error(np.full(100, 0.5), target, np.ones(100)) == pytest.approx(0, abs=1e-12)


@given(scored=SCORED, seed=st.integers(0, 9))
def test_calibration_does_not_depend_on_the_order_of_the_turns(
    scored: list[tuple[float, bool]], seed: int
) -> None:
    prediction, target = (np.array(column, dtype=float) for column in zip(*scored, strict=True))
    weight = np.ones(len(scored))
    order = np.random.default_rng(seed).permutation(len(scored))

    assert calibration_error(prediction[order], target[order], weight) == pytest.approx(
        calibration_error(prediction, target, weight)
    )


# --- the curve and its intervals -----------------------------------------------------------------


def turns(
    *, num_conversations: int = 100, shift: float = 0.0, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Conversation, Q̂, return and weight of 4 turns each that share their luck; the Q̂ is the
    truth plus `shift`."""
    generator = np.random.default_rng(seed)
    ids = np.repeat(np.arange(num_conversations), 4)
    q = generator.uniform(0.2, 0.6, size=len(ids))
    g = (generator.random(num_conversations)[ids] < q).astype(float)
    return ids, q + shift, g, generator.uniform(1, 2, size=len(ids))


def test_bins_have_equal_size() -> None:
    _, q, _, _ = turns()

    bins = prediction_bins(q, num_bins=10)

    assert (np.bincount(bins) == 40).all()
    assert max(q[bins == 3]) < min(q[bins == 4])


def test_the_curve_is_that_worked_by_hand() -> None:
    q, g, w = np.array([0.9, 0.1, 0.7, 0.3]), np.array([1.0, 0, 0, 0]), np.array([1.0, 1, 3, 1])

    found = calibration(q, g, w, Resamples.of(list("abab"), samples=50, seed=0), num_bins=2)

    lower, upper = found.curve
    assert lower["q_mean"] == pytest.approx(0.2)
    assert upper["q_mean"] == pytest.approx((0.9 + 3 * 0.7) / 4)
    assert (lower["return_mean"], upper["return_mean"]) == (0, 0.25)
    assert (lower["weight"], upper["weight"]) == (2, 4)
    assert (lower["num_turns"], lower["num_conversations"]) == (2, 1)  # both of "b"
    assert found.error == pytest.approx((2 * 0.2 + 4 * 0.5) / 6)


def test_intervals_are_those_of_conversations_written_out(slow_interval: Any) -> None:
    ids, q, g, w = turns(num_conversations=40, shift=0.2)
    resamples = Resamples.of(ids, samples=60, seed=0)
    bins = prediction_bins(q, num_bins=10)
    gaps = [np.average((q - g)[bins == b], weights=w[bins == b]) for b in range(10)]

    def error(rows: Any, less: Any = (0.0,) * 10) -> float:
        total = 0.0
        for b in range(10):
            of = rows[bins[rows] == b]
            total += abs(float(np.sum(w[of] * (q[of] - g[of] - less[b]))))
        return total / float(w[rows].sum())

    found = calibration(q, g, w, resamples)
    _, high = slow_interval(resamples, error)

    assert found.error == pytest.approx(error(np.arange(160)))
    assert found.low == pytest.approx(max(0, 2 * found.error - high))
    assert found.high == pytest.approx(high)
    by_chance = [0.0]
    slow_interval(resamples, lambda rows: by_chance.append(error(rows, gaps)) or 0.0)
    assert found.by_chance == pytest.approx(np.mean(by_chance[1:]))
    assert found.by_chance_high == pytest.approx(np.quantile(by_chance[1:], 0.975))
    fourth = found.curve[3]
    mean_of_fourth = slow_interval(
        resamples,
        lambda rows: float(np.average(g[rows[bins[rows] == 3]], weights=w[rows[bins[rows] == 3]])),
    )
    assert (fourth["return_mean_low"], fourth["return_mean_high"]) == pytest.approx(mean_of_fourth)


def test_a_calibrated_q_stays_within_what_chance_shows_and_a_shifted_one_does_not() -> None:
    def beyond(shift: float) -> int:
        found = 0
        for seed in range(100):
            ids, q, g, w = turns(shift=shift, seed=seed)
            each = calibration(q, g, w, Resamples.of(ids, samples=200, seed=0))
            found += each.error > each.by_chance_high
        return found

    # 2.5 % are promised, and 8 of 100 would have a probability of 0.3 %.
    assert beyond(0.0) <= 8
    assert beyond(0.3) == 100


@pytest.mark.parametrize("shift", [0.05, 0.1, 0.2])
def test_the_interval_of_the_error_holds_the_true_one(shift: float) -> None:
    covered = 0
    for seed in range(100):
        ids, q, g, w = turns(shift=shift, seed=seed)
        found = calibration(q, g, w, Resamples.of(ids, samples=200, seed=0))
        covered += found.low <= shift <= found.high

    # 95 % are promised; fewer than 87 of 100 would have a probability of 0.1 %.
    assert covered >= 87


def test_without_weight_the_curve_is_empty() -> None:
    found = calibration(ONES, ONES, ONES * 0, Resamples.of(list("abcd"), samples=10, seed=0))

    assert found.curve == []
    assert all(math.isnan(x) for x in (found.error, found.low, found.high, found.by_chance))


# --- by group ------------------------------------------------------------------------------------


def test_groups_are_judged_alone_and_small_ones_left_out_and_counted() -> None:
    ids, q, g, w = turns()
    q = 3 * q - 0.8  # too low and too high: with gaps of one sign any number of bins is the same
    label = np.where(np.arange(400) < 100, "late", "early").astype(object)
    label[:29], label[29:40] = "rare", "rarer"
    resamples = Resamples.of(ids, samples=50, seed=0)

    found = calibration_by_group(label.tolist(), q, g, w, resamples)

    assert [group["label"] for group in found["groups"]] == ["early", "late"]
    assert (found["num_groups_left_out"], found["num_turns_left_out"]) == (2, 40)
    early, late = found["groups"]
    assert (early["num_turns"], early["num_conversations"]) == (300, 75)
    assert (late["num_turns"], late["num_conversations"]) == (60, 15)
    for group, rows, num_bins in ((early, slice(100, 400), 10), (late, slice(40, 100), 2)):
        assert group["calibration_error"] == pytest.approx(
            calibration_error(q[rows], g[rows], w[rows], num_bins=num_bins)
        )
        assert group["return_mean"] == pytest.approx(np.average(g[rows], weights=w[rows]))
        assert group["q_mean"] == pytest.approx(np.average(q[rows], weights=w[rows]))
        assert group["calibration_error_low"] <= group["calibration_error"]


def test_a_group_of_thirty_turns_is_reported() -> None:
    ids, q, g, w = (column[:30] for column in turns())

    found = calibration_by_group(["x"] * 30, q, g, w, Resamples.of(ids, samples=5, seed=0))

    assert [group["num_turns"] for group in found["groups"]] == [30]
