"""What of a state and of an action the future depends on, from a log: some numbers of each.

    x(s) = h(s), Σ_{j ≤ i} e(c_j), Σ_{j < i} e(m_j)
    f(x) = all its squares and products (Nyström)
    s    = the directions of f(x(s)) that tell most of what is sent and of what follows in the log
    φ(s) = 1, s, s sᵀ
    a    = the directions of h(s, a) that tell most of what follows, of each what φ(s) leaves open
    V̂ is linear in φ(s)          Q̂ is linear in  (1, s) ⊗ (1, a)

h is the backbone's last hidden state at the end of a state or a pair, e the sum of its input
embeddings of a message's tokens, c_j and m_j what the customer wrote and the business sent. What
follows: the customer's next message, all later ones, whether the conversation ends, how many turns
it still has, the reward. An outcome is rare, and of thousands of numbers only some matter to it;
what is said next is told by every turn, and depends on the same. What is sent is no part of what an
action is read for: it would tell mostly that suggestions are sent. A model reads a message again
whenever it needs it and does not carry it along; the sums do. Most of what h(s, a) tells of the
future s tells as well, and the directions would be spent on that: so both are taken less what
φ(s) foretells of them, and a is what the action adds.

f(x) = K(L, L)^{-1/2} K(L, x), K(x, y) = (1 + x·y / D)² of standardised x, rows L of the log.
Sources: predictive state representations (Littman, Sutton and Singh, 2001), found by canonical
correlations as in Boots, Siddiqi and Gordon, 2011; partial ones: Rao, 1969; Nyström: Williams and
Seeger, 2001.

Shapes: N pairs or states, H hidden, D numbers of x, L rows, R numbers of f(x), S numbers of s, V of
φ(s), A of a, E of what is sent, F of what follows.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from iterppo.rl.canonical import canonical_directions, foretold

LEAST = 1e-6
"""Of K(L, L)'s eigenvalues, as a share of the largest: those below hold rounding errors."""
CHANGES = 1e-3
"""Share of a number's size that it must vary by, to be told from rounding."""
STATE_RIDGE, ACTION_RIDGE, FUTURE_RIDGE = 2000.0, 100.0, 30.0
"""In turns; f(x) has many more numbers than h."""
FORETOLD_RIDGE = 10.0
"""Of the regression on φ(s), in turns."""


class PredictiveState(torch.nn.Module):
    """s of states and a of actions, in double precision: the smallest eigenvalues would drown in
    rounding."""

    mean_D: torch.Tensor
    scale_D: torch.Tensor
    rows_LD: torch.Tensor
    state_LS: torch.Tensor
    state_mean_S: torch.Tensor
    action_HA: torch.Tensor
    foretold_VA: torch.Tensor

    def __init__(self, **buffers: torch.Tensor) -> None:
        super().__init__()
        for name, buffer in buffers.items():
            self.register_buffer(name, buffer)

    @classmethod
    def of(
        cls,
        x_ND: torch.Tensor,
        pair_NH: torch.Tensor,
        sent_NE: torch.Tensor,
        future_NF: torch.Tensor,
        *,
        rows: int,
        states: int,
        actions: int,
        seed: int,
    ) -> PredictiveState:
        """From turns of a log.

        Args:
            x_ND: x of their states.
            pair_NH: h(s, a).
            sent_NE: What was sent.
            future_NF: What followed.
            rows: L, of the turns at random; at most as many as there are.
            states: S at most.
            actions: A at most.
            seed: Of the rows.
        """
        mean_D, scale_D = _standard(x_ND)
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randperm(len(x_ND), generator=generator)[:rows]
        rows_LD = (x_ND[chosen].double() - mean_D) / scale_D
        root_LR = _root(rows_LD)
        lifted_NR = _kernel((x_ND.double() - mean_D) / scale_D, rows_LD) @ root_LR
        future_NF = _scaled(future_NF)
        state_RS = _directions(
            lifted_NR,
            torch.cat([_scaled(sent_NE), future_NF], dim=1),
            number=states,
            ridge=STATE_RIDGE,
        )
        state_mean_S = lifted_NR.mean(dim=0) @ state_RS
        phi_NV = _products(lifted_NR @ state_RS - state_mean_S)
        pair_mean_H, pair_scale_H = _standard(pair_NH)
        standard_NH = (pair_NH.double() - pair_mean_H) / pair_scale_H
        foretold_VH = _foretold(phi_NV, standard_NH)
        action_HA = _directions(
            standard_NH - phi_NV @ foretold_VH,
            future_NF - phi_NV @ _foretold(phi_NV, future_NF),
            number=actions,
            ridge=ACTION_RIDGE,
        )
        foretold_VA = foretold_VH @ action_HA
        action_HA = action_HA / pair_scale_H[:, None]
        foretold_VA[0] += pair_mean_H @ action_HA  # φ's first number is 1
        return cls(
            mean_D=mean_D,
            scale_D=scale_D,
            rows_LD=rows_LD,
            state_LS=root_LR @ state_RS,
            state_mean_S=state_mean_S,
            action_HA=action_HA,
            foretold_VA=foretold_VA,
        )

    @classmethod
    def like(cls, weights: Mapping[str, torch.Tensor]) -> PredictiveState:
        """What `state_dict` gave these.

        Raises:
            KeyError: If one of them is missing.
        """
        return cls(**{name: weights[name] for name in cls.__annotations__})

    @property
    def widths(self) -> tuple[int, int]:
        """Numbers that Q̂ and V̂ are linear in."""
        states, (phi, actions) = len(self.state_mean_S), self.foretold_VA.shape
        return (1 + states) * (1 + actions), phi

    def of_states(self, x_ND: torch.Tensor) -> torch.Tensor:
        """φ(s)."""
        return _products(self._state(x_ND)).float()

    def of_pairs(self, pair_NH: torch.Tensor, x_ND: torch.Tensor) -> torch.Tensor:
        """Products of 1 and s with 1 and a."""
        s_NS = self._state(x_ND)
        a_NA = pair_NH.double() @ self.action_HA - _products(s_NS) @ self.foretold_VA
        products_NSA = _with_one(s_NS)[:, :, None] * _with_one(a_NA)[:, None, :]
        return products_NSA.flatten(1).float()

    def _state(self, x_ND: torch.Tensor) -> torch.Tensor:
        z_ND = (x_ND.double() - self.mean_D) / self.scale_D
        return _kernel(z_ND, self.rows_LD) @ self.state_LS - self.state_mean_S


def _products(s_NS: torch.Tensor) -> torch.Tensor:
    """1, s and the products of two numbers of s: (N, V)."""
    one, other = torch.triu_indices(s_NS.shape[1], s_NS.shape[1], device=s_NS.device)
    return _with_one(torch.cat([s_NS, s_NS[:, one] * s_NS[:, other]], dim=1))


def _foretold(phi_NV: torch.Tensor, y_NY: torch.Tensor) -> torch.Tensor:
    """(V, Y)"""
    return torch.from_numpy(foretold(phi_NV.numpy(), y_NY.numpy(), ridge=FORETOLD_RIDGE))


def _directions(
    x_ND: torch.Tensor, future_NF: torch.Tensor, *, number: int, ridge: float
) -> torch.Tensor:
    """(D, K)"""
    found = canonical_directions(
        x_ND.numpy(), future_NF.numpy(), number=number, x_ridge=ridge, y_ridge=FUTURE_RIDGE
    )
    return torch.from_numpy(found)


def _scaled(y_NY: torch.Tensor) -> torch.Tensor:
    _, scale_Y = _standard(y_NY)
    return y_NY.double() / scale_Y


def _standard(x_ND: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and spread. What never changed in the log, but for rounding, says nothing, however much
    it changes later: its spread is called infinite."""
    x_ND = x_ND.double()
    mean_D, spread_D = x_ND.mean(dim=0), x_ND.std(dim=0, correction=0)
    size_D = (mean_D.square() + spread_D.square()).sqrt()
    return mean_D, torch.where(spread_D > CHANGES * size_D, spread_D, torch.inf)


def _kernel(one_ND: torch.Tensor, other_LD: torch.Tensor) -> torch.Tensor:
    return (1 + one_ND @ other_LD.T / one_ND.shape[1]).square()


def _root(rows_LD: torch.Tensor) -> torch.Tensor:
    """K(L, L)^{-1/2}: (L, R)."""
    value_L, vector_LL = torch.linalg.eigh(_kernel(rows_LD, rows_LD))
    kept = value_L > LEAST * value_L[-1]
    return vector_LL[:, kept] / value_L[kept].sqrt()


def _with_one(x_ND: torch.Tensor) -> torch.Tensor:
    return torch.cat([x_ND.new_ones(len(x_ND), 1), x_ND], dim=1)
