"""What a model needs before `ppo` trains it: adapters, and what TRL's trainer leaves to us."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig
from transformers.integrations.deepspeed import (
    set_hf_deepspeed_config,
    unset_hf_deepspeed_config,
)

from iterppo.config import PPOConfig


def without_dropout(model: torch.nn.Module) -> None:
    """Set every dropout rate to 0: TRL finds dropout layers, not the rates that attention keeps."""
    for module in model.modules():
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def with_positions_from_the_mask(model: torch.nn.Module) -> None:
    """Count positions from the first real token, as sampling does: TRL passes none, and a model
    with learned positions would count the padding on the left."""
    if "position_ids" not in inspect.signature(type(model).forward).parameters:
        return

    def number(_: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        mask = kwargs.get("attention_mask")
        if mask is None or kwargs.get("position_ids") is not None:
            return args, kwargs
        if mask.shape == kwargs["input_ids"].shape:
            kwargs = {**kwargs, "position_ids": (mask.long().cumsum(-1) - 1).clamp(min=0)}
        return args, kwargs

    model.register_forward_pre_hook(number, with_kwargs=True)


def adapters(config: PPOConfig, *, but: str | None = None) -> LoraConfig | None:
    """Adapters on all linear layers but those that a pattern names, and the one that makes logits;
    None where the model itself is trained."""
    if not config.lora_rank:
        return None
    return LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules="all-linear",
        exclude_modules=but,
    )


@contextlib.contextmanager
def models_built_whole(arguments: Any) -> Iterator[None]:
    """Under ZeRO 3 transformers would divide the reference model while it is built, for which torch
    2.13 and DeepSpeed's replacement of its constructors do not agree; it is divided afterwards."""
    if arguments.deepspeed is None:
        yield
        return
    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(arguments.hf_deepspeed_config)
