"""Weights and optimiser state of a model that DeepSpeed's ZeRO has divided among processes, whole.

Every function is called by all processes together. Where nothing is divided they work as well: what
is saved by one number of processes is taken back by any other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from transformers import PreTrainedModel

from iterppo.lm.checkpoint import restore_training_state, training_state


def whole_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Weights on the CPU by the names that they have in the plain model; adapters are merged."""
    found = {}
    adapted = [name for name, m in model.named_modules() if isinstance(m, LoraLayer)]
    for name, module in model.named_modules():
        if isinstance(module, LoraLayer):
            layer: Any = module
            with gathered(layer.parameters()), torch.no_grad():
                merged = layer.base_layer.weight + layer.get_delta_weight("default")
                found[f"{name}.weight"] = merged.detach().to("cpu", copy=True)
                if getattr(layer.base_layer, "bias", None) is not None:
                    found[f"{name}.bias"] = layer.base_layer.bias.detach().to("cpu", copy=True)
        elif not any(name.startswith(f"{other}.") for other in adapted):
            with gathered(module.parameters(recurse=False)):
                for leaf, parameter in module.named_parameters(recurse=False):
                    full = f"{name}.{leaf}" if name else leaf
                    found[full] = parameter.detach().to("cpu", copy=True)
    return found


def whole_parameters(parameters: Sequence[torch.nn.Parameter]) -> list[torch.Tensor]:
    """Copies, on the CPU where the parameters are divided, whose processes have no room for it."""
    found = []
    for parameter in parameters:
        with gathered([parameter]):
            whole = parameter.detach().clone()
            found.append(whole.cpu() if _divided([parameter]) else whole)
    return found


def gathered(parameters: Iterable[torch.nn.Parameter]) -> contextlib.AbstractContextManager[Any]:
    """Within it, parameters that ZeRO 3 has divided are whole in every process."""
    divided = [p for p in parameters if hasattr(p, "ds_id")]
    if not divided:
        return contextlib.nullcontext()
    import deepspeed

    context: contextlib.AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(divided)
    return context


def whole_training_state(
    parameters: Sequence[torch.nn.Parameter], optimiser: Any
) -> dict[str, torch.Tensor]:
    """`training_state`, whoever holds which part of it."""
    if not _divided(parameters):
        return training_state(parameters, optimiser)
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    _link(optimiser)
    partitions = list(_plain(optimiser).state.values())
    tensors = {"random": torch.get_rng_state()}
    for number, parameter in enumerate(parameters):
        tensors[f"parameter.{number}"] = safe_get_full_fp32_param(parameter).cpu()
        for name, value in partitions[0].items():
            tensors[f"optimiser.{number}.{name}"] = (
                torch.as_tensor(value)
                if name == "step"
                else safe_get_full_optimizer_state(parameter, name).cpu()
            )
    return tensors


@torch.no_grad()
def restore_parameters(
    tensors: Mapping[str, torch.Tensor], parameters: Sequence[torch.nn.Parameter]
) -> None:
    """Take the parameters back, before the model is divided."""
    for number, parameter in enumerate(parameters):
        parameter.copy_(tensors[f"parameter.{number}"])


def restore_optimiser(
    tensors: Mapping[str, torch.Tensor], parameters: Sequence[torch.nn.Parameter], optimiser: Any
) -> None:
    """Take the optimiser's memory back, after the model was divided.

    The optimiser has no memory before its first step: it is made here as AdamW makes it.
    """
    if not _divided(parameters):
        restore_training_state(tensors, parameters, optimiser)
        return
    import deepspeed
    from deepspeed.utils import safe_set_full_optimizer_state, safe_set_local_optimizer_state

    names = sorted(
        {name.split(".", 2)[2] for name in tensors if name.startswith("optimiser.0.")} - {"step"}
    )
    zero, plain = optimiser.optimizer, _plain(optimiser)
    partitions = getattr(zero, "fp32_partitioned_groups_flat", None)  # ZeRO 3
    for partition in partitions or zero.single_partition_of_fp32_groups:
        plain.state[partition] = {name: torch.zeros_like(partition) for name in names}
        plain.state[partition]["step"] = tensors["optimiser.0.step"].clone()
    _link(optimiser)
    rank, size = deepspeed.comm.get_rank(), deepspeed.comm.get_world_size()
    for number, parameter in enumerate(parameters):
        for name in names:
            value = tensors[f"optimiser.{number}.{name}"].to(parameter.device)
            part: torch.Tensor | None = getattr(parameter, "ds_tensor", None)
            if part is not None:  # ZeRO 3: parts of one size, the last one padded
                share = part.numel()
                padded = torch.nn.functional.pad(value.flatten(), (0, share * size - value.numel()))
                own = padded[rank * share : (rank + 1) * share]
                safe_set_local_optimizer_state(parameter, own, name)
            else:
                safe_set_full_optimizer_state(parameter, value, name)
    torch.set_rng_state(tensors["random"])


def _divided(parameters: Sequence[torch.nn.Parameter]) -> bool:
    return any(hasattr(p, "ds_id") or hasattr(p, "_hp_mapping") for p in parameters)


def _link(optimiser: Any) -> None:
    """Tell every parameter where its part of the optimiser's memory is (ZeRO 1 and 2).

    DeepSpeed 0.19 does so behind the first step of the first group of parameters, when the memory
    of the other groups is not there yet.
    """
    zero = optimiser.optimizer
    if hasattr(zero, "_lazy_init_hp_params_optimizer_state"):
        zero._hp_optimizer_states_linked = False
        zero._lazy_init_hp_params_optimizer_state()


def _plain(optimiser: Any) -> torch.optim.Optimizer:
    """torch's optimiser, below accelerate's and DeepSpeed's."""
    while not isinstance(optimiser, torch.optim.Optimizer) or hasattr(optimiser, "optimizer"):
        optimiser = optimiser.optimizer
    return optimiser
