"""Which completions of an update share a minibatch, and which of those a microbatch.

Shapes: B completions.
"""

from __future__ import annotations

from typing import Any

import torch


def by_prompt(
    parts: list[dict[str, Any]], *, per_minibatch: int, process: int = 0, processes: int = 1
) -> list[dict[str, Any]]:
    """Deal the rows anew: completions of one prompt together, similar lengths as neighbours.

    A minibatch takes prompts in the order in which the rows come, which TRL has shuffled; its rows
    are sorted by length only then, so that its microbatches carry little padding. A prompt whose
    completions do not all fit into what is left of a minibatch is divided.

    Args:
        parts: Microbatches of all processes together; tensors have one row per completion.
        per_minibatch: How many of them a minibatch has.
        process: Whose microbatches are wanted.
        processes: How many share every minibatch.

    >>> ids, mask = torch.tensor([[1], [2], [1], [2]]), torch.ones(4, 1)
    >>> whole = {"prompt_ids": ids, "prompt_mask": mask, "completion_mask": mask}
    >>> parts = [{name: rows[n : n + 2] for name, rows in whole.items()} for n in (0, 2)]
    >>> [part["prompt_ids"].flatten().tolist() for part in by_prompt(parts, per_minibatch=1)]
    [[1, 1], [2, 2]]
    """
    rows = {
        name: torch.cat([part[name] for part in parts])
        for name, value in parts[0].items()
        if isinstance(value, torch.Tensor) and value.ndim > 0
    }
    _, prompt_B = torch.unique(rows["prompt_ids"], dim=0, return_inverse=True)
    places: dict[int, int] = {}
    place_B = [places.setdefault(prompt, len(places)) for prompt in prompt_B.tolist()]
    order_B = torch.tensor(place_B).argsort(stable=True).to(prompt_B.device)
    length_B = rows["prompt_mask"].sum(dim=1)
    pieces: list[torch.Tensor] = []
    for minibatch in order_B.chunk(len(parts) // per_minibatch):
        # Stable: completions of one prompt, which have its length, stay together.
        sorted_b = minibatch[length_B[minibatch].argsort(stable=True)]
        pieces += sorted_b.chunk(per_minibatch * processes)[process::processes]
    return [
        {**part, **{name: value[piece] for name, value in rows.items()}}
        for part, piece in zip(parts, pieces, strict=True)
    ]
