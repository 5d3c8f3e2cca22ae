"""The last layer of a backbone, computed only where its output is read.

A value is read at two positions of a turn. Up to the last layer every position matters to those
behind it; in the last layer only its keys and values do, which come before its attention. So its
attention takes the queries of the read positions alone, and its feed-forward part their outputs
alone. What is read stays what it was; the rest of the last hidden state is not meant to be looked
at. Of L layers, this saves most of one.

Shapes: B sequences, T tokens, N positions read in all, K at most in one sequence, H heads, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

_NAME = "iterppo_read_positions"
_ATTRIBUTE = "read_positions"


class ReadPositions:
    """Which positions of a batch are read.

    Args:
        positions: Of each sequence; repetitions do no harm.
    """

    def __init__(self, positions: Sequence[Sequence[int]], device: torch.device) -> None:
        once = [sorted(set(each)) for each in positions]
        most = max(len(each) for each in once)
        # Filled up with position 0, whose result nothing takes.
        self.position_BK = torch.tensor(
            [[*each, *[0] * (most - len(each))] for each in once], device=device
        )
        self.row_N, self.slot_N, self.position_N = torch.tensor(
            [
                (row, slot, position)
                for row, each in enumerate(once)
                for slot, position in enumerate(each)
            ],
            device=device,
        ).T

    def scatter(self, value_ND: torch.Tensor, num_tokens: int) -> torch.Tensor:
        """(N, …) to (B, T, …), zero where nothing is read."""
        shape = (len(self.position_BK), num_tokens, *value_ND.shape[1:])
        return value_ND.new_zeros(shape).index_put((self.row_N, self.position_N), value_ND)


@contextmanager
def last_layer_at(backbone: Any, positions: Sequence[Sequence[int]]) -> Iterator[None]:
    """Within it, the backbone's last hidden state is right at these positions.

    Causal passes are meant, without a mask or with one of what each position sees. Where an
    architecture is built in another way than usual, or its activations are computed again (gradient
    checkpointing), everything is computed.
    """
    layer = _last_layer(backbone)
    if layer is None:
        yield
        return
    reads = ReadPositions(positions, backbone.device)
    attention, config = layer.self_attn, layer.self_attn.config
    attention.config = copy.copy(config)
    attention.config._attn_implementation = _NAME
    setattr(attention, _ATTRIBUTE, reads)
    tokens: list[int] = []

    def gather(_: Any, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        tokens.append(given[0].shape[1])
        return (given[0][reads.row_N, reads.position_N].unsqueeze(0), *given[1:])

    def scatter(_: Any, __: Any, result_1ND: torch.Tensor) -> torch.Tensor:
        return reads.scatter(result_1ND.squeeze(0), tokens.pop())

    hooks = [
        layer.mlp.register_forward_pre_hook(gather),
        layer.mlp.register_forward_hook(scatter),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        delattr(attention, _ATTRIBUTE)
        attention.config = config


# Architectures whose last layer was seen to allow it (tests/lm/test_read_positions.py): attention
# through the attention interface, a feed-forward part called `mlp` that takes and gives one tensor.
_ARCHITECTURES = frozenset({"llama", "mistral", "qwen2", "qwen3"})


def _last_layer(backbone: Any) -> Any | None:
    if (
        backbone.config.model_type not in _ARCHITECTURES
        or backbone.config._attn_implementation != "sdpa"
        or backbone.is_activation_checkpointing
    ):
        return None
    return backbone.layers[-1]


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **given: Any,
) -> tuple[torch.Tensor, None]:
    """The attention of `transformers`, for the queries that are read."""
    reads: ReadPositions = getattr(module, _ATTRIBUTE)
    num_tokens = query.shape[2]
    place_B1K1 = reads.position_BK[:, None, :, None]
    query_BHKD = query.gather(2, place_B1K1.expand(-1, query.shape[1], -1, query.shape[3]))
    if attention_mask is None:
        seen_B1KT = torch.arange(num_tokens, device=query.device) <= place_B1K1
    else:  # a sliding window, or rows that hold several completions
        seen_B1TT = attention_mask.expand(len(query), -1, -1, -1)
        seen_B1KT = seen_B1TT.gather(2, place_B1K1.expand(-1, -1, -1, num_tokens))
    found_BKHD, _ = sdpa_attention_forward(module, query_BHKD, key, value, seen_B1KT, **given)
    return reads.scatter(found_BKHD[reads.row_N, reads.slot_N], num_tokens), None


AttentionInterface.register(_NAME, _attend)
