"""What an implicit reward model is trained on: the log-ratio of a whole conversation predicts its
outcome.

    p = σ(β Σ_t q_t),    q_t = log π_φ(y_t | y_<t) − log π_ref(y_t | y_<t),    L = BCE(p, R)

Shapes: T tokens of the assistant in B conversations, laid end to end. Padding and what the customer
wrote are left out before, so that there is no mask that could be applied to the wrong axis.
"""

from __future__ import annotations

import torch
from torch import Tensor


def outcome_logits(log_ratio_T: Tensor, num_tokens_B: Tensor, *, beta: float) -> Tensor:
    """β Σ_t q_t of each conversation: the logit of its outcome; 0 where nothing was said.

    Args:
        log_ratio_T: q_t, in nats.
        num_tokens_B: Tokens of each conversation (integers).
        beta: β, per nat.

    Returns:
        Logits of shape (B,).

    Raises:
        ValueError: If the conversations have more or fewer tokens than there are.

    >>> outcome_logits(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2, 0, 1]), beta=0.5)
    tensor([1.5000, 0.0000, 2.0000])
    """
    if int(num_tokens_B.sum()) != len(log_ratio_T):
        raise ValueError(
            f"conversations of {int(num_tokens_B.sum())} tokens, {len(log_ratio_T)} log-ratios"
        )
    owner_T = torch.repeat_interleave(num_tokens_B)
    zero_B = torch.zeros(len(num_tokens_B), dtype=log_ratio_T.dtype, device=log_ratio_T.device)
    return beta * zero_B.index_add(0, owner_T, log_ratio_T)


def outcome_loss(logit_B: Tensor, outcome_B: Tensor, *, num_conversations: int) -> Tensor:
    """Cross-entropy of the outcomes, in nats per conversation.

        L = −1/N Σ_i [R_i log σ(z_i) + (1 − R_i) log (1 − σ(z_i))]

    N is given, so that the losses of the micro-batches of a batch sum to the loss of the batch,
    whatever their sizes.

    Args:
        logit_B: z, of a batch or a part of it.
        outcome_B: R in [0, 1]; a soft label is one in between.
        num_conversations: N, of the whole batch.

    Raises:
        ValueError: If an outcome is outside [0, 1] or the shapes differ.

    >>> outcome_loss(torch.tensor([0.0, 0.0]), torch.tensor([1.0, 0.25]), num_conversations=2)
    tensor(0.6931)
    """
    if logit_B.shape != outcome_B.shape:
        raise ValueError(f"logits {tuple(logit_B.shape)}, outcomes {tuple(outcome_B.shape)}")
    if not bool(((outcome_B >= 0) & (outcome_B <= 1)).all()):
        raise ValueError("an outcome is outside [0, 1]")
    total = torch.nn.functional.binary_cross_entropy_with_logits(
        logit_B, outcome_B.to(logit_B.dtype), reduction="sum"
    )
    return total / num_conversations
