"""The solution of a policy step's problem, on a sample of suggestions.

    max_π  E_{a∼π}[Q(s, a)] − β KL(π ‖ π_k)
    is solved by    π*(a | s) = π_k(a | s) exp(Q(s, a)/β) / Z(s)

With K suggestions of π_k, Z(s) is estimated by their mean of exp(Q/β), and π* by the K of them with
weights w (Abdolmaleki et al., 2018, section 3.2, with a β that is given).

Shapes: B completions, of which K neighbours at a time share a prompt; P prompts.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def soft_advantages(
    score_B: Tensor, ended_B: Tensor, *, per_prompt: int, kl_coefficient: float
) -> Tensor:
    """What a completion has over what the tilted policy is worth.

        A_k = R_k − β log (1/N Σ_j exp(R_j/β)),   so that   w_k = exp(A_k/β) / N

    over the N completions of the prompt that ended by themselves. The others are no actions: −∞.

    Args:
        score_B: R, of whatever kind where a completion was cut off.
        ended_B: Whether it was not.
        per_prompt: K.
        kl_coefficient: β, in units of R per nat.

    Raises:
        ValueError: If β is not positive, or the completions are not groups of K.

    >>> advantage_B = soft_advantages(
    ...     torch.tensor([0.0, 1.0]), torch.tensor([True, True]), per_prompt=2, kl_coefficient=1.0
    ... )
    >>> advantage_B.exp() / 2  # 1 : e
    tensor([0.2689, 0.7311])
    """
    if not kl_coefficient > 0:
        raise ValueError(f"without a price of the KL there is nothing to tilt by: {kl_coefficient}")
    if per_prompt < 1 or len(score_B) % per_prompt:
        raise ValueError(f"{len(score_B)} completions are not groups of {per_prompt}")
    score_PK = torch.where(ended_B, score_B, -math.inf).view(-1, per_prompt)
    number_P1 = ended_B.view(-1, per_prompt).sum(dim=1, keepdim=True)
    soft_P1 = torch.logsumexp(score_PK / kl_coefficient, dim=1, keepdim=True) - number_P1.log()
    advantage_PK = score_PK - kl_coefficient * soft_P1
    return torch.where(ended_B.view(-1, per_prompt), advantage_PK, -math.inf).flatten()


@torch.no_grad()
def tilted_weights(advantage_B: Tensor, *, per_prompt: int, kl_coefficient: float) -> Tensor:
    """w of `soft_advantages`, by prompt: (P, K), of sum 1; 0 where no completion ended.

    >>> tilted_weights(torch.tensor([0.0, 0.0]), per_prompt=2, kl_coefficient=1.0)
    tensor([[0.5000, 0.5000]])
    """
    advantage_PK = advantage_B.view(-1, per_prompt)
    weight_PK = (advantage_PK / kl_coefficient).exp()
    return weight_PK / weight_PK.sum(dim=1, keepdim=True).clamp(min=torch.finfo().tiny)


@torch.no_grad()
def systematic_draws(weight_PK: Tensor, number: int, uniform_P: Tensor) -> Tensor:
    """How often each is drawn of so many draws by the weights, in each row: (P, K).

    One uniform number for all draws of a row, at u, u + 1, … of `number` (systematic resampling): a
    completion is drawn ⌊M w⌋ or ⌈M w⌉ times, M w in expectation.

    Args:
        weight_PK: Of sum 1, or of zeros where nothing is drawn.
        number: M.
        uniform_P: In [0, 1).

    >>> systematic_draws(torch.tensor([[0.5, 0.25, 0.25]]), 2, torch.tensor([0.5]))
    tensor([[1, 0, 1]])
    """
    upto_PK = (weight_PK.double().cumsum(dim=1) * number).clamp(max=number)
    some_P = weight_PK.sum(dim=1) > 0
    upto_PK[some_P, -1] = number  # whatever rounding says
    passed_PK = (upto_PK - uniform_P.double().unsqueeze(1)).ceil().clamp(min=0)
    return torch.diff(passed_PK, dim=1, prepend=passed_PK.new_zeros(len(passed_PK), 1)).long()


@torch.no_grad()
def tilted_kl(weight_PK: Tensor, ended_PK: Tensor) -> Tensor:
    """KL of the weighted completions from all that ended, Σ w log(N w), in nats: (P,).

    >>> tilted_kl(torch.tensor([[1.0, 0.0]]), torch.tensor([[True, True]]))
    tensor([0.6931])
    """
    number_P = ended_PK.sum(dim=1)
    return torch.special.xlogy(weight_PK, weight_PK * number_P.unsqueeze(1)).sum(dim=1)
