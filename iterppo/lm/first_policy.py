"""π_0 from scratch: tokenizer, model and behaviour cloning on the training conversations of a
log."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel

from iterppo.artifact import Artifact
from iterppo.config import InitConfig
from iterppo.errors import DataError
from iterppo.lm.cloning import action_loss, clone, examples_of
from iterppo.lm.rendering import Renderer, decisions
from iterppo.lm.scratch import build_model, train_tokenizer
from iterppo.personas import prompts_of

LOSS_EXAMPLES = 200
"""Of each split, on which the action loss is told."""


@dataclass
class FirstPolicy:
    """What was made, and how it went."""

    model: PreTrainedModel
    renderer: Renderer
    counts: dict[str, int]
    metrics: dict[str, float | bool | str]


def first_policy(trajectories: Artifact, config: InitConfig) -> FirstPolicy | None:
    """Train π_0; None where the log has no training conversation with an action."""
    torch.manual_seed(config.seed)
    personas = prompts_of(config.personas)
    conversations = []
    for turns in trajectories.conversations():
        _check_persona(turns[0]["persona"], personas, where=trajectories.path)
        seen = decisions(turns, system_prompt=config.system_prompt, personas=personas)
        conversations.append((turns[0]["split"], list(seen)))
    training = [turns for split, turns in conversations if split == "train"]
    # What the model will read, notes and their marks included; every message of a conversation
    # once.
    texts = (
        text
        for turns in training
        for turn in turns
        for text in (turn.state[-1]["content"], turn.action, turn.row["customer_after"])
        if text
    )
    tokenizer = train_tokenizer(
        [config.system_prompt, *personas.values(), *texts], vocab_size=config.vocab_size
    )
    renderer = Renderer(tokenizer)
    max_tokens = config.max_prompt_tokens + config.max_new_tokens
    examples = {
        split: [
            example
            for turns_split, turns in conversations
            if turns_split == split
            for example in examples_of(turns, renderer, max_tokens=max_tokens)
        ]
        for split in ("train", "heldout")
    }
    if not examples["train"]:
        return None
    model = build_model(
        tokenizer,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        num_heads=config.num_heads,
        context_tokens=max_tokens,
    )
    num_segments = len(examples["train"])
    num_tokens = sum(len(example.ids) for example in examples["train"])
    losses = clone(
        model,
        examples["train"],
        pad_id=tokenizer.pad_token_id,
        context_weight=config.context_weight,
        epochs=config.epochs,
        max_steps=config.max_steps,
        tokens_per_batch=config.tokens_per_batch,
        learning_rate=config.learning_rate,
        seed=config.seed,
    )
    metrics: dict[str, float | bool | str] = {
        "loss_first": losses[0],
        "loss_last": losses[-1],
        "steps": len(losses),
        "uniform_loss": math.log(len(tokenizer)),
    }
    for split, all_of_split in examples.items():
        # The two are compared, that is all.
        chosen = all_of_split[:: max(1, len(all_of_split) // LOSS_EXAMPLES)]
        if chosen:
            metrics[f"action_loss_{split}"] = action_loss(
                model,
                chosen,
                pad_id=tokenizer.pad_token_id,
                tokens_per_batch=config.tokens_per_batch,
            )
    counts = {
        "conversations_train": len(training),
        "segments_train": num_segments,
        "tokens_train": num_tokens,
    }
    return FirstPolicy(model, renderer, counts, metrics)


def _check_persona(name: str | None, personas: Mapping[str, str], *, where: Path) -> None:
    """Were one persona of the log not known, the plain policy would learn what it made others
    say."""
    if personas and name is not None and name not in personas:
        raise DataError(
            f"{where}: has conversations of the persona {name!r}, which init.personas does not "
            f"name; it names: {', '.join(personas)}."
        )
