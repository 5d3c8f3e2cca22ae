"""Rewards of turns from log-ratios: by hand, by a slow reference, and by what must not matter."""

import math
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iterppo.rl.implicit_rewards import (
    Normalise,
    batch_scale,
    share_out,
    softmax_within,
    turn_rewards,
    turn_sums,
    uniform_weights,
)

# Two conversations: turns of 2, 1, 0 and 3 tokens in the first, of 1 and 2 in the second.
LOG_RATIO_T = np.array([1.0, -3.0, 2.0, 0.5, 0.5, -1.0, 4.0, -2.0, -1.0])
NUM_TOKENS_K = np.array([2, 1, 0, 3, 1, 2])
NUM_TURNS_B = np.array([4, 2])
OUTCOME_B = np.array([1.0, 0.5])
SOFT = ["softmax-sum", "softmax-mean"]


def rewards(**changed: Any) -> Any:
    arguments: dict[str, Any] = {"beta": 0.5, "normalise": "none", "temperature": 1.0} | changed
    return turn_rewards(LOG_RATIO_T, NUM_TOKENS_K, NUM_TURNS_B, OUTCOME_B, **arguments)


def slow_reference(
    conversations: list[tuple[float, list[list[float]]]],
    beta: float,
    normalise: str,
    temperature: float,
) -> list[float]:
    """The formulas of the docstring over lists of lists."""
    paid = [
        (outcome, [[beta * q for q in turn] for turn in turns]) for outcome, turns in conversations
    ]
    returns = [
        abs(sum(tokens[t:]))
        for _, turns in paid
        for tokens in [[r for turn in turns for r in turn]]
        for t in range(len(tokens))
    ]
    lengths = [len(turn) for _, turns in paid for turn in turns if turn]
    found = []
    for outcome, turns in paid:
        sums = [sum(turn) for turn in turns]
        if normalise == "none":
            found += sums
            continue
        if normalise == "batch":
            found += [total / (max(returns, default=0.0) + 1e-6) for total in sums]
            continue
        scores = sums
        if normalise == "softmax-mean":
            mean_length = sum(lengths) / max(len(lengths), 1)
            scores = [sum(turn) / max(len(turn), 1) * mean_length for turn in turns]
        mass = [
            math.exp(score / temperature) if turn else 0.0
            for score, turn in zip(scores, turns, strict=True)
        ]
        found += [outcome * m / sum(mass) if sum(mass) else math.nan for m in mass]
    return found


def test_without_normalisation_a_turn_is_paid_the_sum_of_its_tokens() -> None:
    found = rewards()

    assert found.reward_K.tolist() == [-1.0, 1.0, 0.0, 0.0, 2.0, -1.5]
    assert found.implicit_K.tolist() == found.reward_K.tolist()
    assert np.isnan(found.weight_K).all()
    assert found.scale == 1


def test_the_scale_of_a_batch_is_the_largest_return_of_a_token() -> None:
    # From the tokens on, β q sums to 0 -0.5 1 0 -0.25 -0.5 in one, 0.5 -1.5 -0.5 in the other.
    found = rewards(normalise="batch")

    assert found.scale == pytest.approx(1.5 + 1e-6, abs=1e-12)
    assert found.reward_K.tolist() == pytest.approx((found.implicit_K / found.scale).tolist())


def test_softmax_of_sums_by_hand() -> None:
    found = rewards(normalise="softmax-sum")

    first = [math.exp(x) for x in (-1, 1, 0)]
    second = [math.exp(x) for x in (2, -1.5)]
    expected = [first[0], first[1], 0, first[2]]
    assert found.weight_K[:4] == pytest.approx([w / sum(first) for w in expected])
    assert found.weight_K[4:] == pytest.approx([w / sum(second) for w in second])
    assert found.reward_K[4:] == pytest.approx([0.5 * w / sum(second) for w in second])


def test_softmax_of_means_by_hand() -> None:
    found = rewards(normalise="softmax-mean", temperature=0.4)

    mean_length = 9 / 5  # of the five turns that have tokens
    scores = [mean * mean_length / 0.4 for mean in (-0.5, 1.0, 0.0)]
    mass = [math.exp(score) for score in scores]
    assert found.weight_K[[0, 1, 3]] == pytest.approx([m / sum(mass) for m in mass])
    assert found.weight_K[2] == 0


@pytest.mark.parametrize("normalise", SOFT)
@pytest.mark.parametrize("temperature", [0.01, 1.0, 100.0])
def test_under_a_softmax_rewards_sum_to_the_outcome(
    normalise: Normalise, temperature: float
) -> None:
    found = rewards(normalise=normalise, temperature=temperature)

    assert turn_sums(found.reward_K, NUM_TURNS_B) == pytest.approx(OUTCOME_B)
    assert turn_sums(found.weight_K, NUM_TURNS_B) == pytest.approx([1, 1])


def test_without_one_they_sum_to_the_logit() -> None:
    logits = [0.5 * LOG_RATIO_T[:6].sum(), 0.5 * LOG_RATIO_T[6:].sum()]

    assert turn_sums(rewards().reward_K, NUM_TURNS_B) == pytest.approx(logits)


def test_the_two_readings_agree_where_turns_are_of_one_length_and_only_there() -> None:
    log_ratio_T = np.array([1.0, -1.0, 0.5, 0.25, 2.0, -0.5])
    found = {}
    for lengths in ([2, 2, 2], [1, 2, 3]):
        for normalise in SOFT:
            found[normalise, lengths[0]] = turn_rewards(
                log_ratio_T,
                np.array(lengths),
                np.array([3]),
                np.array([1.0]),
                beta=1.0,
                normalise=normalise,  # type: ignore[arg-type]  # a test's list of strings
                temperature=0.7,
            ).weight_K

    assert found["softmax-sum", 2] == pytest.approx(found["softmax-mean", 2])
    assert found["softmax-sum", 1] != pytest.approx(found["softmax-mean", 1], abs=0.05)


def test_a_sum_favours_the_turn_that_says_more_of_the_same_and_a_mean_does_not() -> None:
    paid = [
        turn_rewards(
            np.ones(6),
            np.array([1, 5]),
            np.array([2]),
            np.array([1.0]),
            beta=1.0,
            normalise=normalise,  # type: ignore[arg-type]  # a test's list of strings
            temperature=1.0,
        ).weight_K
        for normalise in SOFT
    ]

    assert paid[0] == pytest.approx([1 / (1 + math.exp(4)), 1 / (1 + math.exp(-4))])
    assert paid[1] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [(1e-4, [0, 1, 0, 0]), (1e9, [1 / 3, 1 / 3, 0, 1 / 3])],
    ids=["cold: all on the best turn", "hot: uniform"],
)
def test_the_limits_of_the_temperature(temperature: float, expected: list[float]) -> None:
    found = rewards(normalise="softmax-sum", temperature=temperature)

    assert found.weight_K[:4] == pytest.approx(expected, abs=1e-6)


def test_the_hot_limit_is_the_uniform_split() -> None:
    weight_K = uniform_weights(NUM_TOKENS_K, NUM_TURNS_B)

    assert weight_K == pytest.approx([1 / 3, 1 / 3, 0, 1 / 3, 0.5, 0.5])
    assert share_out(OUTCOME_B, weight_K, NUM_TURNS_B)[4:] == pytest.approx([0.25, 0.25])


def test_a_logit_of_thousands_overflows_nothing() -> None:
    weight_K = softmax_within(
        np.array([4000.0, 3999.0, -4000.0]),
        np.array([3]),
        temperature=1.0,
        takes_part_K=np.ones(3, dtype=bool),
    )

    assert weight_K == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.e), 0])


@pytest.mark.parametrize("normalise", SOFT)
def test_where_the_assistant_never_spoke_the_outcome_has_no_turn_to_go_to(
    normalise: Normalise,
) -> None:
    found = turn_rewards(
        np.array([1.0]),
        np.array([0, 0, 1]),
        np.array([2, 1]),
        np.array([1.0, 1.0]),
        beta=1.0,
        normalise=normalise,
        temperature=1.0,
    )

    assert np.isnan(found.reward_K).tolist() == [True, True, False]
    assert found.reward_K[2] == 1


def test_a_model_that_has_learned_nothing_pays_nothing_or_the_uniform_split() -> None:
    nothing = np.zeros_like(LOG_RATIO_T)
    for normalise in get_args(Normalise):
        found = turn_rewards(
            nothing,
            NUM_TOKENS_K,
            NUM_TURNS_B,
            OUTCOME_B,
            beta=0.05,
            normalise=normalise,
            temperature=1.0,
        )
        if normalise in SOFT:
            assert found.weight_K == pytest.approx(uniform_weights(NUM_TOKENS_K, NUM_TURNS_B))
        else:
            assert found.reward_K.tolist() == [0.0] * 6


_TURN = st.lists(st.floats(-3, 3), max_size=4)
_CONVERSATION = st.tuples(st.floats(0, 1), st.lists(_TURN, min_size=1, max_size=4))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(_CONVERSATION, max_size=5),
    st.sampled_from(get_args(Normalise)),
    st.floats(0.05, 2),
    st.floats(0.3, 3),
)
def test_turns_are_paid_as_the_slow_reference_pays_them(
    conversations: list[tuple[float, list[list[float]]]],
    normalise: Normalise,
    beta: float,
    temperature: float,
) -> None:
    turns = [turn for _, turns in conversations for turn in turns]
    found = turn_rewards(
        np.array([q for turn in turns for q in turn]),
        np.array([len(turn) for turn in turns], dtype=np.int64),
        np.array([len(turns) for _, turns in conversations], dtype=np.int64),
        np.array([outcome for outcome, _ in conversations]),
        beta=beta,
        normalise=normalise,
        temperature=temperature,
    )

    expected = slow_reference(conversations, beta, normalise, temperature)
    assert found.reward_K == pytest.approx(expected, rel=1e-9, abs=1e-9, nan_ok=True)


@pytest.mark.parametrize("normalise", ["none", *SOFT])
def test_conversations_are_paid_the_same_in_any_order(normalise: Normalise) -> None:
    there = rewards(normalise=normalise)
    back = turn_rewards(
        np.concatenate([LOG_RATIO_T[6:], LOG_RATIO_T[:6]]),
        np.concatenate([NUM_TOKENS_K[4:], NUM_TOKENS_K[:4]]),
        NUM_TURNS_B[::-1],
        OUTCOME_B[::-1],
        beta=0.5,
        normalise=normalise,
        temperature=1.0,
    )

    assert back.reward_K == pytest.approx(np.roll(there.reward_K, 2))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"beta": 0.0}, "beta is positive"),
        ({"temperature": 0.0, "normalise": "softmax-sum"}, "temperature of a softmax is positive"),
        ({"normalise": "softmax"}, "one of none, batch, softmax-sum, softmax-mean"),
    ],
    ids=["no beta", "no temperature", "a name that is none"],
)
def test_settings_that_make_no_sense_are_refused(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        rewards(**changed)


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="do not divide 3 tokens"):
        turn_sums(np.zeros(3), np.array([1, 1]))
    with pytest.raises(ValueError, match="do not divide 3 tokens"):
        batch_scale(np.zeros(3), np.array([4, -1, 1]))
    with pytest.raises(ValueError, match="do not divide 2 turns"):
        share_out(np.ones(1), np.ones(2), np.array([1]))


def test_a_log_ratio_that_is_no_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a finite number"):
        turn_rewards(
            np.array([math.nan]),
            np.array([1]),
            np.array([1]),
            np.array([1.0]),
            beta=1.0,
            normalise="none",
            temperature=1.0,
        )
