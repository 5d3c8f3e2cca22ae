"""Resamples as multiplicities: what is drawn, and sums against the rows written out."""

import numpy as np
import pytest

from iterppo.statistics import resampling
from iterppo.statistics.intervals import cluster_bootstrap, percentile_interval
from iterppo.statistics.resampling import Resamples

IDS = ["b", "a", "b", "c", "a", "b", "d"]


def all_times(resamples: Resamples) -> np.ndarray:
    return np.vstack(list(resamples.times()))


def rows_of(resamples: Resamples) -> list[np.ndarray]:
    return [
        np.repeat(np.arange(len(IDS)), times.astype(int)[resamples.conversation_N])
        for times in all_times(resamples)
    ]


def test_every_resample_draws_as_many_conversations_as_there_are() -> None:
    times = all_times(Resamples.of(IDS, samples=200, seed=0))

    assert times.shape == (200, 4)
    assert (times.sum(axis=1) == 4).all()
    # Each is drawn once on average: the standard error of 200 means is √(3/4 / 200) = 0.06.
    assert times.mean(axis=0) == pytest.approx(np.ones(4), abs=0.25)
    assert times.max() >= 3


def test_sums_are_those_of_the_rows_written_out() -> None:
    resamples = Resamples.of(IDS, samples=30, seed=1)
    columns = np.random.default_rng(0).normal(size=(7, 2))

    assert resamples.sums(columns) == pytest.approx(
        np.array([columns[rows].sum(axis=0) for rows in rows_of(resamples)])
    )


def test_grouped_sums_are_sums_of_the_rows_of_a_group() -> None:
    resamples = Resamples.of(IDS, samples=30, seed=1)
    columns = np.random.default_rng(0).normal(size=(7, 2))
    group = np.array([0, 2, 2, 0, 0, 2, 2])

    found = resamples.grouped_sums(columns, group, num_groups=3)

    for number in range(3):
        alone = np.where(group[:, None] == number, columns, 0.0)
        assert found[:, number] == pytest.approx(resamples.sums(alone))
    assert (found[:, 1] == 0).all()


def test_a_pair_counts_as_often_as_its_copies_can_meet() -> None:
    resamples = Resamples.of(IDS, samples=30, seed=1)
    first, second = np.array([0, 1, 4]), np.array([1, 3, 6])
    columns = np.random.default_rng(0).normal(size=(3, 2))

    expected = [
        sum(
            columns[pair] * np.sum(rows == first[pair]) * np.sum(rows == second[pair])
            for pair in range(3)
        )
        for rows in rows_of(resamples)
    ]

    assert resamples.pair_sums(first, second, columns) == pytest.approx(np.array(expected))


def test_some_of_the_turns_see_the_same_draws() -> None:
    resamples = Resamples.of(IDS, samples=20, seed=3)
    some = resamples.rows(np.array([1, 4]))  # both of "a"

    assert some.sums(np.ones((2, 1)))[:, 0] == pytest.approx(2 * all_times(resamples)[:, 0])


def test_blocks_do_not_change_the_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    resamples = Resamples.of(IDS, samples=50, seed=5)
    at_once = all_times(resamples)
    monkeypatch.setattr(resampling, "ELEMENTS_AT_ONCE", 12)

    assert len(list(resamples.times())) == 17  # three resamples of four conversations
    assert len(list(resamples.times(width=7))) == 50
    assert (all_times(resamples) == at_once).all()


def test_the_seed_decides() -> None:
    same, again, other = (all_times(Resamples.of(IDS, samples=50, seed=n)) for n in (0, 0, 1))

    assert (same == again).all()
    assert (same != other).any()


def test_nothing_drawn_from_nothing() -> None:
    assert Resamples.of([], samples=10, seed=0).sums(np.empty((0, 2))).shape == (0, 2)
    assert Resamples.of(IDS, samples=0, seed=0).sums(np.ones((7, 2))).shape == (0, 2)


def test_the_interval_is_that_of_the_bootstrap_which_copies_rows() -> None:
    generator = np.random.default_rng(0)
    ids, values = np.repeat(np.arange(60), 3), generator.normal(size=180)
    sums = Resamples.of(ids, samples=4000, seed=0).sums(np.stack([np.ones(180), values], axis=1))

    fast = percentile_interval(sums[:, 1] / sums[:, 0])
    slow = cluster_bootstrap(ids, lambda rows: float(values[rows].mean()), samples=4000, seed=1)

    # Different draws of the same distribution: standard deviation of a mean of 60, 0.075.
    assert fast == pytest.approx(slow, abs=0.01)
