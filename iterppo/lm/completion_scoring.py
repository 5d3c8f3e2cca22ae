"""Log-probabilities and values of completions, without computing what nobody reads.

TRL's batches are padded twice, prompts on the left and completions on the right. Here they are laid
out anew (`iterppo.lm.shared_prompts`): a prompt is read once for all its completions, and padding
is on the right alone, where a causal model needs no mask. In the last layer only the positions that
are read are computed (`iterppo.lm.read_positions`), and the vocabulary is scored at those alone.

Shapes: B completions, S positions as they come, R rows of L positions as they are laid out, T
completion tokens, N tokens of all completions together, V vocabulary. Values have T + 1 columns:
column t stands before completion token t.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch

from iterppo.lm.critic import Critic
from iterppo.lm.read_positions import last_layer_at
from iterppo.lm.shared_prompts import Rows, can_share, lay_out


class Scored(NamedTuple):
    """Of every completion token; 0 behind the last."""

    logprob_BT: torch.Tensor
    """log π at the sampling temperature, in nats."""
    entropy_BT: torch.Tensor | None
    """Of the distribution that the token was drawn from, in nats."""
    value_BT1: torch.Tensor


def score_completions(
    model: Any,
    critic: Critic | None,
    ids_BS: torch.Tensor,
    seen_BS: torch.Tensor,
    num_tokens: int,
    *,
    temperature: float,
    entropy: bool = False,
    learn_entropy: bool = False,
) -> Scored:
    """One causal pass over prompts padded on the left and completions padded on the right.

    Args:
        model: As the trainer wraps it.
        critic: On that model; another model's pass has no values, and they are 0. None: none has.
        ids_BS: Tokens.
        seen_BS: 1 for tokens, 0 for padding.
        num_tokens: T.
        temperature: Of the sampling.
        entropy: Whether it is wanted.
        learn_entropy: Whether it takes part in the loss; else it is without gradient.
    """
    plain = plain_model(model)
    laid = lay_out(ids_BS, seen_BS, num_tokens, share=can_share(plain.config))
    index_N, token_N = seen_BS[:, -num_tokens:].nonzero(as_tuple=True)
    before_N = torch.tensor(
        [place for places in laid.read_B for place in places[:-1]], device=ids_BS.device
    )
    row_N = torch.tensor(laid.row_B, device=ids_BS.device)[index_N]
    given = {}
    if laid.mask_R1LL is not None:
        given = {"attention_mask": laid.mask_R1LL, "position_ids": laid.position_RL}
    with (
        last_layer_at(getattr(plain, plain.base_model_prefix), laid.read_in_rows()),
        vocabulary_at(plain, row_N, before_N),
        _collecting(critic) as collected,
    ):
        logits_NV = model(input_ids=laid.ids_RL, use_cache=False, **given).logits[0]
    logits_NV = logits_NV.float()
    if temperature != 1.0:
        logits_NV = logits_NV / temperature
    total_N = logits_NV.logsumexp(dim=-1)
    ids_N = ids_BS[:, -num_tokens:][index_N, token_N]
    chosen_N = logits_NV.gather(1, ids_N.unsqueeze(1)).squeeze(1) - total_N

    def spread(found_N: torch.Tensor) -> torch.Tensor:
        shape = (len(ids_BS), num_tokens)
        return found_N.new_zeros(shape).index_put((index_N, token_N), found_N)

    entropy_BT = None
    if entropy:
        with torch.set_grad_enabled(learn_entropy and torch.is_grad_enabled()):
            entropy_BT = spread(_entropy(logits_NV, total_N))
    return Scored(spread(chosen_N), entropy_BT, _values(collected, laid, num_tokens))


def _collecting(critic: Critic | None) -> AbstractContextManager[list[torch.Tensor]]:
    return nullcontext([]) if critic is None else critic.collecting()


def _entropy(logits_NV: torch.Tensor, total_N: torch.Tensor) -> torch.Tensor:
    """H = log Σ exp(z) − Σ p z."""
    share_NV = (logits_NV - total_N.unsqueeze(1)).exp()
    return total_N - torch.linalg.vecdot(share_NV, logits_NV)


def _values(collected: list[torch.Tensor], laid: Rows, num_tokens: int) -> torch.Tensor:
    shape = (len(laid.row_B), num_tokens + 1)
    if not collected:
        return torch.zeros(shape, device=laid.ids_RL.device)
    (value_RL,) = collected
    found = [
        (index, column, row, place)
        for index, (row, places) in enumerate(zip(laid.row_B, laid.read_B, strict=True))
        for column, place in enumerate(places)
    ]
    index, column, row, place = torch.tensor(found, device=value_RL.device).T
    return value_RL.new_zeros(shape).index_put((index, column), value_RL[row, place])


def plain_model(model: Any) -> Any:
    """The language model within what wraps it: DDP, DeepSpeed, adapters."""
    while hasattr(model, "module"):
        model = model.module
    return model.get_base_model() if hasattr(model, "get_base_model") else model


@contextmanager
def vocabulary_at(model: Any, row_N: torch.Tensor, position_N: torch.Tensor) -> Iterator[None]:
    """Within it, the vocabulary is scored at these positions alone: logits are (1, N, V)."""

    def gather(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (given[0][row_N, position_N].unsqueeze(0), *given[1:])

    hook = model.get_output_embeddings().register_forward_pre_hook(gather)
    try:
        yield
    finally:
        hook.remove()
