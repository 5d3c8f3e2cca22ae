"""A completion against the others of its prompt: advantages without a critic, and what is left of a
score when the state is taken out of it.

Shapes: B completions, of which K neighbours at a time share a prompt.
"""

import torch
from torch import Tensor


@torch.no_grad()
def group_relative_advantages(score_B: Tensor, *, per_prompt: int) -> Tensor:
    """GRPO (Shao et al., 2024, section 4.1.2): standardised within the prompt's completions.

        A_k = (R_k − mean_j R_j) / (sd_j R_j + 1e-4)

    A prompt whose completions all have one score has nothing to tell: 0.

    >>> score_B = torch.tensor([0.0, 1.0, 2.0, 2.0])
    >>> group_relative_advantages(score_B, per_prompt=2).round(decimals=3)
    tensor([-0.7070,  0.7070,  0.0000,  0.0000])
    """
    score_PK = _by_prompt(score_B, per_prompt)
    centred_PK = score_PK - score_PK.mean(dim=1, keepdim=True)
    return (centred_PK / (score_PK.std(dim=1, keepdim=True) + 1e-4)).flatten()


@torch.no_grad()
def leave_one_out_advantages(score_B: Tensor, *, per_prompt: int) -> Tensor:
    """RLOO (Kool et al., 2019; Ahmadian et al., 2024): the baseline is the mean of the others.

        A_k = R_k − 1/(K−1) Σ_{j≠k} R_j = K/(K−1) (R_k − mean_j R_j)

    >>> leave_one_out_advantages(torch.tensor([0.0, 1.0, 2.0]), per_prompt=3)
    tensor([-1.5000,  0.0000,  1.5000])
    """
    score_PK = _by_prompt(score_B, per_prompt)
    centred_PK = score_PK - score_PK.mean(dim=1, keepdim=True)
    return (centred_PK * (per_prompt / (per_prompt - 1))).flatten()


@torch.no_grad()
def less_the_others(score_B: Tensor, ended_B: Tensor, *, per_prompt: int) -> Tensor:
    """Scores less the mean of the other completions that ended by themselves.

        R_k − mean_{j≠k, ended} R_j

    As a reward it has the gradient of R_k in expectation, since what is subtracted does not depend
    on completion k (γ = 1). Whose others were all cut off has nothing to be compared with and gets
    0: where most completions are cut off, less is learned than was paid for.

    Args:
        score_B: R, of whatever kind where a completion was cut off.
        ended_B: Whether it was not.
        per_prompt: K.

    >>> score_B, ended_B = torch.tensor([1.0, 3.0, 9.0]), torch.tensor([True, True, False])
    >>> less_the_others(score_B, ended_B, per_prompt=3)[:2]
    tensor([-2.,  2.])
    """
    score_PK = _by_prompt(score_B, per_prompt)
    ended_PK = _by_prompt(ended_B, per_prompt).to(score_B.dtype)
    known_PK = torch.where(ended_PK > 0, score_PK, 0.0)
    sum_PK = known_PK.sum(dim=1, keepdim=True) - known_PK
    number_PK = ended_PK.sum(dim=1, keepdim=True) - ended_PK
    found_PK = torch.where(number_PK > 0, score_PK - sum_PK / number_PK.clamp(min=1), 0.0)
    return found_PK.flatten()


def _by_prompt(score_B: Tensor, per_prompt: int) -> Tensor:
    if per_prompt < 2 or len(score_B) % per_prompt:
        raise ValueError(f"{len(score_B)} completions are not groups of {per_prompt}, two at least")
    return score_B.view(-1, per_prompt)
