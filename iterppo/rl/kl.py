"""Estimates of KL(π‖π_ref) from tokens that π wrote, one token at a time."""

from typing import Literal

from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def kl_estimate(logprob: Tensor, reference_logprob: Tensor, *, kind: KLEstimator) -> Tensor:
    """What one token says about the divergence of the policy from the reference.

        ρ = log π − log π_ref:    k1 = ρ,    k2 = ρ² / 2,    k3 = exp(−ρ) − 1 + ρ

    k1 and k3 are unbiased, k1 negative for some tokens and k3 for none; k2 is right to second order
    of the difference (Schulman, 2020, "Approximating KL divergence").

    Which to use depends on where. In the *reward*, where the policy gradient multiplies it by
    ∇ log π: k1, since E[k1 ∇ log π] = ∇ KL(π‖π_ref). In the *loss*, where it is differentiated
    itself: k2, since E[∇ k2] is that same gradient. E[∇ k1] is zero, and E[∇ k3] is the gradient of
    KL(π_ref‖π), the other divergence, however good k3's value is.

    Args:
        logprob: log π of the tokens, in nats; with gradient where it is a term of a loss.
        reference_logprob: log π_ref of the same tokens, in nats.
        kind: Which estimate.

    Returns:
        Of the shape of the arguments, in nats.

    Raises:
        ValueError: If the shapes differ or there is no such estimate.

    >>> import torch
    >>> ours, theirs = torch.log(torch.tensor([0.5, 0.2])), torch.log(torch.tensor([0.25, 0.4]))
    >>> kl_estimate(ours, theirs, kind="k1")
    tensor([ 0.6931, -0.6931])
    >>> kl_estimate(ours, theirs, kind="k3")
    tensor([0.1931, 0.3069])
    """
    if logprob.shape != reference_logprob.shape:
        raise ValueError(
            f"log-probabilities of shapes {tuple(logprob.shape)} and "
            f"{tuple(reference_logprob.shape)} are not of the same tokens"
        )
    log_ratio = logprob - reference_logprob
    if kind == "k1":
        return log_ratio
    if kind == "k2":
        return 0.5 * log_ratio.square()
    if kind == "k3":
        return (-log_ratio).exp() - 1 + log_ratio
    raise ValueError(f"no estimate of the divergence is called {kind!r}: k1, k2 or k3")
