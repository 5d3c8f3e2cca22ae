"""Advantages of tokens.

Shapes: B completions, T tokens. Values have T + 1 columns: column t is the estimate before token t
is written, column t + 1 the one after it.
"""

import torch
from torch import Tensor


@torch.no_grad()
def generalised_advantages(
    reward_BT: Tensor,
    value_BT1: Tensor,
    mask_BT: Tensor,
    *,
    terminated_B: Tensor,
    gamma: float,
    lambda_: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimate, and the returns that the critic is trained on.

        δ_t = r_t + γ V_{t+1} − V_t,    A_t = δ_t + γ λ A_{t+1},    R_t = A_t + V_t

    λ = 1 is the discounted sum of rewards minus V_t, λ = 0 the one-step error. Beyond the last
    token V is 0 where the completion ended (its turn is over) and the critic's estimate where it
    was only truncated. A masked token takes no
    time: the estimate of the next real token is carried over it undiminished, and its own reward is
    not seen. Schulman et al. (2016), equation 16.

    Args:
        reward_BT: Reward on writing token t, in units of Q.
        value_BT1: Critic's estimates, of shape (B, T + 1), in units of Q.
        mask_BT: 1 for tokens that the policy wrote, 0 for padding.
        terminated_B: Whether the completion ended by itself.
        gamma: Discount per token, in [0, 1].
        lambda_: In [0, 1].

    Returns:
        Advantages and returns of shape (B, T), in units of Q, 0 where masked.

    Raises:
        ValueError: If the shapes do not fit.

    >>> r, v, m = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 0.5, 9.0]]), torch.ones(1, 2)
    >>> ended = torch.tensor([True])
    >>> generalised_advantages(r, v, m, terminated_B=ended, gamma=1.0, lambda_=1.0)[0]
    tensor([[0.5000, 0.5000]])
    """
    B, T = reward_BT.shape
    if mask_BT.shape != (B, T) or value_BT1.shape != (B, T + 1) or terminated_B.shape != (B,):
        raise ValueError(
            f"reward {tuple(reward_BT.shape)}, mask {tuple(mask_BT.shape)}, value "
            f"{tuple(value_BT1.shape)} and "
            f"terminated {tuple(terminated_B.shape)} are not (B, T), (B, T), (B, T + 1) and (B,)"
        )
    real_BT = mask_BT.bool()
    after_last_B = T - real_BT.flip(1).int().argmax(dim=1)  # column after the last real token
    last_value_B = value_BT1.gather(1, after_last_B.unsqueeze(1)).squeeze(1)
    next_value_B = torch.where(terminated_B, torch.zeros_like(last_value_B), last_value_B)
    carried_B = torch.zeros_like(last_value_B)
    advantage_BT = torch.zeros_like(value_BT1[:, :-1])
    for t in reversed(range(T)):
        real_B = real_BT[:, t]
        delta_B = reward_BT[:, t] + gamma * next_value_B - value_BT1[:, t]
        here_B = delta_B + gamma * lambda_ * carried_B
        advantage_BT[:, t] = torch.where(real_B, here_B, 0.0)
        carried_B = torch.where(real_B, here_B, carried_B)
        next_value_B = torch.where(real_B, value_BT1[:, t], next_value_B)
    return advantage_BT, torch.where(real_BT, advantage_BT + value_BT1[:, :-1], 0.0)


@torch.no_grad()
def token_rewards(
    score_B: Tensor, kl_BT: Tensor, mask_BT: Tensor, *, terminated_B: Tensor, kl_coefficient: float
) -> Tensor:
    """Reward of every token: −β k1 on each, and Q(s, a) on the last token of a completion that
    ended.

    A truncated completion is no action, so it is paid no Q: its value is the critic's to estimate.
    A score of 0 is a reward like any other.

    Args:
        score_B: Q̂(s, a).
        kl_BT: log π − log π_ref of each token (k1), in nats.
        mask_BT: 1 for tokens that the policy wrote.
        terminated_B: Whether the completion ended by itself.
        kl_coefficient: β, in units of Q per nat.

    Returns:
        Rewards of shape (B, T), in units of Q, 0 where masked.

    >>> token_rewards(torch.tensor([1.0]), torch.zeros(1, 3), torch.tensor([[1, 1, 0]]),
    ...               terminated_B=torch.tensor([True]), kl_coefficient=0.1)
    tensor([[0., 1., 0.]])
    """
    real_BT = mask_BT.bool()
    last_BT = real_BT & (real_BT.flip(1).cumsum(1).flip(1) == 1)
    score_BT = torch.where(last_BT & terminated_B.unsqueeze(1), score_B.unsqueeze(1), 0.0)
    return torch.where(real_BT, score_BT - kl_coefficient * kl_BT, 0.0)


@torch.no_grad()
def whiten(value_BT: Tensor, mask_BT: Tensor, *, least_scale: float) -> tuple[Tensor, float]:
    """Mean 0 over the real tokens, in units of their standard deviation; 0 elsewhere.

        (A − mean A) / max(std A, least scale)

    The standard deviation alone would blow up noise: where all completions of an update are worth
    the same, what is left of the advantages is the critic's error, and the policy would take a step
    of full size along it. What is subtracted is a constant baseline, which leaves the expected
    gradient as it is; the rewards themselves keep their level, since what Q is worth beside the KL
    penalty depends on it.

    Args:
        value_BT: Advantages, in units of Q.
        mask_BT: 1 for tokens that the policy wrote.
        least_scale: What a difference of 1 stands for at least, in units of Q; positive.

    Returns:
        Scaled advantages of shape (B, T), and the scale that was divided by.

    Raises:
        ValueError: If the least scale is not positive.

    >>> whiten(torch.tensor([[0.5, 0.7]]), torch.ones(1, 2), least_scale=0.5)
    (tensor([[-0.2000,  0.2000]]), 0.5)
    """
    if not least_scale > 0:
        raise ValueError(f"the least scale of advantages is positive, is {least_scale}")
    real_BT = mask_BT.bool()
    real_N = value_BT[real_BT]
    if real_N.numel() < 2:
        return torch.zeros_like(value_BT), least_scale
    scale = max(real_N.std().item(), least_scale)
    return torch.where(real_BT, (value_BT - real_N.mean()) / scale, 0.0), scale
