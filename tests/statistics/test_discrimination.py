"""Pairs of different actions in one state: by hand, one by one, and what a state can give away."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.statistics import discrimination as module
from iterppo.statistics.discrimination import _pair_of_number, comparable_pairs, discrimination
from iterppo.statistics.resampling import Resamples

TURNS = st.lists(
    st.tuples(
        st.integers(0, 2), st.integers(0, 2), st.sampled_from([0.0, 0.5, 1.0]), st.integers(0, 4)
    ),
    max_size=20,
)


def slow_pairs(turns: list[tuple[int, int, float, int]]) -> set[tuple[int, int]]:
    """(better, worse) of every two turns that can be compared."""
    found = set()
    for i, j in itertools.permutations(range(len(turns)), 2):
        (key, action, g, conversation), (key2, action2, g2, conversation2) = turns[i], turns[j]
        if key == key2 and action != action2 and conversation != conversation2 and g > g2:
            found.add((i, j))
    return found


@given(turns=TURNS)
def test_pairs_are_those_found_one_by_one(turns: list[tuple[int, int, float, int]]) -> None:
    columns = [np.array(column) for column in zip(*turns, strict=True)] or [np.empty(0, int)] * 4

    better, worse = comparable_pairs(*columns, seed=0)

    assert len(better) == len(slow_pairs(turns))
    assert set(zip(better.tolist(), worse.tolist(), strict=True)) == slow_pairs(turns)


def test_pairs_are_numbered_without_gaps_however_large_the_state() -> None:
    small, large = _pair_of_number(np.arange(15))
    assert list(zip(small, large, strict=True)) == [(i, j) for j in range(6) for i in range(j)]

    # Of a million turns: the last pair, and the last one without the last turn.
    last = 10**6 * (10**6 - 1) // 2 - 1
    small, large = _pair_of_number(np.array([last - 999_999, last]))
    assert list(zip(small, large, strict=True)) == [(999_997, 999_998), (999_998, 999_999)]


def test_too_many_pairs_are_chosen_from_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 100
    key, action, g = np.zeros(size, int), np.arange(size), np.arange(size) % 2.0
    monkeypatch.setattr(module, "MOST_PAIRS", 300)
    chosen, again, other = (
        comparable_pairs(key, action, g, np.arange(size), seed=seed) for seed in (0, 0, 1)
    )

    assert len(set(zip(*map(np.ndarray.tolist, chosen), strict=True))) == 300
    assert (g[chosen[0]] > g[chosen[1]]).all()
    assert (chosen[0] == again[0]).all()
    assert (chosen[0] != other[0]).any()
    # Every turn is as likely as any other: each should be in 6 of 300 pairs.
    assert np.bincount(np.concatenate(chosen), minlength=size).max() < 20


def test_a_huge_state_is_looked_at_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 300
    key, action, g = np.zeros(size, int), np.arange(size), np.arange(size) % 2.0
    monkeypatch.setattr(module, "MOST_CANDIDATES", 1000)

    better, worse = comparable_pairs(key, action, g, np.arange(size), seed=0)

    # Half of 44,850 pairs differ in return; of 1000 draws some are drawn twice.
    assert 400 < len(better) < 600
    assert len(set(zip(better.tolist(), worse.tolist(), strict=True))) == len(better)


def found_for(
    q: Any,
    v: Any,
    g: Any,
    *,
    state: Any,
    matched: Any,
    action: Any,
    w: Any = None,
    conversation: Any = None,
    samples: int = 200,
) -> module.Discrimination:
    ids = np.arange(len(g)) if conversation is None else conversation
    return discrimination(
        np.asarray(q, float),
        None if v is None else np.asarray(v, float),
        np.asarray(g, float),
        np.ones(len(g)) if w is None else np.asarray(w, float),
        state=np.asarray(state),
        matched=np.asarray(matched),
        action=np.asarray(action),
        resamples=Resamples.of(ids, samples=samples, seed=0),
        seed=0,
    )


def test_the_share_is_that_worked_by_hand() -> None:
    found = found_for(
        q=[0.1, 0.5, 0.5, 0.2],
        v=[0.3, 0.3, 0.2, 0.4],
        g=[0, 1, 0, 1],
        w=[1, 2, 1, 3],
        state=[0, 1, 2, 3],
        matched=[0, 0, 0, 0],
        action=[0, 1, 2, 3],
    )

    # Better 1 over 0: right, weight 2; 1 over 2: a tie, weight 2; 3 over 0: right, weight 3;
    # 3 over 2: wrong, weight 3. V: a tie, right, right, right.
    assert found.share == pytest.approx((2 + 1 + 3 + 0) / 10)
    assert found.gain == pytest.approx(0.6 - (1 + 2 + 3 + 3) / 10)
    assert (found.num_pairs, found.num_conversations, found.matched_by) == (4, 4, "matched")


@pytest.mark.parametrize(
    ("num_bad", "num_good", "matched_by", "num_pairs"),
    [(10, 5, "state", 50), (7, 7, "matched", 56)],
    ids=["50 pairs", "49 pairs, 56 in like states"],
)
def test_states_are_used_where_they_are_met_often_enough(
    num_bad: int, num_good: int, matched_by: str, num_pairs: int
) -> None:
    """One state, and one more good turn in a state that looks alike."""
    g = np.array([0.0] * num_bad + [1.0] * num_good + [1.0])
    state = [0] * (num_bad + num_good) + [1]

    found = found_for(g, None, g, state=state, matched=[0] * len(g), action=np.arange(len(g)))

    assert (found.matched_by, found.num_pairs, found.share) == (matched_by, num_pairs, 1)
    # Without V nobody knows what a like state gave away.
    gain = 0.5 if matched_by == "state" else math.nan
    assert found.gain == pytest.approx(gain, nan_ok=True)


def test_without_a_pair_there_is_no_share() -> None:
    found = found_for([0.1, 0.2], [0, 0], [0, 1], state=[0, 1], matched=[0, 1], action=[0, 1])

    assert (found.num_pairs, found.matched_by) == (0, None)
    assert np.isnan([found.share, found.low, found.high, found.gain]).all()


def test_the_interval_is_that_of_pairs_written_out(slow_interval: Any) -> None:
    generator = np.random.default_rng(0)
    conversation = generator.integers(25, size=80)
    state, action = generator.integers(4, size=80), generator.integers(3, size=80)
    g, w = generator.integers(2, size=80).astype(float), generator.uniform(1, 2, size=80)
    q = generator.normal(size=80).round(1)
    found = found_for(
        q,
        None,
        g,
        w=w,
        state=state,
        matched=state,
        action=action,
        conversation=conversation,
        samples=40,
    )
    resamples = Resamples.of(conversation, samples=40, seed=0)

    def share(rows: Any) -> float:
        right = total = 0.0
        for i, j in itertools.product(rows, rows):
            if (
                state[i] == state[j]
                and action[i] != action[j]
                and conversation[i] != conversation[j]
                and g[i] > g[j]
            ):
                total += w[i] * w[j]
                right += w[i] * w[j] * (1.0 if q[i] > q[j] else 0.5 if q[i] == q[j] else 0.0)
        return right / total

    assert (found.low, found.high) == pytest.approx(slow_interval(resamples, share))
    assert found.share == pytest.approx(share(np.arange(80)))


def test_what_the_state_gives_away_is_no_gain() -> None:
    """In like states the rest of the state tells who will do well, whatever the action."""
    generator = np.random.default_rng(0)
    value = generator.uniform(size=300)
    g = (generator.random(300) < value).astype(float)
    found = found_for(
        value,
        value,
        g,
        state=np.arange(300),
        matched=[0] * 300,
        action=generator.integers(5, size=300),
    )

    assert found.matched_by == "matched"
    assert found.low > 0.6
    assert (found.gain, found.gain_low, found.gain_high) == (0, 0, 0)


def test_a_guess_passes_for_knowledge_as_rarely_as_the_interval_promises() -> None:
    """Five turns of a conversation share their luck; 80 conversations, two actions a state."""
    passed = 0
    for seed in range(100):
        generator = np.random.default_rng(seed)
        conversation = np.repeat(np.arange(80), 5)
        state, action = generator.integers(6, size=400), generator.integers(3, size=400)
        g = (generator.random(80)[conversation] < 0.4).astype(float)
        q = generator.normal(size=(6, 3))[state, action]
        found = found_for(
            q,
            None,
            g,
            state=state,
            matched=state,
            action=action,
            conversation=conversation,
            samples=200,
        )
        passed += found.gain_low > 0

    # 2.5 % are promised; more than 8 of 100 would have a probability of 0.1 %.
    assert passed <= 8
