"""Batches of conversations to rows of returns, and that it does not matter how a log is batched."""

import functools
import itertools
from collections import Counter
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.rl.return_batches import Moments, Paid, Weighting, count_seen, pay, sum_seen
from iterppo.rl.returns import monte_carlo_returns

MIDNIGHT = datetime(2026, 5, 1, tzinfo=UTC)
LOG = st.lists(
    st.tuples(
        st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=1, max_size=6),  # rewards
        st.booleans(),  # censored
        st.integers(0, 30),  # hour of the first message; one an hour follows
    ),
    min_size=1,
    max_size=12,
)
Log = list[tuple[list[float], bool, int]]


def table(log: Log) -> pa.Table:
    """The columns of trajectories that the batches read."""
    rows = [
        {
            "conversation_id": f"c{number}",
            "turn": index + 1,
            "reward": reward,
            "censored": censored,
            "customer_time": MIDNIGHT + timedelta(hours=hour + 2 * index),
            "sent_time": MIDNIGHT + timedelta(hours=hour + 2 * index + 1),
            "sent": "ok",
        }
        for number, (rewards, censored, hour) in enumerate(log)
        for index, reward in enumerate(rewards)
    ]
    moment = pa.timestamp("us", tz="UTC")
    kinds = (pa.string(), pa.int32(), pa.float64(), pa.bool_(), moment, moment, pa.string())
    return pa.Table.from_pylist(
        rows, pa.schema([pa.field(*both) for both in zip(rows[0], kinds, strict=True)])
    )


def at(hour: int) -> np.datetime64:
    return np.datetime64((MIDNIGHT + timedelta(hours=hour)).replace(tzinfo=None), "us")


def both_passes(
    batches: list[pa.Table], until: np.datetime64 | None, *, max_weight: float = 20.0
) -> tuple[list[Paid], Weighting]:
    seen = sum_seen(count_seen(batch, until) for batch in batches)
    weighting = Weighting(seen, until, max_weight=max_weight)
    return [pay(batch, gamma=0.9, weighting=weighting) for batch in batches], weighting


@given(log=LOG, hour=st.none() | st.integers(0, 40), places=st.sets(st.integers(1, 11)))
def test_the_batches_of_a_log_make_what_the_whole_log_makes(
    log: Log, hour: int | None, places: set[int]
) -> None:
    until = None if hour is None else at(hour)
    edges = [0, *sorted(place for place in places if place < len(log)), len(log)]
    whole = table(log)
    first_turns = [*np.flatnonzero(whole["turn"].to_numpy() == 1), len(whole)]
    batches = [
        whole.slice(first_turns[start], first_turns[end] - first_turns[start])
        for start, end in itertools.pairwise(edges)
    ]

    paid, weighting = both_passes(batches, until)
    (expected,), expected_weighting = both_passes([whole], until)

    assert pa.concat_tables([each.rows for each in paid]).equals(expected.rows)
    assert sum((each.counts for each in paid), Counter[str]()) == +expected.counts
    moments = functools.reduce(Moments.plus, (each.moments for each in paid))
    assert moments.metrics(weighting) == pytest.approx(
        expected.moments.metrics(expected_weighting), nan_ok=True
    )


@given(log=LOG)
def test_every_row_has_its_return_and_horizon_or_none(log: Log) -> None:
    ((paid,), _) = both_passes([table(log)], None)

    expected = [
        (f"c{number}", turn, reward, *((None, None) if censored else (return_, horizon)))
        for number, (rewards, censored, _) in enumerate(log)
        for turn, horizon, reward, return_ in zip(
            range(1, len(rewards) + 1),
            range(len(rewards), 0, -1),
            rewards,
            monte_carlo_returns(rewards, gamma=0.9),
            strict=True,
        )
    ]
    names = ("conversation_id", "turn", "reward", "return", "horizon")
    assert [tuple(row[name] for name in names) for row in paid.rows.to_pylist()] == expected


# Until hour 10 it is known what followed.
EXAMPLE: Log = [
    ([0.0], False, 1),
    ([0.0, 1.0], False, 1),
    ([0.0, 0.0], True, 8),  # at 8, 9, 10, 11: open after three steps that are known
    ([0.0, 0.0, 1.0], False, 1),
    ([1.0], False, 10),  # at 10 and 11: an outcome, but too recent
]


def test_the_numbers_of_an_example_are_those_worked_by_hand() -> None:
    (paid,), weighting = both_passes([table(EXAMPLE)], at(10))

    # Stopped: at 1 step the recent outcome, at 2 an end, at 3 the open one, at 4 and 6 ends. After
    # step 1 four of five are left, who count 5/4; after step 3 two of three, who count 5/4 · 3/2.
    rows = paid.rows.to_pydict()
    assert rows["weight"] == pytest.approx([5 / 4, *[15 / 8] * 2, 0, 0, *[15 / 8] * 3, 0])
    assert rows["return"] == pytest.approx([0, 0.9, 1, None, None, 0.81, 0.9, 1, 1])
    assert paid.counts == {
        "conversations": 5,
        "conversations_censored": 1,
        "turns": 9,
        "turns_with_return": 7,
        "turns_censored": 2,
        "turns_too_recent": 1,
        "turns_capped": 0,
    }
    metrics = paid.moments.metrics(weighting)
    assert metrics["mean_return_naive"] == pytest.approx((0 + 0.9 + 0.81 + 1) / 4)
    assert metrics["mean_return_weighted"] == pytest.approx(15 / 8 * (0.9 + 0.81) / 5)
    assert metrics["weight_max"] == pytest.approx(15 / 8)
    assert metrics["effective_sample_size"] == pytest.approx(
        25 / ((5 / 4) ** 2 + 2 * (15 / 8) ** 2)
    )
    assert metrics["share_unseen"] == pytest.approx(0)


def test_a_weight_above_the_cap_is_the_cap_and_counted() -> None:
    until = at(10)

    (paid,), weighting = both_passes([table(EXAMPLE)], until, max_weight=1.5)

    assert paid.rows["weight"].to_pylist() == [1.25, 1.5, 1.5, 0, 0, 1.5, 1.5, 1.5, 0]
    assert paid.counts["turns_capped"] == 5
    metrics = paid.moments.metrics(weighting)
    assert metrics["weight_max"] == 1.5
    assert metrics["mean_return_weighted"] == pytest.approx(1.5 * (0.9 + 0.81) / 4.25)


def test_without_weights_every_known_return_counts_once() -> None:
    paid = pay(table(EXAMPLE), gamma=0.9, weighting=None)

    assert paid.rows["weight"].to_pylist() == [1, 1, 1, 0, 0, 1, 1, 1, 1]
    assert (paid.counts["turns_too_recent"], paid.counts["turns_capped"]) == (0, 0)
    metrics = paid.moments.metrics(None)
    assert metrics.keys() == {f"mean_return_naive{end}" for end in ("", "_low", "_high")}


def test_the_share_that_nobody_stands_for_is_told() -> None:
    # Two end after a turn; the two others are open in their third: longer ones are not known.
    log: Log = [([1.0], False, 0)] * 2 + [([0.0] * 3, True, 0)] * 2

    (paid,), weighting = both_passes([table(log)], None)

    assert paid.moments.metrics(weighting)["share_unseen"] == pytest.approx(0.5)


def test_where_nothing_ended_there_is_no_mean() -> None:
    (paid,), weighting = both_passes([table([([0.0], True, 0)])], None)

    metrics = paid.moments.metrics(weighting)
    assert np.isnan([metrics["mean_return_naive"], metrics["mean_return_weighted"]]).all()
    assert (metrics["weight_max"], metrics["effective_sample_size"]) == (0, 0)
    assert metrics["share_unseen"] == 1


def test_an_unanswered_message_is_the_last_step_without_a_clock_too() -> None:
    kinds = [(20, True, None), (40, False, None), (20, True, "ok"), (20, False, "ok")]
    rows = [
        {
            "conversation_id": f"c{place}-{number}",
            "turn": 1,
            "reward": float(sent is not None and not censored and number < 10),
            "censored": censored,
            "sent": sent,
            "sent_time": None,
        }
        for place, (count, censored, sent) in enumerate(kinds)
        for number in range(count)
    ]

    (paid,), weighting = both_passes([pa.Table.from_pylist(rows)], None)

    # Nobody's first fate but that of the 20 open ones is unknown: 1 of 5 is censored at step 0;
    # of the 40 that were answered 20 end, at step 2, and 20 are censored at step 1.
    assert weighting.full_S == pytest.approx([1, 1.25, 2.5])
    assert paid.moments.metrics(weighting)["mean_return_weighted"] == pytest.approx(0.25)
