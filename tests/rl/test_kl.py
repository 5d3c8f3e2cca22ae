"""Estimates of the divergence on a tiny softmax, where every expectation is a finite sum.

Shapes: V tokens.
"""

import pytest
import torch
from torch import Tensor

from iterppo.rl.kl import KLEstimator, kl_estimate

SEEDS = range(5)
KINDS: list[KLEstimator] = ["k1", "k2", "k3"]


def softmaxes(seed: int, *, apart: float = 1.0) -> tuple[Tensor, Tensor]:
    """Logits of a policy, with gradient, and of a reference that differs by so much."""
    torch.manual_seed(seed)
    reference_V = torch.randn(6, dtype=torch.float64)
    policy_V = reference_V + apart * torch.randn(6, dtype=torch.float64)
    return policy_V.requires_grad_(), reference_V


def divergence(first_V: Tensor, second_V: Tensor) -> Tensor:
    """KL(first‖second) of two softmaxes, from their logits."""
    return (first_V.softmax(0) * (first_V.log_softmax(0) - second_V.log_softmax(0))).sum()


def gradient(of: Tensor, logits_V: Tensor) -> Tensor:
    (found_V,) = torch.autograd.grad(of, logits_V)
    return found_V


def mean_estimate(policy_V: Tensor, reference_V: Tensor, kind: KLEstimator) -> Tensor:
    """E_{v∼π} of the estimate. As in a loss over sampled tokens, what was sampled is a constant."""
    estimate_V = kl_estimate(policy_V.log_softmax(0), reference_V.log_softmax(0), kind=kind)
    return (policy_V.softmax(0).detach() * estimate_V).sum()


# --- values ---


@pytest.mark.parametrize("kind", ["k1", "k3"])
@pytest.mark.parametrize("seed", SEEDS)
def test_k1_and_k3_are_the_divergence_on_average(seed: int, kind: KLEstimator) -> None:
    policy_V, reference_V = softmaxes(seed)

    assert mean_estimate(policy_V, reference_V, kind).item() == pytest.approx(
        divergence(policy_V, reference_V).item(), abs=1e-12
    )


def test_k2_is_biased_and_the_less_the_nearer() -> None:
    def share(apart: float) -> float:
        policy_V, reference_V = softmaxes(0, apart=apart)
        estimate = mean_estimate(policy_V, reference_V, "k2")
        return abs(estimate / divergence(policy_V, reference_V) - 1).item()

    assert share(1.0) > 0.05
    assert share(0.01) < 0.01


@pytest.mark.parametrize("seed", SEEDS)
def test_of_one_token_only_k1_may_be_negative(seed: int) -> None:
    policy_V, reference_V = softmaxes(seed)
    lowest = {
        kind: kl_estimate(policy_V.log_softmax(0), reference_V.log_softmax(0), kind=kind).min()
        for kind in KINDS
    }

    assert lowest["k1"] < 0 <= min(lowest["k2"], lowest["k3"])


@pytest.mark.parametrize("kind", KINDS)
def test_a_policy_that_is_the_reference_is_at_no_distance(kind: KLEstimator) -> None:
    logprob_V = softmaxes(0)[1].log_softmax(0)

    assert kl_estimate(logprob_V, logprob_V.clone(), kind=kind).abs().max() == 0


# --- gradients ---


@pytest.mark.parametrize("seed", SEEDS)
def test_k1_in_the_reward_has_the_gradient_of_the_divergence(seed: int) -> None:
    policy_V, reference_V = softmaxes(seed)
    logprob_V = policy_V.log_softmax(0)
    paid_V = kl_estimate(logprob_V, reference_V.log_softmax(0), kind="k1").detach()
    by_reward_V = gradient((logprob_V.exp().detach() * paid_V * logprob_V).sum(), policy_V)

    torch.testing.assert_close(
        by_reward_V, gradient(divergence(policy_V, reference_V), policy_V), atol=1e-12, rtol=0
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_k2_in_the_loss_has_the_gradient_of_k1_in_the_reward(seed: int) -> None:
    policy_V, reference_V = softmaxes(seed)

    torch.testing.assert_close(
        gradient(mean_estimate(policy_V, reference_V, "k2"), policy_V),
        gradient(divergence(policy_V, reference_V), policy_V),
        atol=1e-12,
        rtol=0,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_k1_in_the_loss_has_no_gradient(seed: int) -> None:
    policy_V, reference_V = softmaxes(seed)

    assert gradient(mean_estimate(policy_V, reference_V, "k1"), policy_V).abs().max() < 1e-12


@pytest.mark.parametrize("seed", SEEDS)
def test_k3_in_the_loss_has_the_gradient_of_the_other_divergence(seed: int) -> None:
    policy_V, reference_V = softmaxes(seed)
    found_V = gradient(mean_estimate(policy_V, reference_V, "k3"), policy_V)
    wanted_V = gradient(divergence(policy_V, reference_V), policy_V)
    other_V = gradient(divergence(reference_V, policy_V), policy_V)

    torch.testing.assert_close(found_V, other_V, atol=1e-12, rtol=0)
    assert (found_V - wanted_V).norm() > 0.1 * wanted_V.norm()


# --- what is refused ---


def test_log_probabilities_of_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3,\)"):
        kl_estimate(torch.zeros(2, 3), torch.zeros(3), kind="k1")


def test_an_unknown_estimate_is_refused() -> None:
    with pytest.raises(ValueError, match="'k4'"):
        kl_estimate(torch.zeros(2), torch.zeros(2), kind="k4")  # type: ignore[arg-type]
