"""What Q̂ and V̂ make of what the backbone says at the ends of a conversation's turns.

    linear      x(s, a) = h(s, a)             x(s) = h(s)
    quadratic   x(s, a) = h(s, a), x(s)       x(s) = h(s), Σ_{j ≤ i} h(s_j), Σ_{j < i} h(s_j, a_j)

h is the backbone's last hidden state at the end of a state or a pair, i the turn. A language model
reads a message again whenever it needs it, and need not carry it along: what was said three turns
ago is in its states of three turns ago. The sums bring that to the end, and a quadratic head sees
what is repeated: the product of what is said now and what was said.

Quadratic means linear in f(x) = K(L, L)^{-1/2} K(L, x), with K(x, y) = (1 + x·y / D)² of
standardised x and rows L of the log (Nyström): all squares and products of x, as far as the rows
tell them apart.
Source: Williams and Seeger, 2001.

Shapes: B sequences, T tokens, N pairs or states, H hidden, D numbers of x, L rows, R numbers of
f(x), M members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

LEAST = 1e-6
"""Of K(L, L)'s eigenvalues, as a share of the largest: those below hold rounding errors."""


CHANGES = 1e-5
"""Share of a number's size that it must vary by, to be told from rounding."""
_OF_A_LIFT = ("mean_D", "scale_D", "rows_LD", "root_LR")


class Features(NamedTuple):
    """What the heads read at the ends of a segment or a batch: x, or f(x)."""

    action_ND: torch.Tensor
    state_ND: torch.Tensor


class Place(NamedTuple):
    """Where a pair is read."""

    row: int
    """Of the batch."""
    state: int
    """Position of the state's last token."""
    end: int
    """Position of the pair's last token."""
    before: Sequence[tuple[int, int]]
    """Those of the turns before."""


class Quadratic(torch.nn.Module):
    """f(x), in double precision: the smallest eigenvalues would drown in rounding."""

    mean_D: torch.Tensor
    scale_D: torch.Tensor
    rows_LD: torch.Tensor
    root_LR: torch.Tensor

    def __init__(
        self,
        mean_D: torch.Tensor,
        scale_D: torch.Tensor,
        rows_LD: torch.Tensor,
        root_LR: torch.Tensor,
    ) -> None:
        super().__init__()
        self.register_buffer("mean_D", mean_D)
        self.register_buffer("scale_D", scale_D)
        self.register_buffer("rows_LD", rows_LD)
        self.register_buffer("root_LR", root_LR)

    @classmethod
    def of(cls, x_ND: torch.Tensor, *, rows: int, seed: int) -> Quadratic:
        """From examples of x, at random among which are the rows; at most as many as there are."""
        x_ND = x_ND.double()
        mean_D = x_ND.mean(dim=0)
        spread_D = x_ND.std(dim=0, correction=0)
        # What never changed in the log, but for rounding, says nothing, however much it changes
        # later.
        size_D = (mean_D.square() + spread_D.square()).sqrt()
        scale_D = torch.where(spread_D > CHANGES * size_D, spread_D, torch.inf)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(x_ND), generator=generator)[:rows]
        rows_LD = (x_ND[chosen] - mean_D) / scale_D
        value_L, vector_LL = torch.linalg.eigh(_kernel(rows_LD, rows_LD))
        kept = value_L > LEAST * value_L[-1]
        root_LR = vector_LL[:, kept] / value_L[kept].sqrt()
        return cls(mean_D, scale_D, rows_LD, root_LR)

    @property
    def rank(self) -> int:
        """R."""
        return self.root_LR.shape[1]

    def forward(self, x_ND: torch.Tensor) -> torch.Tensor:
        """f(x): (N, R)."""
        z_ND = (x_ND.double() - self.mean_D) / self.scale_D
        return (_kernel(z_ND, self.rows_LD) @ self.root_LR).float()


def _kernel(one_ND: torch.Tensor, other_LD: torch.Tensor) -> torch.Tensor:
    return (1 + one_ND @ other_LD.T / one_ND.shape[1]).square()


class Heads(torch.nn.Module):
    """M heads of Q̂ and one of V̂.

    Args:
        width: H.
        members: M.
        reads_history: Whether x has the sums.
        pair_lift: f for pairs; None: heads are linear in x.
        state_lift: f for states; None where the other is.
    """

    def __init__(
        self,
        width: int,
        members: int,
        *,
        reads_history: bool = False,
        pair_lift: Quadratic | None = None,
        state_lift: Quadratic | None = None,
    ) -> None:
        super().__init__()
        self.width, self.reads_history = width, reads_history
        self.pair_lift, self.state_lift = pair_lift, state_lift
        pair, state = (4 * width, 3 * width) if reads_history else (width, width)
        pair = pair if pair_lift is None else pair_lift.rank
        state = state if state_lift is None else state_lift.rank
        self.members = torch.nn.Linear(pair, members, bias=False)
        self.state = torch.nn.Linear(state, 1, bias=False)

    @classmethod
    def like(cls, weights: Mapping[str, torch.Tensor]) -> Heads:
        """What `state_dict` gave these."""
        members, width = weights["members.weight"].shape
        if "pair_lift.root_LR" in weights:
            pair, state = (
                Quadratic(*(weights[f"{lift}.{name}"] for name in _OF_A_LIFT))
                for lift in ("pair_lift", "state_lift")
            )
            width = weights["pair_lift.rows_LD"].shape[1] // 4
            made = cls(width, members, reads_history=True, pair_lift=pair, state_lift=state)
        else:
            made = cls(width, members)
        made.load_state_dict(weights)
        return made

    def read(self, hidden_BTH: torch.Tensor, places: Sequence[Place]) -> Features:
        """x of pairs and states."""
        rows = [place.row for place in places]
        pair_NH = hidden_BTH[rows, [place.end for place in places]].float()
        state_NH = hidden_BTH[rows, [place.state for place in places]].float()
        if not self.reads_history:
            return Features(pair_NH, state_NH)
        of, row, state, end = [], [], [], []
        for n, place in enumerate(places):
            for before, after in place.before:
                of.append(n)
                row.append(place.row)
                state.append(before)
                end.append(after)
        index = torch.tensor(of, dtype=torch.long, device=pair_NH.device)
        states_NH = state_NH.index_add(0, index, hidden_BTH[row, state].float())
        pairs_NH = torch.zeros_like(pair_NH).index_add(0, index, hidden_BTH[row, end].float())
        seen_ND = torch.cat([state_NH, states_NH, pairs_NH], dim=1)
        return Features(torch.cat([pair_NH, seen_ND], dim=1), seen_ND)

    def lifted(self, features: Features) -> Features:
        """f(x); x where heads are linear in it."""
        return Features(
            self.lifted_pairs(features.action_ND),
            features.state_ND if self.state_lift is None else self.state_lift(features.state_ND),
        )

    def lifted_pairs(self, x_ND: torch.Tensor) -> torch.Tensor:
        """The same of pairs alone."""
        return x_ND if self.pair_lift is None else self.pair_lift(x_ND)

    def outputs(self, features: Features) -> tuple[torch.Tensor, torch.Tensor]:
        """Of x: the members' (N, M), and V̂'s (N,)."""
        pair_NR, state_NR = self.lifted(features)
        return self.members(pair_NR), self.state(state_NR).squeeze(-1)

    def of_pairs(self, x_ND: torch.Tensor) -> torch.Tensor:
        """Of x: the members' (N, M)."""
        found: torch.Tensor = self.members(self.lifted_pairs(x_ND))
        return found
