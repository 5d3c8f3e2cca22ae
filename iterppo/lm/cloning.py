"""Behaviour cloning: the log's actions, given their states, by maximum likelihood.

Shapes: B segments, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from iterppo.lm.rendering import Decision, Renderer, closing_content
from iterppo.lm.training import minimise, right_pad, token_batches


@dataclass(frozen=True)
class Example:
    """A segment of a conversation, and which of its tokens the policy wrote."""

    ids: list[int]
    is_action: list[bool]


def examples_of(turns: Sequence[Decision], renderer: Renderer, *, max_tokens: int) -> list[Example]:
    """Training examples of a conversation.

    The customer's closing message, which is part of no state, is there to be predicted as well.
    """
    examples = []
    for segment in renderer.segments(turns, max_tokens=max_tokens)[0]:
        is_action = [False] * len(segment.ids)
        for index, end in segment.ends:
            action = turns[index].action
            assert action is not None
            start = end + 1 - len(renderer.turn_ids(action))
            length = len(renderer.action_ids(action))
            is_action[start : start + length] = [True] * length
        closing: list[int] = []
        if segment.ends[-1][0] == len(turns) - 1:
            closing = renderer.text_ids(closing_content(turns[-1]))
        if len(segment.ids) + len(closing) > max_tokens:
            closing = []  # a message is never cut inside
        examples.append(Example([*segment.ids, *closing], [*is_action, *[False] * len(closing)]))
    return examples


def clone(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    pad_id: int,
    context_weight: float,
    epochs: float,
    max_steps: int,
    tokens_per_batch: int,
    learning_rate: float,
    seed: int,
) -> list[float]:
    """Train the model on the examples; returns the loss of every step, in nats per weighted token.

    Actions count 1, everything else `context_weight`: what helps to predict customers helps Q,
    which starts from here.
    """
    model.train()
    return minimise(
        list(model.parameters()),
        lambda batch: _loss(
            model,
            [examples[index] for index in batch],
            pad_id=pad_id,
            context_weight=context_weight,
        ),
        [len(example.ids) for example in examples],
        epochs=epochs,
        max_steps=max_steps,
        tokens_per_batch=tokens_per_batch,
        learning_rate=learning_rate,
        weight_decay=0.01,
        seed=seed,
        what="init: cloning",
    )


@torch.no_grad()
def action_loss(
    model: PreTrainedModel, examples: Sequence[Example], *, pad_id: int, tokens_per_batch: int
) -> float:
    """Mean negative log-likelihood of the actions' tokens, in nats per token."""
    model.eval()
    total = count = 0.0
    lengths = [len(example.ids) for example in examples]
    for batch in token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None):
        chosen = [examples[index] for index in batch]
        weight = sum(sum(example.is_action[1:]) for example in chosen)
        total += float(_loss(model, chosen, pad_id=pad_id, context_weight=0.0)) * weight
        count += weight
    return total / max(count, 1.0)


def _loss(
    model: PreTrainedModel, examples: Sequence[Example], *, pad_id: int, context_weight: float
) -> torch.Tensor:
    ids_BT = right_pad([example.ids for example in examples], value=pad_id)
    is_action_BT = right_pad([example.is_action for example in examples], value=False)
    is_real_BT = right_pad([[True] * len(example.ids) for example in examples], value=False)
    weight_BT = torch.where(is_action_BT, 1.0, context_weight) * is_real_BT
    # Right padding needs no attention mask in a causal model: no real token can see what follows
    # it.
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    # Flat: over a dimension in the middle the softmax takes several times as long.
    loss_N = torch.nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), ids_BT[:, 1:].flatten(), reduction="none"
    )
    weight_N = weight_BT[:, 1:].flatten()
    return (loss_N * weight_N).sum() / weight_N.sum().clamp(min=1e-8)
