"""Completions of one prompt in one row, behind that prompt: it is read once for all of them.

    prompt c c c d d d d      c sees the prompt and c; d sees the prompt and d
    0 1 2  3 4 5 3 4 5 6      positions

Prompts are longer than completions, so this is most of what a pass over completions costs.

Shapes: B completions, S positions as they come (prompts padded on the left, completions on the
right), R rows, L positions of the longest, T completion tokens, N tokens of all completions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class Rows(NamedTuple):
    """Completions, laid out."""

    ids_RL: torch.Tensor
    """Padded on the right."""
    position_RL: torch.Tensor | None
    mask_R1LL: torch.Tensor | None
    """What each position sees; None, as for the positions: the usual, no prompt is shared."""
    row_B: list[int]
    read_B: list[list[int]]
    """Of each completion, the positions that stand before its tokens, and its last one."""

    def read_in_rows(self) -> list[list[int]]:
        """The positions that are read, row by row."""
        found: list[list[int]] = [[] for _ in self.ids_RL]
        for row, places in zip(self.row_B, self.read_B, strict=True):
            found[row] += places
        return found


def lay_out(ids_BS: torch.Tensor, seen_BS: torch.Tensor, num_tokens: int, *, share: bool) -> Rows:
    """Completions in rows.

    Args:
        ids_BS: Prompts and completions.
        seen_BS: 1 for tokens, 0 for padding.
        num_tokens: T, the columns that belong to completions.
        share: Whether those of one prompt share a row.
    """
    rows: list[list[int]] = []
    positions: list[list[int]] = []
    owners: list[list[int]] = []  # 0: the prompt's, 1 and up: of that completion in the row
    row_of: dict[tuple[int, ...], int] = {}
    row_B: list[int] = []
    read_B: list[list[int]] = []
    for ids, seen in zip(ids_BS.tolist(), seen_BS.tolist(), strict=True):
        prompt = ids[seen.index(1) : -num_tokens]
        written = ids[-num_tokens:][: sum(seen[-num_tokens:])]
        key = tuple(prompt)
        if not share or key not in row_of:
            row_of[key] = len(rows)
            rows.append(prompt)
            positions.append(list(range(len(prompt))))
            owners.append([0] * len(prompt))
        row = row_of[key]
        start, begin = len(rows[row]), len(prompt)
        read_B.append([begin - 1, *range(start, start + len(written))])
        row_B.append(row)
        owners[row] = owners[row] + [owners[row][-1] + 1] * len(written)
        positions[row] = positions[row] + list(range(begin, begin + len(written)))
        rows[row] = rows[row] + written
    ids_RL = _padded(rows, 0, ids_BS.device)
    if len(rows) == len(row_B):
        return Rows(ids_RL, None, None, row_B, read_B)
    owner_RL = _padded(owners, -1, ids_BS.device)
    mask_RLL = (owner_RL[:, None, :] == 0) | (owner_RL[:, None, :] == owner_RL[:, :, None])
    mask_RLL &= torch.ones_like(mask_RLL[0]).tril()
    return Rows(ids_RL, _padded(positions, 0, ids_BS.device), mask_RLL.unsqueeze(1), row_B, read_B)


def can_share(config: Any) -> bool:
    """Whether every layer of the model attends by the mask that it is given."""
    return (
        config.model_type in ("llama", "mistral", "qwen2", "qwen3")
        and config._attn_implementation == "sdpa"
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and (
            getattr(config, "sliding_window", None) is None
            or not getattr(config, "use_sliding_window", True)
        )
    )


def _padded(rows: list[list[int]], value: int, device: torch.device) -> torch.Tensor:
    longest = max(len(row) for row in rows)
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows], device=device)
