"""The loss of the implicit reward model: by hand, and whatever the batches are."""

import math

import pytest
import torch

from iterppo.rl.implicit_loss import outcome_logits, outcome_loss

NUM_TOKENS_B = torch.tensor([3, 1, 0, 2, 4])
OUTCOME_B = torch.tensor([1.0, 0.0, 1.0, 0.3, 0.0], dtype=torch.float64)


def log_ratios() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(10, generator=generator, dtype=torch.float64)


def test_the_loss_by_hand() -> None:
    logit_B = outcome_logits(torch.tensor([1.0, 1.0, -2.0]), torch.tensor([2, 1]), beta=0.5)
    loss = outcome_loss(logit_B, torch.tensor([1.0, 0.25]), num_conversations=2)

    certain = math.log(1 + math.exp(-1.0))
    soft = 0.25 * math.log(1 + math.exp(1.0)) + 0.75 * math.log(1 + math.exp(-1.0))
    assert logit_B.tolist() == [1.0, -1.0]
    assert loss.item() == pytest.approx((certain + soft) / 2)


def test_the_gradient_is_beta_times_the_error_on_every_token_of_the_conversation() -> None:
    log_ratio_T = log_ratios().requires_grad_()
    logit_B = outcome_logits(log_ratio_T, NUM_TOKENS_B, beta=0.2)
    outcome_loss(logit_B, OUTCOME_B, num_conversations=5).backward()

    error_B = (torch.sigmoid(logit_B) - OUTCOME_B).detach()
    expected_T = 0.2 * torch.repeat_interleave(error_B, NUM_TOKENS_B) / 5
    assert log_ratio_T.grad is not None
    assert torch.allclose(log_ratio_T.grad, expected_T, rtol=1e-12, atol=0)


def test_the_loss_passes_a_gradient_check() -> None:
    def loss(log_ratio_T: torch.Tensor) -> torch.Tensor:
        logit_B = outcome_logits(log_ratio_T, NUM_TOKENS_B, beta=0.7)
        return outcome_loss(logit_B, OUTCOME_B, num_conversations=5)

    assert torch.autograd.gradcheck(loss, log_ratios().requires_grad_())


@pytest.mark.parametrize("size", [1, 2, 5])
def test_micro_batches_of_any_size_sum_to_the_same_loss_and_gradient(size: int) -> None:
    log_ratio_T = log_ratios().requires_grad_()
    total = torch.zeros((), dtype=torch.float64)
    for start in range(0, 5, size):
        before = int(NUM_TOKENS_B[:start].sum())
        counts = NUM_TOKENS_B[start : start + size]
        part_T = log_ratio_T[before : before + int(counts.sum())]
        logit_B = outcome_logits(part_T, counts, beta=0.7)
        total = total + outcome_loss(logit_B, OUTCOME_B[start : start + size], num_conversations=5)
    total.backward()

    whole_T = log_ratios().requires_grad_()
    whole = outcome_loss(
        outcome_logits(whole_T, NUM_TOKENS_B, beta=0.7), OUTCOME_B, num_conversations=5
    )
    whole.backward()
    assert total.item() == pytest.approx(whole.item(), rel=1e-12)
    assert log_ratio_T.grad is not None
    assert whole_T.grad is not None
    assert torch.allclose(log_ratio_T.grad, whole_T.grad, rtol=1e-12, atol=0)


def test_a_conversation_in_which_nothing_was_said_teaches_nothing() -> None:
    logit_B = outcome_logits(torch.zeros(0), torch.tensor([0]), beta=1.0)

    assert logit_B.tolist() == [0.0]


@pytest.mark.parametrize("outcome", [-0.1, 1.1, math.nan])
def test_an_outcome_that_is_no_probability_is_refused(outcome: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        outcome_loss(torch.zeros(1), torch.tensor([outcome]), num_conversations=1)


def test_counts_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="conversations of 2 tokens, 3 log-ratios"):
        outcome_logits(torch.zeros(3), torch.tensor([1, 1]), beta=1.0)
    with pytest.raises(ValueError, match="logits"):
        outcome_loss(torch.zeros(2), torch.zeros(3), num_conversations=2)
