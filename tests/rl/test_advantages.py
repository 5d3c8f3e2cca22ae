"""Generalised advantages, token rewards and whitening: by definition, by hand, by identity."""

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from iterppo.rl.advantages import generalised_advantages, token_rewards, whiten

NAN = math.nan


def slow_advantages(
    rewards: Sequence[float],
    values: Sequence[float],
    mask: Sequence[int],
    *,
    terminated: bool,
    gamma: float,
    lambda_: float,
) -> list[float]:
    """A_t = Σ_l (γλ)^l δ_{t+l}, over the real tokens alone; δ_t = r_t + γ V_{t+1} − V_t."""
    real = [t for t in range(len(rewards)) if mask[t]]
    r = [rewards[t] for t in real]
    v = [values[t] for t in real]
    v.append(0.0 if terminated or not real else values[real[-1] + 1])
    delta = [r[n] + gamma * v[n + 1] - v[n] for n in range(len(real))]
    advantages = [0.0] * len(rewards)
    for n, t in enumerate(real):
        advantages[t] = sum((gamma * lambda_) ** m * delta[n + m] for m in range(len(real) - n))
    return advantages


def one(
    rewards: Sequence[float],
    values: Sequence[float],
    mask: Sequence[int],
    *,
    terminated: bool = True,
    gamma: float = 1.0,
    lambda_: float = 1.0,
) -> tuple[list[float], list[float]]:
    """Advantages and returns of a single completion."""
    advantage_BT, return_BT = generalised_advantages(
        torch.tensor([rewards], dtype=torch.float64),
        torch.tensor([values], dtype=torch.float64),
        torch.tensor([mask]),
        terminated_B=torch.tensor([terminated]),
        gamma=gamma,
        lambda_=lambda_,
    )
    return advantage_BT[0].tolist(), return_BT[0].tolist()


# --- numbers by hand: γ = 0.5, λ = 0.5 ---


@pytest.mark.parametrize(
    ("rewards", "values", "mask", "terminated", "advantages"),
    [
        # δ = 0 + ½·2 − 1, 0 + ½·3 − 2, 1 + ½·4 − 3, 2 + 0 − 4 = 0, −½, 0, −2; A_t = δ_t + ¼ A_{t+1}
        pytest.param(
            [0, 0, 1, 2],
            [1, 2, 3, 4, 9],
            [1, 1, 1, 1],
            True,
            [-0.15625, -0.625, -0.5, -2],
            id="terminated",
        ),
        # the last δ = 2 + ½·9 − 4 = 2½
        pytest.param(
            [0, 0, 1, 2],
            [1, 2, 3, 4, 9],
            [1, 1, 1, 1],
            False,
            [-0.0859375, -0.34375, 0.625, 2.5],
            id="truncated",
        ),
        # without the third token: δ = 0, ½·4 − 2 = 0, ·, −2; what is carried over is not diminished
        pytest.param(
            [0, 0, 1, 2], [1, 2, NAN, 4, 9], [1, 1, 0, 1], True, [-0.125, -0.5, 0, -2], id="hole"
        ),
        # two tokens, then padding: δ = 0, 0 + 0 − 2
        pytest.param(
            [0, 0, NAN, NAN],
            [1, 2, NAN, NAN, NAN],
            [1, 1, 0, 0],
            True,
            [-0.5, -2, 0, 0],
            id="padded",
        ),
        # the same, truncated: the critic's estimate after the last real token is that in column 2
        pytest.param(
            [0, 0, NAN, NAN],
            [1, 2, 6, NAN, NAN],
            [1, 1, 0, 0],
            False,
            [0.25, 1, 0, 0],
            id="padded and truncated",
        ),
        # the first token is not the policy's: δ = ·, −½, 0, −2
        pytest.param(
            [NAN, 0, 1, 2],
            [NAN, 2, 3, 4, 9],
            [0, 1, 1, 1],
            True,
            [0, -0.625, -0.5, -2],
            id="first masked",
        ),
        # a single token in the midst
        pytest.param(
            [5, 5, 1, 5], [7, 7, 3, 7, 7], [0, 0, 1, 0], True, [0, 0, -2, 0], id="one token"
        ),
    ],
)
def test_four_tokens_by_hand(
    rewards: list[float],
    values: list[float],
    mask: list[int],
    terminated: bool,
    advantages: list[float],
) -> None:
    found, returns = one(rewards, values, mask, terminated=terminated, gamma=0.5, lambda_=0.5)

    assert found == pytest.approx(advantages)
    expected = [a + v if m else 0 for a, v, m in zip(advantages, values, mask, strict=False)]
    assert returns == pytest.approx(expected)


def test_the_reward_of_a_three_token_completion_lies_on_its_end_of_turn() -> None:
    # "ok", "!", <|end|>, then padding; the score is paid on <|end|>, not one column later
    reward_BT = token_rewards(
        torch.tensor([0.8]),
        torch.zeros(1, 4),
        torch.tensor([[1, 1, 1, 0]]),
        terminated_B=torch.tensor([True]),
        kl_coefficient=0.1,
    )
    assert reward_BT.tolist() == [[0, 0, pytest.approx(0.8), 0]]

    advantage_BT, return_BT = generalised_advantages(
        reward_BT,
        torch.tensor([[0.5, 0.5, 0.5, 9.0, 9.0]]),
        torch.tensor([[1, 1, 1, 0]]),
        terminated_B=torch.tensor([True]),
        gamma=1.0,
        lambda_=1.0,
    )
    assert advantage_BT[0].tolist() == pytest.approx([0.3, 0.3, 0.3, 0])
    assert return_BT[0].tolist() == pytest.approx([0.8, 0.8, 0.8, 0])


# --- against the definition ---

number = st.floats(-10, 10, allow_nan=False, width=32)


@st.composite
def completions(draw: st.DrawFn) -> tuple[list[float], list[float], list[int], bool]:
    length = draw(st.integers(1, 7))
    rewards = draw(st.lists(number, min_size=length, max_size=length))
    values = draw(st.lists(number, min_size=length + 1, max_size=length + 1))
    mask = draw(st.lists(st.integers(0, 1), min_size=length, max_size=length))
    return rewards, values, mask, draw(st.booleans())


discount = st.floats(0, 1)


@settings(deadline=None)
@given(completion=completions(), gamma=discount, lambda_=discount)
def test_the_recursion_is_the_double_sum_of_the_definition(
    completion: tuple[list[float], list[float], list[int], bool], gamma: float, lambda_: float
) -> None:
    rewards, values, mask, terminated = completion
    found, _ = one(rewards, values, mask, terminated=terminated, gamma=gamma, lambda_=lambda_)
    expected = slow_advantages(
        rewards, values, mask, terminated=terminated, gamma=gamma, lambda_=lambda_
    )

    assert found == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(completion=completions(), gamma=discount)
def test_with_lambda_one_it_is_the_discounted_return_minus_the_value(
    completion: tuple[list[float], list[float], list[int], bool], gamma: float
) -> None:
    rewards, values, mask, terminated = completion
    found, returns = one(rewards, values, mask, terminated=terminated, gamma=gamma)
    real = [t for t in range(len(mask)) if mask[t]]
    following = 0.0 if terminated or not real else values[real[-1] + 1]
    for t in reversed(real):
        following = rewards[t] + gamma * following
        assert returns[t] == pytest.approx(following, abs=1e-9)
        assert found[t] == pytest.approx(following - values[t], abs=1e-9)


@settings(deadline=None)
@given(completion=completions(), gamma=discount)
def test_with_lambda_zero_it_is_the_one_step_error(
    completion: tuple[list[float], list[float], list[int], bool], gamma: float
) -> None:
    rewards, values, mask, terminated = completion
    found, _ = one(rewards, values, mask, terminated=terminated, gamma=gamma, lambda_=0.0)
    real = [t for t in range(len(mask)) if mask[t]]
    for n, t in enumerate(real):
        if n + 1 < len(real):
            following = values[real[n + 1]]
        else:
            following = 0.0 if terminated else values[t + 1]
        assert found[t] == pytest.approx(rewards[t] + gamma * following - values[t], abs=1e-9)


@settings(deadline=None)
@given(completion=completions(), gamma=discount, lambda_=discount, data=st.data())
def test_what_stands_at_masked_positions_never_matters(
    completion: tuple[list[float], list[float], list[int], bool],
    gamma: float,
    lambda_: float,
    data: st.DataObject,
) -> None:
    rewards, values, mask, terminated = completion
    length = len(mask)
    real = [t for t in range(length) if mask[t]]
    # Where the completion was truncated the critic's estimate after the last token does matter.
    seen = set(real) | ({real[-1] + 1} if real and not terminated else set())
    anything = st.one_of(number, st.just(NAN), st.just(math.inf))
    other_rewards = [r if mask[t] else data.draw(anything) for t, r in enumerate(rewards)]
    other_values = [v if t in seen else data.draw(anything) for t, v in enumerate(values)]

    arguments = {"terminated": terminated, "gamma": gamma, "lambda_": lambda_}
    assert one(rewards, values, mask, **arguments) == one(
        other_rewards, other_values, mask, **arguments
    )


@settings(deadline=None)
@given(completion=completions(), gamma=discount, lambda_=discount, hole=st.integers(0, 7))
def test_a_masked_token_takes_no_time(
    completion: tuple[list[float], list[float], list[int], bool],
    gamma: float,
    lambda_: float,
    hole: int,
) -> None:
    rewards, values, mask, _ = completion
    hole = min(hole, len(mask))
    # A masked token more: the rest is as it was. (Terminated, so that no column after it counts.)
    arguments = {"terminated": True, "gamma": gamma, "lambda_": lambda_}
    found, _ = one(
        [*rewards[:hole], 7.0, *rewards[hole:]],
        [*values[:hole], 7.0, *values[hole:]],
        [*mask[:hole], 0, *mask[hole:]],
        **arguments,
    )
    expected, _ = one(rewards, values, mask, **arguments)

    assert found == [*expected[:hole], 0.0, *expected[hole:]]


# --- what must not leak ---


def test_nothing_flows_from_one_completion_to_another() -> None:
    torch.manual_seed(0)
    reward_BT, value_BT1 = torch.randn(3, 5), torch.randn(3, 6)
    mask_BT = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]])
    terminated_B = torch.tensor([True, False, False])
    together = generalised_advantages(
        reward_BT, value_BT1, mask_BT, terminated_B=terminated_B, gamma=0.9, lambda_=0.8
    )
    for b in range(3):
        alone = generalised_advantages(
            reward_BT[b : b + 1],
            value_BT1[b : b + 1],
            mask_BT[b : b + 1],
            terminated_B=terminated_B[b : b + 1],
            gamma=0.9,
            lambda_=0.8,
        )
        for joint, single in zip(together, alone, strict=True):
            assert torch.equal(joint[b], single[0])


def test_nothing_flows_back_across_the_end_of_a_completion() -> None:
    # A large value stands in the padding behind <|end|>, as a critic may well put there.
    for terminated, expected in ((True, [0, 0]), (False, [50, 50])):
        found, _ = one([0, 0, 0], [0, 0, 50, 50], [1, 1, 0], terminated=terminated)
        assert found[:2] == expected


def test_nothing_flows_forward() -> None:
    before, _ = one([0, 0, 1], [0.1, 0.2, 0.3, 0], [1, 1, 1], gamma=0.9, lambda_=0.9)
    after, _ = one([9, 0, 1], [7, 0.2, 0.3, 0], [1, 1, 1], gamma=0.9, lambda_=0.9)

    assert before[1:] == after[1:]
    assert before[0] != after[0]


def test_the_estimates_are_targets_without_gradient() -> None:
    value_BT1 = torch.zeros(1, 3, requires_grad=True)
    for result in generalised_advantages(
        torch.ones(1, 2),
        value_BT1,
        torch.ones(1, 2),
        terminated_B=torch.tensor([True]),
        gamma=1.0,
        lambda_=1.0,
    ):
        assert not result.requires_grad


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
def test_a_mask_may_be_of_any_type(dtype: torch.dtype) -> None:
    advantage_BT, _ = generalised_advantages(
        torch.tensor([[0.0, 1.0, 5.0]]),
        torch.tensor([[0.5, 0.5, 5.0, 5.0]]),
        torch.tensor([[1, 1, 0]], dtype=dtype),
        terminated_B=torch.tensor([True]),
        gamma=1.0,
        lambda_=1.0,
    )
    assert advantage_BT.tolist() == [[0.5, 0.5, 0.0]]


@pytest.mark.parametrize(
    ("reward", "value", "mask", "terminated"),
    [
        pytest.param((2, 3), (2, 3), (2, 3), (2,), id="no value after the last token"),
        pytest.param((2, 3), (2, 4), (2, 4), (2,), id="mask of another length"),
        pytest.param((2, 3), (2, 4), (2, 3), (2, 1), id="terminated as a column"),
        pytest.param((2, 3), (1, 4), (2, 3), (2,), id="values of one completion"),
    ],
)
def test_shapes_that_do_not_fit_are_named(
    reward: tuple[int, ...],
    value: tuple[int, ...],
    mask: tuple[int, ...],
    terminated: tuple[int, ...],
) -> None:
    with pytest.raises(ValueError, match=r"are not \(B, T\)") as refused:
        generalised_advantages(
            torch.zeros(reward),
            torch.zeros(value),
            torch.zeros(mask),
            terminated_B=torch.zeros(terminated, dtype=torch.bool),
            gamma=1.0,
            lambda_=1.0,
        )
    for shape in (reward, value, mask, terminated):
        assert str(shape) in str(refused.value)


# --- token rewards ---


def rewards_of(
    score: float, kl: list[float], mask: list[int], *, terminated: bool = True, beta: float = 0.0
) -> list[float]:
    found: list[float] = token_rewards(
        torch.tensor([score]),
        torch.tensor([kl]),
        torch.tensor([mask]),
        terminated_B=torch.tensor([terminated]),
        kl_coefficient=beta,
    )[0].tolist()
    return found


@pytest.mark.parametrize(
    ("mask", "paid_on"),
    [([1, 1, 1], 2), ([1, 1, 0], 1), ([1, 0, 1], 2), ([0, 1, 0], 1), ([1, 0, 0], 0)],
    ids=["full", "padded", "hole", "first masked", "one token"],
)
def test_the_score_is_paid_once_on_the_last_real_token(mask: list[int], paid_on: int) -> None:
    expected = [0.0] * 3
    expected[paid_on] = 0.5

    assert rewards_of(0.5, [9, 9, 9], mask) == expected


def test_a_truncated_completion_gets_no_score_but_pays_for_its_kl() -> None:
    assert rewards_of(1.0, [0, 0, 0], [1, 1, 1], terminated=False) == [0, 0, 0]
    assert rewards_of(1.0, [1, 2, 4], [1, 1, 1], terminated=False, beta=0.5) == [-0.5, -1, -2]


def test_every_real_token_pays_for_its_own_kl_and_no_masked_one_does() -> None:
    found = rewards_of(1.0, [0.5, -0.25, NAN], [1, 1, 0], beta=2.0)

    assert found == [-1.0, 1.5, 0.0]


def test_a_score_of_zero_is_a_reward() -> None:
    # Before the last token the critic expects 0.7. An answer worth 0 disappoints it; a truncated
    # one, which has no score, leaves the estimate as it is.
    values = [0.7, 0.7, 0.7, 0.7]
    scored = rewards_of(0.0, [0, 0, 0], [1, 1, 1])
    unscored = rewards_of(0.0, [0, 0, 0], [1, 1, 1], terminated=False)

    assert one(scored, values, [1, 1, 1])[0] == pytest.approx([-0.7, -0.7, -0.7])
    assert one(unscored, values, [1, 1, 1], terminated=False)[0] == pytest.approx([0, 0, 0])


# --- whitening ---


def test_whitening_looks_at_real_tokens_alone() -> None:
    torch.manual_seed(0)
    value_BT = 5 + 3 * torch.randn(4, 6)
    mask_BT = torch.rand(4, 6) < 0.6
    value_BT[~mask_BT] = 1e6
    white_BT, scale = whiten(value_BT, mask_BT, least_scale=1e-4)

    assert white_BT[mask_BT].mean().item() == pytest.approx(0, abs=1e-6)
    assert white_BT[mask_BT].std().item() == pytest.approx(1, abs=1e-5)
    assert scale == pytest.approx(value_BT[mask_BT].std().item())
    assert torch.equal(white_BT[~mask_BT], torch.zeros(int((~mask_BT).sum())))
    expected = (value_BT[mask_BT] - value_BT[mask_BT].mean()) / value_BT[mask_BT].std()
    assert torch.allclose(white_BT[mask_BT], expected, atol=1e-6)


@pytest.mark.parametrize(
    "value_BT",
    [torch.full((2, 3), 0.25), torch.tensor([[0.25, 9, 9], [9, 9, 9]])],
    ids=["all equal", "one token"],
)
def test_whitening_what_does_not_vary_gives_zeros(value_BT: Tensor) -> None:
    mask_BT = value_BT < 1
    white_BT, scale = whiten(value_BT, mask_BT, least_scale=0.1)

    assert white_BT.tolist() == [[0.0] * 3] * 2
    assert scale == 0.1


def test_whitening_does_not_enlarge_what_is_smaller_than_the_least_scale() -> None:
    noise_BT = torch.tensor([[0.501, 0.499], [0.501, 0.499]])
    loud_BT, _ = whiten(noise_BT, torch.ones(2, 2), least_scale=1e-4)
    quiet_BT, scale = whiten(noise_BT, torch.ones(2, 2), least_scale=0.1)

    assert loud_BT.abs().max() > 0.8
    assert quiet_BT[0].tolist() == pytest.approx([0.01, -0.01], rel=1e-3)
    assert scale == 0.1


@pytest.mark.parametrize("least_scale", [0.0, -1.0, NAN])
def test_a_least_scale_that_is_none_is_refused(least_scale: float) -> None:
    with pytest.raises(ValueError, match="least scale"):
        whiten(torch.ones(1, 2), torch.ones(1, 2), least_scale=least_scale)


def test_whitening_keeps_the_order_and_does_not_change_its_argument() -> None:
    value_BT = torch.tensor([[3.0, 1.0, 2.0]])
    white_BT, _ = whiten(value_BT, torch.ones(1, 3), least_scale=1e-4)

    assert white_BT[0].argsort().tolist() == [1, 2, 0]
    assert value_BT.tolist() == [[3.0, 1.0, 2.0]]
