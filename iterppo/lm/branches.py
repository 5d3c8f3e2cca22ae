"""Q̂ of other actions in the states of conversations, in one pass for many of them.

    trunk   s_1 a_1 s_2 a_2 …                its own tokens, causally
    branch  a' in the state of some end:     attends to the trunk up to that state, and to itself;
                                             its positions go on from there

What a pair by itself gives. K actions at n states cost the tokens of the conversation and of the
actions, where pairs by themselves repeat the state nK times.

Shapes: B rows of a batch, T tokens of the longest, N branches in a batch, D numbers that the heads
read, M members.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from iterppo.lm.q_heads import Place
from iterppo.lm.rendering import Said, Segment
from iterppo.lm.training import token_batches

if TYPE_CHECKING:
    from iterppo.lm.q_function import QFunction

Branch = tuple[int, str]
"""Number of an end of a segment, and another action in its state."""


class _Span(NamedTuple):
    """A branch in its row."""

    state: int
    """Position of the trunk's last token that it sees."""
    begin: int
    end: int
    place: tuple[int, int]
    """Number of the request, and of the branch in it."""
    said: Said
    """In its state."""


class _Row(NamedTuple):
    """A trunk with some of its branches behind it."""

    ids: list[int]
    positions: list[int]
    num_trunk: int
    spans: list[_Span]


def branch_values(
    q: QFunction,
    requests: Sequence[tuple[Segment, Sequence[Branch]]],
    *,
    tokens_per_batch: int = 8192,
) -> list[list[float]]:
    """Values of branches, in their order.

    Args:
        q: Q̂.
        requests: Segments, and branches of each.
        tokens_per_batch: Tokens of a forward pass.

    Returns:
        Values in discounted outcomes; NaN where a pair exceeds the context.
    """
    values = [[math.nan] * len(branches) for _, branches in requests]
    for places, x_ND in _passes(q, requests, tokens_per_batch):
        value_N, _ = _values(q, x_ND)
        for (request, branch), value in zip(places, value_N, strict=True):
            values[request][branch] = value
    return values


def branch_members(
    q: QFunction,
    requests: Sequence[tuple[Segment, Sequence[Branch]]],
    *,
    tokens_per_batch: int = 8192,
) -> list[list[tuple[float, list[float]]]]:
    """As `branch_values`, each beside the values of the ensemble's members."""
    members = q.settings.members
    found = [[(math.nan, [math.nan] * members) for _ in branches] for _, branches in requests]
    for places, x_ND in _passes(q, requests, tokens_per_batch):
        value_N, value_NM = _values(q, x_ND)
        for (request, branch), value, value_M in zip(places, value_N, value_NM, strict=True):
            found[request][branch] = (value, value_M)
    return found


def branch_features(
    q: QFunction,
    requests: Sequence[tuple[Segment, Sequence[Branch]]],
    *,
    tokens_per_batch: int = 8192,
) -> list[list[torch.Tensor | None]]:
    """What Q̂'s heads would read of branches, in their order: (D,) each; None where a pair exceeds
    the context."""
    found: list[list[torch.Tensor | None]] = [[None] * len(branches) for _, branches in requests]
    for places, x_ND in _passes(q, requests, tokens_per_batch):
        for (request, branch), x_D in zip(places, x_ND.cpu(), strict=True):
            found[request][branch] = x_D
    return found


@torch.no_grad()
def _values(q: QFunction, x_ND: torch.Tensor) -> tuple[list[float], list[list[float]]]:
    """Values and members' values."""
    raw_NM = q.heads.of_pairs(x_ND)
    return q.to_value(raw_NM.mean(dim=1)).tolist(), q.to_value(raw_NM).tolist()


@torch.no_grad()
def _passes(
    q: QFunction, requests: Sequence[tuple[Segment, Sequence[Branch]]], tokens_per_batch: int
) -> Iterator[tuple[list[tuple[int, int]], torch.Tensor]]:
    """Places of the branches that fit, and what the heads read of them, batch by batch."""
    q.model.eval()
    rows = [
        row
        for number, (trunk, branches) in enumerate(requests)
        for row in _rows(q, trunk, branches, number)
    ]
    lengths = [len(row.ids) for row in rows]
    for batch in token_batches(lengths, tokens_per_batch=tokens_per_batch, seed=None):
        chosen = [rows[index] for index in batch]
        yield [span.place for row in chosen for span in row.spans], _read(q, chosen)


def _rows(q: QFunction, trunk: Segment, branches: Sequence[Branch], number: int) -> Iterator[_Row]:
    """The trunk as often as its branches need: attention costs the square of a row, so a row takes
    at most as many tokens of branches as the trunk has, or 512."""
    room = max(512, len(trunk.ids))
    row = _Row(list(trunk.ids), list(range(len(trunk.ids))), len(trunk.ids), [])
    for place, (end, action) in enumerate(branches):
        ids, state = q.renderer.turn_ids(action.strip()), trunk.states[end]
        if state + 1 + len(ids) > q.settings.max_tokens:
            continue
        if row.spans and len(row.ids) - row.num_trunk + len(ids) > room:
            yield row
            row = _Row(list(trunk.ids), list(range(len(trunk.ids))), len(trunk.ids), [])
        begin = len(row.ids)
        row.ids.extend(ids)
        row.positions.extend(range(state + 1, state + 1 + len(ids)))
        row.spans.append(_Span(state, begin, begin + len(ids), (number, place), trunk.said[end]))
    if row.spans:
        yield row


def _read(q: QFunction, rows: Sequence[_Row]) -> torch.Tensor:
    """What the heads read at the end of every branch of the rows: shape (N, D)."""
    T = max(len(row.ids) for row in rows)
    ids_BT = torch.zeros(len(rows), T, dtype=torch.long)
    position_BT = torch.zeros_like(ids_BT)
    sees_BTT = torch.zeros(len(rows), T, T, dtype=torch.bool)
    for b, row in enumerate(rows):
        ids_BT[b, : len(row.ids)] = torch.tensor(row.ids)
        position_BT[b, : len(row.ids)] = torch.tensor(row.positions)
        sees_BTT[b, : row.num_trunk, : row.num_trunk] = True
        for span in row.spans:
            sees_BTT[b, span.begin : span.end, : span.state + 1] = True
            sees_BTT[b, span.begin : span.end, span.begin : span.end] = True
    # Causal within trunk and branch. Padding sees itself: who sees nothing has no softmax.
    sees_BTT &= torch.ones(T, T, dtype=torch.bool).tril()
    sees_BTT |= torch.eye(T, dtype=torch.bool)
    device = q.model.device
    barred_B1TT = torch.zeros(len(rows), 1, T, T, device=device)
    barred_B1TT.masked_fill_(~sees_BTT.unsqueeze(1).to(device), torch.finfo(torch.float32).min)
    hidden_BTD = q.hidden(
        input_ids=ids_BT.to(device),
        attention_mask=barred_B1TT,
        position_ids=position_BT.to(device),
    )
    return q.heads.read(
        hidden_BTD,
        [
            Place(b, span.state, span.end - 1, span.said)
            for b, row in enumerate(rows)
            for span in row.spans
        ],
        words_VE=q.words,
    ).action_ND
