"""The processes that train together: who this one is, and what they say to each other.

A launcher (`iterppo.launch`) starts them and tells each its number in the environment, as torchrun
and DeepSpeed do. One process alone is a team of one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object


@dataclass(frozen=True)
class Team:
    """Where this process stands."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether this process writes what all have made."""
        return self.rank == 0


def team() -> Team:
    """As the environment says."""
    return Team(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


def join(deepspeed: Path | None = None) -> Team:
    """Become one of the processes; to be called before a model is built.

    Each takes a GPU of its own. Where there is none, DeepSpeed must be told so before anything of
    it is imported, and kept from compiling an operation for shared memory in every process.
    """
    on_gpu = torch.cuda.is_available()
    if on_gpu and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    if deepspeed is not None:
        if not on_gpu:
            os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed as library

        library.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        library.init_distributed("nccl" if on_gpu else "gloo")
    elif team().size > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if on_gpu else "gloo")
    return team()


def leave() -> None:
    """After the last word between the processes: none waits for another any more."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@torch.no_grad()
def as_the_first_has_it(tensors: Iterable[torch.Tensor]) -> None:
    """Take over, in place, what the process of rank 0 has."""
    if team().size > 1:
        for tensor in tensors:
            torch.distributed.broadcast(tensor.data, src=0)


@torch.no_grad()
def average(tensors: Iterable[torch.Tensor]) -> None:
    """Take, in place, the mean over all processes."""
    size = team().size
    if size > 1:
        for tensor in tensors:
            torch.distributed.all_reduce(tensor)
            tensor.div_(size)


def everyones(values: Sequence[Any]) -> list[Any]:
    """What all processes have, in the order of their ranks."""
    return list(gather_object(list(values)))
