"""Q̂ that looks ahead, in closed form: what the next state is worth to whoever acts well there.

    Q̂(s, a) = E[r + γ V̂(s')]           V̂(s) = the τ-expectile of Q̂(s, a) over the logged actions

The τ-expectile of x is the m with τ E(x − m)⁺ = (1 − τ) E(m − x)⁺. For τ = ½ it is the mean: V̂, and
Q̂, are of the policy that made the log. For τ → 1 it goes to the largest x: Q̂ is of the best policy
among what the log has tried. In between it is that of a policy that prefers the better half of what
was said, and no action is asked about that nobody took. Both are linear in features, as in
`iterppo.rl.least_squares`; each expectile is a least-squares problem with weights of τ above and
1 − τ below, solved again until they stay.

Source: implicit Q-learning, Kostrikov, Nair and Levine, 2021 (equations 5 and 6).

Shapes: N transitions, D features φ of states, E features ψ of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from iterppo.rl.least_squares import Moments, pull

Array = np.ndarray[Any, Any]

ROUNDS = 500
"""Of Q̂ and V̂ in turn; each takes what is known of an outcome one turn further back."""
SAME = 1e-7
"""Largest change of a value, as a share of the largest value, with which they are done."""


@dataclass(frozen=True)
class Seen:
    """What expectiles are taken over: the pairs of the newest policy's own log.

    Args:
        phi_ND: φ of the states.
        psi_NE: ψ of the pairs.
    """

    phi_ND: Array
    psi_NE: Array


def look_ahead(
    moments: Moments, seen: Seen, weight_N: Array, *, tau: float, ridge: float, group: int = 0
) -> tuple[Array, Array]:
    """Heads of V̂ and of Q̂.

    Args:
        moments: Of transitions: φ of states, ψ of pairs.
        seen: Pairs; each counts by its weight.
        weight_N: Not negative.
        tau: τ, in [½, 1).
        ridge: In transitions, of both regressions, as in `Moments.solve`.
        group: Of the moments.

    Returns:
        x (D,) and y (E,).

    Raises:
        ValueError: If they do not settle.
    """
    kept = weight_N > 0
    phi_ND, psi_NE, weight_N = seen.phi_ND[kept], seen.psi_NE[kept], weight_N[kept]
    x_D = np.zeros(phi_ND.shape[1])
    value_N = np.zeros(len(phi_ND))
    regress = moments.regression(ridge, group=group)
    for _ in range(ROUNDS):
        y_E = regress(x_D)
        q_N = psi_NE @ y_E
        side_N = np.where(q_N > value_N, tau, 1 - tau)
        x_D = _least(phi_ND, q_N, 2 * side_N * weight_N, ridge)
        before_N, value_N = value_N, phi_ND @ x_D
        if np.abs(value_N - before_N).max() <= SAME * np.abs(value_N).max():
            return x_D, regress(x_D)
    raise ValueError(
        f"the expectiles of τ = {tau:g} do not settle; take a larger ridge, or τ nearer to 1/2"
    )


def _least(phi_ND: Array, wanted_N: Array, weight_N: Array, ridge: float) -> Array:
    """argmin Σ w (φ·x − wanted)² + ρ |x|²"""
    weighted_DN = (phi_ND * weight_N[:, None]).T
    second_DD = weighted_DN @ phi_ND
    return np.asarray(
        np.linalg.solve(
            second_DD + pull(second_DD, ridge, float(weight_N.sum())), weighted_DN @ wanted_N
        )
    )
