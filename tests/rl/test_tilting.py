"""The tilted policy on a sample of completions: weights, draws and distance, against their
definitions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from iterppo.rl.tilting import soft_advantages, systematic_draws, tilted_kl, tilted_weights

scores = st.lists(st.floats(-1, 1, width=32), min_size=4, max_size=4)
ends = st.lists(st.booleans(), min_size=4, max_size=4)
betas = st.floats(0.01, 2)


@given(scores, ends, betas)
def test_weights_are_those_of_the_definition(
    score: list[float], ended: list[bool], beta: float
) -> None:
    advantage_B = soft_advantages(
        torch.tensor(score), torch.tensor(ended), per_prompt=4, kl_coefficient=beta
    )
    (weight_K,) = tilted_weights(advantage_B, per_prompt=4, kl_coefficient=beta)
    known = [r for r, end in zip(score, ended, strict=True) if end]
    highest = max(known, default=0.0)
    total = sum(math.exp((r - highest) / beta) for r in known)
    for r, end, weight, advantage in zip(
        score, ended, weight_K.tolist(), advantage_B.tolist(), strict=True
    ):
        if not end:
            assert (weight, advantage) == (0, -math.inf)
            continue
        assert weight == pytest.approx(math.exp((r - highest) / beta) / total, abs=1e-4)
        soft = highest + beta * math.log(total / len(known))
        assert advantage == pytest.approx(r - soft, abs=1e-5)


@given(scores, st.integers(1, 9), st.floats(0, 1, exclude_max=True, width=32))
def test_each_is_drawn_as_often_as_its_weight_says_or_once_more_or_less(
    score: list[float], number: int, uniform: float
) -> None:
    weight_PK = torch.tensor([score]).softmax(dim=1)
    (draws_K,) = systematic_draws(weight_PK, number, torch.tensor([uniform]))

    assert int(draws_K.sum()) == number
    for draws, weight in zip(draws_K.tolist(), weight_PK[0].tolist(), strict=True):
        assert math.floor(number * weight - 1e-5) <= draws <= math.ceil(number * weight + 1e-5)


def test_draws_are_fair() -> None:
    weight_PK = torch.tensor([[0.05, 0.6, 0.35]])
    uniform_P = (torch.arange(1000) + 0.5) / 1000

    draws_PK = systematic_draws(weight_PK.expand(1000, 3), 2, uniform_P)

    assert draws_PK.double().mean(dim=0).tolist() == pytest.approx([0.1, 1.2, 0.7], abs=1e-3)


def test_where_nothing_ended_nothing_is_drawn() -> None:
    ended_B = torch.tensor([False, False, True, False])
    advantage_B = soft_advantages(torch.ones(4), ended_B, per_prompt=2, kl_coefficient=0.1)
    weight_PK = tilted_weights(advantage_B, per_prompt=2, kl_coefficient=0.1)

    assert weight_PK.tolist() == [[0, 0], [1, 0]]
    assert systematic_draws(weight_PK, 3, torch.tensor([0.9, 0.9])).tolist() == [[0, 0], [3, 0]]


def test_a_worth_that_is_far_from_zero_is_no_trouble() -> None:
    score_B, ended_B = torch.tensor([1e4, 1e4 + 1]), torch.ones(2, dtype=torch.bool)
    advantage_B = soft_advantages(score_B, ended_B, per_prompt=2, kl_coefficient=0.01)

    (weight_K,) = tilted_weights(advantage_B, per_prompt=2, kl_coefficient=0.01)
    assert weight_K.tolist() == pytest.approx([0, 1])


def test_the_distance_is_at_most_that_of_the_best_of_those_that_ended() -> None:
    weight_PK = torch.tensor([[0.0, 1.0, 0.0], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.5, 0.0]])
    ended_PK = torch.tensor([[True, True, True], [True, True, True], [True, True, False]])

    assert tilted_kl(weight_PK, ended_PK).tolist() == pytest.approx([math.log(3), 0, 0], abs=1e-6)


@pytest.mark.parametrize(("beta", "per_prompt"), [(0.0, 2), (0.1, 3)])
def test_what_has_no_solution_is_refused(beta: float, per_prompt: int) -> None:
    with pytest.raises(ValueError, match=r"price of the KL|groups of 3"):
        soft_advantages(
            torch.zeros(4),
            torch.ones(4, dtype=torch.bool),
            per_prompt=per_prompt,
            kl_coefficient=beta,
        )
