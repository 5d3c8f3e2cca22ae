"""Rows are dealt, none is lost, and those of one prompt stay together."""

from typing import Any

import pytest
import torch

from iterppo.lm.minibatches import by_prompt


def dealt(number: int, *, copies: int, num_parts: int, per_minibatch: int, seed: int) -> Any:
    """Rows of prompts of different lengths in random order, and what becomes of them."""
    generator = torch.Generator().manual_seed(seed)
    prompt_N = torch.arange(number).repeat_interleave(copies)
    prompt_N = prompt_N[torch.randperm(len(prompt_N), generator=generator)]
    rows = {
        "prompt_ids": prompt_N.unsqueeze(1).expand(-1, number),
        "prompt_mask": (torch.arange(number) <= prompt_N.unsqueeze(1)).long(),
        "row": torch.arange(len(prompt_N)),
    }
    size = len(prompt_N) // num_parts
    parts = [
        {"tokens": torch.tensor(9.0)} | {name: v[n * size :][:size] for name, v in rows.items()}
        for n in range(num_parts)
    ]
    return prompt_N, by_prompt(parts, per_minibatch=per_minibatch)


@pytest.mark.parametrize("per_minibatch", [1, 2, 4])
@pytest.mark.parametrize("copies", [1, 2, 3])
def test_no_row_is_lost_and_prompts_stay_together(copies: int, per_minibatch: int) -> None:
    prompt_N, parts = dealt(
        16, copies=copies, num_parts=4, per_minibatch=per_minibatch, seed=copies
    )
    order = torch.cat([part["row"] for part in parts])

    assert sorted(order.tolist()) == list(range(len(prompt_N)))
    assert all(len(part["row"]) == 4 * copies and part["tokens"] == 9.0 for part in parts)
    seen = prompt_N[order].tolist()
    assert [torch.cat([p["prompt_ids"][:, 0] for p in parts]).tolist()] == [seen]
    for prompt in range(16):
        where = [place for place, other in enumerate(seen) if other == prompt]
        assert where == list(range(where[0], where[0] + copies))
    for start in range(0, 4, per_minibatch):
        size = 4 * copies
        minibatch = seen[start * size : (start + per_minibatch) * size]
        assert minibatch == sorted(minibatch), "by length within a minibatch"


def test_which_prompts_share_a_minibatch_is_as_random_as_the_rows_were() -> None:
    first = {
        tuple(
            sorted(
                set(
                    dealt(6, copies=2, num_parts=2, per_minibatch=1, seed=seed)[1][0]["prompt_ids"][
                        :, 0
                    ].tolist()
                )
            )
        )
        for seed in range(40)
    }

    assert len(first) > 12, "of 20 ways to choose three of six"
