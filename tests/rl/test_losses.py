"""The critic's loss: by hand, clipped and not, its gradient, its mask."""

import math

import pytest
import torch

from iterppo.rl.losses import value_loss


def loss(value: float, old: float, target: float, *, clip: float) -> float:
    found: float = value_loss(
        torch.tensor([[value]]),
        torch.tensor([[old]]),
        torch.tensor([[target]]),
        torch.ones(1, 1),
        clip=clip,
    ).item()
    return found


@pytest.mark.parametrize(
    ("value", "old", "target", "clip", "expected"),
    [
        pytest.param(1.0, 0.0, 3.0, 0.0, 2.0, id="no clipping: half of 2²"),
        pytest.param(1.0, 0.9, 3.0, 0.2, 2.0, id="within the range: the same"),
        pytest.param(1.0, 0.0, 3.0, 0.2, 0.5 * 2.8**2, id="moved towards the target: as from 0.2"),
        pytest.param(1.0, 0.0, -1.0, 0.2, 2.0, id="moved away from the target: as it is"),
        pytest.param(-1.0, 0.0, -3.0, 0.2, 0.5 * 2.8**2, id="the other direction"),
        pytest.param(3.0, 3.0, 3.0, 0.2, 0.0, id="right"),
    ],
)
def test_one_token_by_hand(
    value: float, old: float, target: float, clip: float, expected: float
) -> None:
    assert loss(value, old, target, clip=clip) == pytest.approx(expected)


def test_the_loss_is_the_sum_over_the_real_tokens() -> None:
    value_BT = torch.tensor([[1.0, 2.0, 5.0], [3.0, 5.0, 5.0]])
    mask_BT = torch.tensor([[1, 1, 0], [1, 0, 0]])
    zeros_BT = torch.zeros(2, 3)

    found = value_loss(value_BT, zeros_BT, zeros_BT, mask_BT, clip=0.0)

    assert found.item() == pytest.approx(0.5 * (1 + 4 + 9))


def test_a_range_wide_enough_changes_nothing() -> None:
    torch.manual_seed(0)
    value_BT, old_BT, return_BT = torch.randn(3, 2, 4).unbind()
    mask_BT = torch.ones(2, 4)

    wide = value_loss(value_BT, old_BT, return_BT, mask_BT, clip=100.0)

    assert wide == value_loss(value_BT, old_BT, return_BT, mask_BT, clip=0.0)


@pytest.mark.parametrize("clip", [0.0, 0.2, 1.0])
def test_the_gradient_is_that_of_finite_differences(clip: float) -> None:
    torch.manual_seed(1)
    value_BT, old_BT, return_BT = torch.randn(3, 3, 5, dtype=torch.float64).unbind()
    mask_BT = torch.rand(3, 5) < 0.7

    assert torch.autograd.gradcheck(
        lambda value: value_loss(value, old_BT, return_BT, mask_BT, clip=clip),
        value_BT.clone().requires_grad_(),
    )


@pytest.mark.parametrize("clip", [0.0, 0.2])
def test_a_masked_token_has_no_gradient_whatever_stands_there(clip: float) -> None:
    value_BT = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    old_BT = torch.tensor([[0.9, math.nan, math.inf]])
    return_BT = torch.tensor([[0.0, math.nan, math.inf]])

    found = value_loss(value_BT, old_BT, return_BT, torch.tensor([[1, 0, 0]]), clip=clip)
    found.backward()

    assert found.item() == pytest.approx(0.5)
    assert value_BT.grad is not None
    assert value_BT.grad.tolist() == [[1.0, 0.0, 0.0]]


def test_a_value_that_was_moved_beyond_the_range_is_pushed_no_further() -> None:
    value_BT = torch.tensor([[1.0]], requires_grad=True)
    value_loss(
        value_BT, torch.zeros(1, 1), torch.tensor([[3.0]]), torch.ones(1, 1), clip=0.2
    ).backward()

    assert value_BT.grad is not None
    assert value_BT.grad.item() == 0.0
