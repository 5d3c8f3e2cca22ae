"""Behaviour cloning: the log's actions, given their states, by maximum likelihood.

Shapes: B segments, T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from iterppo.lm.rendering import Decision, Renderer
from iterppo.lm.training import minimise, right_pad, token_batches


@dataclass(frozen=True)
class Example:
    """A segment of a conversation; `weights` says how much each token counts as a target."""

    ids: list[int]
    weights: list[float]


def examples_of(
    turns: Sequence[Decision], renderer: Renderer, *, max_tokens: int, context_weight: float
) -> list[Example]:
    """Training examples of a conversation: actions count 1, everything else `context_weight`."""
    examples = []
    for segment in renderer.segments(turns, max_tokens=max_tokens)[0]:
        weights = [context_weight] * len(segment.ids)
        for index, end in segment.ends:
            action = turns[index].action
            assert action is not None
            length = len(renderer.action_ids(action))
            weights[end - length + 1 : end + 1] = [1.0] * length
        examples.append(Example(segment.ids, weights))
    return examples


def clone(
    model: PreTrainedModel,
    examples: Sequence[Example],
    *,
    pad_id: int,
    epochs: float,
    max_steps: int,
    tokens_per_batch: int,
    learning_rate: float,
    seed: int,
) -> list[float]:
    """Train the model on the examples; returns the loss of every step, in nats per weighted token."""
    model.train()
    return minimise(
        list(model.parameters()),
        lambda batch: _loss(model, [examples[index] for index in batch], pad_id=pad_id),
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
def action_loss(model: PreTrainedModel, examples: Sequence[Example], *, pad_id: int, tokens_per_batch: int) -> float:
    """Mean negative log-likelihood of the actions' tokens, in nats per token."""
    model.eval()
    total = count = 0.0
    lengths = [len(example.ids) for example in examples]
    for batch in token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None):
        chosen = [Example(e.ids, [float(w == 1.0) for w in e.weights]) for e in (examples[i] for i in batch)]
        weight = sum(sum(e.weights[1:]) for e in chosen)
        total += float(_loss(model, chosen, pad_id=pad_id)) * weight
        count += weight
    return total / max(count, 1.0)


def _loss(model: PreTrainedModel, examples: Sequence[Example], *, pad_id: int) -> torch.Tensor:
    ids_BT = right_pad([example.ids for example in examples], value=pad_id)
    length = ids_BT.shape[1]
    weight_BT = torch.tensor([[*e.weights, *[0.0] * (length - len(e.weights))] for e in examples])
    # Right padding needs no attention mask in a causal model: no real token can see what follows it.
    logits_BTV = model(input_ids=ids_BT[:, :-1], use_cache=False).logits
    loss_BT = torch.nn.functional.cross_entropy(
        logits_BTV.transpose(1, 2), ids_BT[:, 1:], reduction="none"
    )
    return (loss_BT * weight_BT[:, 1:]).sum() / weight_BT[:, 1:].sum().clamp(min=1e-8)
