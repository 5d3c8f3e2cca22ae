"""Censoring weights: numbers by hand, the definition, and what they reduce to."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from iterppo.rl.censoring import (
    Mean,
    Times,
    censoring_weights,
    effective_sample_size,
    steps_seen,
    weighted_mean,
)

CONVERSATIONS = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=25)
"""The step at which the clock of each stopped, and whether it was seen to its end."""


def histograms(conversations: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Ended and censored ones, by step."""
    longest = max(step for step, _ in conversations)
    counts = np.zeros((2, longest + 1))
    for step, ended in conversations:
        counts[0 if ended else 1, step] += 1
    return counts[0], counts[1]


def weights_by_inheritance(conversations: list[tuple[int, bool]]) -> list[Fraction]:
    """What each conversation stands for (Efron, 1967): in the order of steps, a censored one leaves
    what it stands for, in equal shares, to those that were seen farther."""
    mass = [Fraction(1)] * len(conversations)
    for number, (step, ended) in sorted(enumerate(conversations), key=lambda item: item[1][0]):
        if not ended:
            heirs = [i for i, (other, _) in enumerate(conversations) if other > step]
            for heir in heirs:
                mass[heir] += mass[number] / len(heirs)
            mass[number] = Fraction(0)
    return mass


def test_weights_are_those_worked_by_hand() -> None:
    # Ten conversations. Step 1: of 10, 2 end, and 2 of the other 8 are censored: G = 3/4.
    # Step 2: of 6, 1 ends, and 1 of the other 5 is censored: G = 3/4 · 4/5 = 3/5.
    # Step 3: 3 of 4 end, and the last one is censored: nobody is seen to stay.
    weight_S = censoring_weights(np.array([0, 2, 1, 3, 0]), np.array([0, 2, 1, 1, 0]))

    assert weight_S == pytest.approx([1, 1, 4 / 3, 5 / 3, 0])


def test_at_a_tie_the_end_comes_first() -> None:
    # One ended at step 1, one was censored there, one went on and ended at step 2: who ended at
    # step 1 could no longer be censored there, so one of two was.
    assert censoring_weights(np.array([0, 1, 1]), np.array([0, 1, 0])) == pytest.approx([1, 1, 2])


@given(conversations=CONVERSATIONS)
def test_a_censored_conversation_leaves_its_weight_to_those_seen_farther(
    conversations: list[tuple[int, bool]],
) -> None:
    weight_S = censoring_weights(*histograms(conversations))

    expected = weights_by_inheritance(conversations)
    for (step, ended), mass in zip(conversations, expected, strict=True):
        if ended:
            assert weight_S[step] == pytest.approx(float(mass))


@given(conversations=CONVERSATIONS)
def test_the_ended_conversations_stand_for_all(conversations: list[tuple[int, bool]]) -> None:
    ended_S, censored_S = histograms(conversations)

    total = censoring_weights(ended_S, censored_S) @ ended_S

    if censored_S[-1] == 0:
        assert total == pytest.approx(len(conversations))
    else:
        assert total < len(conversations)


@given(ended=st.lists(st.integers(0, 5), min_size=1))
def test_without_censoring_all_weights_are_1(ended: list[int]) -> None:
    weight_S = censoring_weights(np.array(ended), np.zeros(len(ended)))

    assert weight_S.tolist() == [1.0] * len(ended)


@given(conversations=CONVERSATIONS, copies=st.integers(2, 5))
def test_weights_do_not_depend_on_how_large_the_log_is(
    conversations: list[tuple[int, bool]], copies: int
) -> None:
    ended_S, censored_S = histograms(conversations)

    many = censoring_weights(copies * ended_S, copies * censored_S)

    assert many == pytest.approx(censoring_weights(ended_S, censored_S))


def test_histograms_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ended \(2,\) and censored \(3,\) are not both \(S,\)"):
        censoring_weights(np.zeros(2), np.zeros(3))


# --- the clock -----------------------------------------------------------------------------------


SOMETIME = math.nan
"""There is a message; None: there is none."""


def moments_of_day(*hours: float | None) -> np.ndarray:
    midnight = np.datetime64("2026-05-01", "us")
    return np.array(
        [
            np.datetime64("NaT", "us")
            if hour is None or math.isnan(hour)
            else midnight + np.timedelta64(hour, "h")
            for hour in hours
        ]
    )


@pytest.mark.parametrize(
    ("customer", "sent", "censored", "expected"),
    [
        pytest.param([1, 3], [2, 4], False, (4, True), id="over in time"),
        pytest.param([1, 3], [2, 10], False, (4, True), id="over in time, to the second"),
        pytest.param([1, 3], [2, 11], False, (3, False), id="an outcome too recent"),
        pytest.param([1, 11], [2, 12], False, (2, False), id="two messages too recent"),
        pytest.param([11], [12], False, (0, False), id="begun too late"),
        pytest.param([1, 3], [2, 11], True, (3, False), id="open"),
        pytest.param([1, 3], [2, 4], True, (3, False), id="marked as unfinished long ago"),
        pytest.param([1, 3], [2, None], False, (3, True), id="its last message unanswered"),
        pytest.param([1, 11], [2, None], False, (2, False), id="unanswered and too recent"),
        pytest.param([1, 11], [2, None], True, (2, False), id="unanswered and open"),
        pytest.param([None, 3], [2, 4], False, (4, True), id="opened by the business"),
        pytest.param([SOMETIME] * 2, [SOMETIME] * 2, False, (4, True), id="over, without times"),
        pytest.param([SOMETIME] * 2, [SOMETIME] * 2, True, (3, False), id="open, without times"),
        pytest.param([1, SOMETIME], [2, None], True, (2, False), id="unanswered, without a time"),
    ],
)
def test_a_conversation_is_seen_as_far_as_what_followed_is_known(
    customer: list[float | None],
    sent: list[float | None],
    censored: bool,
    expected: tuple[int, bool],
) -> None:
    until = moments_of_day(10)[0]
    num_turns = len(customer)

    step_N, ended_N = steps_seen(
        np.arange(1, num_turns + 1),
        np.full(num_turns, censored),
        np.array([hour is not None for hour in sent]),
        Times(moments_of_day(*customer), moments_of_day(*sent), until),
    )

    assert (step_N.tolist(), ended_N.tolist()) == ([expected[0]], [expected[1]])


def test_without_a_clock_only_the_fate_of_the_last_message_of_an_open_conversation_is_unknown() -> (
    None
):
    turn_T, censored_T = np.array([1, 1, 2, 1, 1]), np.array([False, True, True, True, True])
    answered_T = np.array([True, True, True, True, False])

    step_N, ended_N = steps_seen(turn_T, censored_T, answered_T, None)

    assert step_N.tolist() == [2, 3, 1, 0]
    assert ended_N.tolist() == [True, False, False, False]


def test_conversations_of_a_batch_are_seen_one_by_one() -> None:
    turn_T, censored_T = np.array([1, 2, 1, 1, 2, 3]), np.array([False, False, True] + [False] * 3)
    times = Times(
        moments_of_day(1, 2, 12, 1, 5, 9),
        moments_of_day(1, 3, None, 2, 6, 11),
        moments_of_day(10)[0],
    )

    answered_T = ~np.isnat(times.sent_T)
    step_N, ended_N = steps_seen(turn_T, censored_T, answered_T, times)

    assert step_N.tolist() == [4, 0, 5]
    assert ended_N.tolist() == [True, False, False]


@pytest.mark.parametrize("has_times", [True, False], ids=["with a clock", "without one"])
def test_an_empty_batch_has_nothing_to_see(has_times: bool) -> None:
    nothing = np.zeros(0, dtype="datetime64[us]")
    times = Times(nothing, nothing, moments_of_day(10)[0]) if has_times else None

    none = np.zeros(0, dtype=bool)
    step_N, ended_N = steps_seen(np.zeros(0, dtype=int), none, none, times)

    assert (len(step_N), len(ended_N)) == (0, 0)


# --- the weighted mean ---------------------------------------------------------------------------

PAID = st.lists(
    st.tuples(st.integers(0, 4), st.booleans(), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=4,
    max_size=20,
)
"""Step, whether seen to the end, and Y."""


def mean_of(
    conversations: list[tuple[int, bool, float]],
    counted: list[float] | None = None,
    max_weight: float = math.inf,
) -> Mean:
    """`weighted_mean` of conversations, each counted so many times."""
    ended_S, censored_S, total_S, square_S = np.zeros((4, max(c[0] for c in conversations) + 1))
    for (step, ended, value), times in zip(
        conversations, counted or [1.0] * len(conversations), strict=True
    ):
        if ended:
            ended_S[step] += times
            total_S[step] += times * value
            square_S[step] += times * value**2
        else:
            censored_S[step] += times
    return weighted_mean(ended_S, censored_S, total_S, square_S, max_weight=max_weight)


def test_the_weighted_mean_is_that_worked_by_hand() -> None:
    # Ended at 1 with 0 and at 2 with 1; one was censored at 1, so who went on counts twice.
    found = mean_of([(1, True, 0.0), (1, False, 0.0), (2, True, 1.0)])

    assert found.value == pytest.approx(2 / 3)


@given(values=st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=2, max_size=20))
def test_without_censoring_it_is_the_usual_mean_and_interval(values: list[float]) -> None:
    found = mean_of([(number % 3, True, value) for number, value in enumerate(values)])

    half = 1.959964 * np.std(values, ddof=1) / math.sqrt(len(values))
    mean = np.mean(values)
    assert found == pytest.approx((mean, mean - half, mean + half), abs=1e-6)


@given(conversations=PAID, max_weight=st.sampled_from([1.15, math.inf]))
def test_the_interval_is_made_of_what_each_conversation_moves(
    conversations: list[tuple[int, bool, float]], max_weight: float
) -> None:
    """Influence by its definition: how the mean answers when a conversation is counted a little
    more, and a little less."""
    ended = [step for step, is_ended, _ in conversations if is_ended]
    assume(len(ended) >= 2)
    small = 1e-5
    influences = []
    for number in range(len(conversations)):
        means = []
        for change in (small, -small):
            counted = [1.0] * len(conversations)
            counted[number] += change
            means.append(mean_of(conversations, counted, max_weight).value)
        influences.append((means[0] - means[1]) / (2 * small))
    num_ended = len(ended)
    variance = sum(influence**2 for influence in influences) * num_ended / (num_ended - 1)

    found = mean_of(conversations, max_weight=max_weight)

    half = 1.959964 * math.sqrt(variance)
    assert found.high - found.value == pytest.approx(half, abs=1e-5)
    assert found.value - found.low == pytest.approx(half, abs=1e-5)


def test_a_capped_weight_counts_as_its_cap() -> None:
    # The last one would stand for four.
    conversations = [(0, True, 0.0), *[(0, False, 0.0)] * 3, (1, True, 1.0)]

    assert mean_of(conversations).value == pytest.approx(4 / 5)
    assert mean_of(conversations, max_weight=2.0).value == pytest.approx(2 / 3)


def test_a_level_widens_the_interval() -> None:
    counts = (np.array([3.0]), np.array([0.0]), np.array([2.0]), np.array([2.0]))

    narrow, wide = (
        weighted_mean(*counts, max_weight=1.0, level=level) for level in (0.6827, 0.9545)
    )

    assert wide.high - wide.value == pytest.approx(2 * (narrow.high - narrow.value), rel=1e-3)


def test_too_few_conversations_have_no_interval() -> None:
    nothing, one = mean_of([(1, False, 0.0)]), mean_of([(1, True, 1.0), (2, False, 0.0)])

    assert all(math.isnan(number) for number in nothing)
    assert one.value == 1.0
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_equal_weights_lose_no_sample_size_and_unequal_ones_do() -> None:
    counts = np.array([2.0, 2.0])

    assert effective_sample_size(np.array([7.0, 7.0]), counts) == pytest.approx(4)
    # (1 + 1 + 3 + 3)² / (1 + 1 + 9 + 9)
    assert effective_sample_size(np.array([1.0, 3.0]), counts) == pytest.approx(64 / 20)
    assert effective_sample_size(np.array([0.0]), np.array([0.0])) == 0.0
