"""What a policy step is going to do and to hold, told before it starts."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from transformers.pytorch_utils import Conv1D

from iterppo.config import PPOConfig
from iterppo.lm.policy import Policy
from iterppo.lm.shared_prompts import can_share

LIBRARIES_MB = 450
"""torch, transformers, trl and datasets, before anything is loaded."""
_NUMBER_BYTES = 4
_PER_LAYER = 16, 5
"""Numbers that a token leaves behind in a layer for the backward pass: so many of the width, and
so many of the feed-forward part's."""


class Memory(NamedTuple):
    """In MB (2²⁰ bytes)."""

    models: float
    """Policy, reference, Q."""
    kept: float
    """Weights of the best policy that was read, on the host."""
    learning: float
    """Gradients, and the two averages of AdamW."""
    work: float
    """Of the larger of sampling and learning: keys and values; activations of a microbatch."""

    @property
    def total(self) -> float:
        """All of it and the libraries."""
        return LIBRARIES_MB + sum(self)


def training_plan(config: PPOConfig, policy: Policy, *, q_model: Any | None) -> list[str]:
    """Lines for whoever starts it: models in memory, steps, memory.

    Args:
        config: Of the stage; its numbers divide (see `trainer_arguments`).
        policy: What is trained.
        q_model: What scores; None: something without weights.
    """
    policy_size, q_size = num_parameters(policy.model), num_parameters(q_model)
    trained = "trained"
    if config.lora_rank:
        trained = f"{_count(num_adapters(policy.model, config.lora_rank))} of adapters trained"
    models = [f"policy ({_count(policy_size)} parameters, float32, {trained})"]
    if _has_reference(config):
        models.append(f"reference ({_count(policy_size)})")
    if _own_backbone(config):
        models.append(f"critic ({_count(policy_size)}, trained)")
    if q_model is not None:
        models.append(f"Q ({_count(q_size)})")
    memory = estimated_memory(config, policy, q_parameters=q_size)
    return [
        f"ppo: in memory: {', '.join(models)}",
        _steps(config),
        f"ppo: about {memory.total / 1024:.1f} GiB: libraries {LIBRARIES_MB} MiB, models "
        f"{memory.models:,.0f}, gradients and AdamW {memory.learning:,.0f}, the best that was "
        f"read {memory.kept:,.0f}, at work {memory.work:,.0f}",
    ]


def _steps(config: PPOConfig) -> str:
    per_update, each = config.completions_per_update, config.completions_per_prompt
    steps = config.epochs * config.minibatches
    if config.algorithm == "mpo":
        kind = f"{each} each, {config.imitated_per_prompt} of them imitated"
        minibatch = per_update // each * config.imitated_per_prompt // config.minibatches
    else:
        kind, minibatch = f"{each} each", per_update // config.minibatches
    return (
        f"ppo: {config.updates} updates of {per_update:,} completions "
        f"({per_update // each:,} prompts, {kind}), "
        f"{config.updates * per_update:,} in all; each update {steps} optimiser steps "
        f"({config.epochs} epochs × {config.minibatches} minibatches of {minibatch:,}, "
        f"{config.microbatch_size} at a time), {config.updates * steps:,} in all"
    )


def estimated_memory(config: PPOConfig, policy: Policy, *, q_parameters: int) -> Memory:
    """From the sizes alone, prompts at the longest that they may be: an upper estimate.

    Args:
        config: Of the stage.
        policy: What is trained.
        q_parameters: Of the model that scores.
    """
    shape: Any = policy.model.config.get_text_config()
    width, layers = shape.hidden_size, shape.num_hidden_layers
    feed_forward = getattr(shape, "intermediate_size", None) or 4 * width
    heads = getattr(shape, "num_key_value_heads", None) or shape.num_attention_heads
    key_width = heads * (getattr(shape, "head_dim", None) or width // shape.num_attention_heads)
    written, prompt = policy.settings.max_new_tokens, policy.settings.max_prompt_tokens
    size = num_parameters(policy.model)
    adapters = num_adapters(policy.model, config.lora_rank)
    critic = size if _own_backbone(config) else 0
    held = size + adapters + critic + (size if _has_reference(config) else 0)
    trained = (adapters if config.lora_rank else size) + critic
    microbatch = config.microbatch_size
    # On an accelerator every completion is a row, with a copy of its prompt.
    shares = not torch.accelerator.is_available() and can_share(policy.model.config)
    rows = -(-microbatch // config.completions_per_prompt) if shares else microbatch
    tokens = rows * prompt + microbatch * written
    activations = tokens * layers * (_PER_LAYER[0] * width + _PER_LAYER[1] * feed_forward)
    logits = 4 * microbatch * written * shape.vocab_size
    cached = min(16_384, config.completions_per_update * (prompt + written))
    sampling = 2 * 2 * layers * key_width * cached  # twice: rows that leave are copied
    learning = (2 if critic else 1) * activations + logits
    watched = config.watch_updates and config.watched_prompts
    kept = _written_weights(policy.model) if watched else 0
    numbers = Memory(held + q_parameters, kept, 3 * trained, max(learning, sampling))
    return Memory(*(number * _NUMBER_BYTES / 2**20 for number in numbers))


def _has_reference(config: PPOConfig) -> bool:
    """Whether a second model is held; with adapters it is the policy without them."""
    return bool(config.kl_coefficient) and not config.lora_rank


def _own_backbone(config: PPOConfig) -> bool:
    return config.critic == "separate" and config.algorithm == "ppo"


def num_parameters(model: Any | None) -> int:
    """Of a model, weights that are shared counted once."""
    return 0 if model is None else sum(parameter.numel() for parameter in model.parameters())


def _written_weights(model: Any) -> int:
    """Numbers of a model as it is saved: weights that are shared are there twice."""
    return sum(p.numel() for m in model.modules() for p in m.parameters(recurse=False))


def num_adapters(model: Any, rank: int) -> int:
    """Parameters of adapters of a rank on all linear layers but the one that makes logits."""
    return sum(
        rank * sum(module.weight.shape)
        for module in model.modules()
        if isinstance(module, (torch.nn.Linear, Conv1D))
        and module is not model.get_output_embeddings()
    )


def _count(number: int) -> str:
    for size, unit in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)
