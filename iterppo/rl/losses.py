"""Losses of the policy step that are not the trainer's own.

Shapes: B completions, T tokens, N tokens that count.
"""

import torch
from torch import Tensor


def value_loss(
    value_BT: Tensor, old_value_BT: Tensor, return_BT: Tensor, mask_BT: Tensor, *, clip: float
) -> Tensor:
    """Half the squared error of the critic, with its change since sampling clipped, summed over the
    tokens.

        ½ Σ_t max((V_t − R_t)², (V_old,t + clamp(V_t − V_old,t, ±clip) − R_t)²)

    clip = 0 means no clipping, the plain squared error.

    Args:
        value_BT: Critic's estimates, with gradient.
        old_value_BT: Its estimates at sampling.
        return_BT: Targets.
        mask_BT: 1 for tokens that count.
        clip: Half-width of the range, in units of Q.

    Returns:
        A scalar; divide it by the number of tokens of the whole minibatch.

    >>> v = torch.tensor([[1.0, 7.0]])
    >>> value_loss(v, torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([[1, 0]]), clip=0.0)
    tensor(0.5000)
    """
    # Picked out first, since 0 × NaN is NaN: whatever stands on a masked token leaves no gradient.
    real_BT = mask_BT.bool()
    value_N, old_N, return_N = (tensor[real_BT] for tensor in (value_BT, old_value_BT, return_BT))
    error_N = (value_N - return_N).square()
    if clip > 0:
        clipped_N = old_N + (value_N - old_N).clamp(-clip, clip)
        error_N = torch.maximum(error_N, (clipped_N - return_N).square())
    return 0.5 * error_N.sum()
