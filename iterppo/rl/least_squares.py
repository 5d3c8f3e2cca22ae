"""Q^π and V^π that are linear in features, in closed form: least-squares temporal differences.

    value      x = (Σ w φ (φ − γ φ')ᵀ + ρ I)⁻¹ Σ w φ r           the fixed point of one-step targets
    regression y = (Σ w ψ ψᵀ + σ I)⁻¹ Σ w ψ (r + γ φ'·x)         what other features make of them

    LSTD      φ of states, ψ of pairs of state and action:  x is V̂'s head, y is Q̂'s
    LSTDQ     φ of pairs, φ' the mean of the pairs that the policy to evaluate makes of the next
              state, ψ of states:  x is Q̂'s head, y is V̂'s

A regression on Monte Carlo returns has the noise of all that came later; these targets have that of
one step, and no step size, no sweeps and no order to choose. Sources: Bradtke and Barto, 1996;
Boyan, 1999; Lagoudakis and Parr, 2003.

Shapes: N transitions of a batch, D features φ, E features ψ, G groups of weights (the members of an
ensemble, the folds of a cross-validation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass
class Moments:
    """Sums over transitions, for every group: all that the solution needs, whatever their number.

    The value and the regression may be of different transitions: what an action led to is the same
    under every policy, what a state is worth is not.

    Args:
        value_mass_G: Σ w of the value's.
        mass_G: Σ w of the regression's.
        xx_GDD: Σ w φ φᵀ.
        xa_GDD: Σ w φ (γ φ')ᵀ.
        xr_GD: Σ w φ r.
        yy_GEE: Σ w ψ ψᵀ.
        ya_GED: Σ w ψ (γ φ')ᵀ.
        yr_GE: Σ w ψ r.
    """

    value_mass_G: Array
    mass_G: Array
    xx_GDD: Array
    xa_GDD: Array
    xr_GD: Array
    yy_GEE: Array
    ya_GED: Array
    yr_GE: Array

    @classmethod
    def empty(cls, *, groups: int, value: int, regression: int) -> Moments:
        """No transitions yet; numbers of groups and of features."""
        G, D, E = groups, value, regression
        shapes = ((G,), (G,), (G, D, D), (G, D, D), (G, D), (G, E, E), (G, E, D), (G, E))
        return cls(*(np.zeros(shape) for shape in shapes))

    def add(
        self,
        phi_ND: Array,
        after_ND: Array,
        psi_NE: Array,
        reward_N: Array,
        weight_NG: Array,
        *,
        value: bool = True,
    ) -> None:
        """Transitions.

        Args:
            phi_ND: φ.
            after_ND: γ φ' of what followed; 0 where the conversation was over.
            psi_NE: ψ.
            reward_N: r.
            weight_NG: Weight of every transition in every group, not negative.
            value: Whether they are of the policy whose value is asked for; the regression takes
                them all.
        """
        phi_ND, after_ND, psi_NE = (x.astype(np.float64) for x in (phi_ND, after_ND, psi_NE))
        self.mass_G += weight_NG.sum(axis=0)
        self.value_mass_G += value * weight_NG.sum(axis=0)
        for group, weight_N in enumerate(weight_NG.T):
            n = weight_N > 0  # a fold has one transition in five, a resample six in ten
            after_nD, reward_n, weight_n1 = after_ND[n], reward_N[n], weight_N[n, None]
            if value:
                phi_Dn = (phi_ND[n] * weight_n1).T
                self.xx_GDD[group] += phi_Dn @ phi_ND[n]
                self.xa_GDD[group] += phi_Dn @ after_nD
                self.xr_GD[group] += phi_Dn @ reward_n
            psi_En = (psi_NE[n] * weight_n1).T
            self.yy_GEE[group] += psi_En @ psi_NE[n]
            self.ya_GED[group] += psi_En @ after_nD
            self.yr_GE[group] += psi_En @ reward_n

    def of(self, groups: Sequence[int]) -> Moments:
        """One group: these taken together."""
        return Moments(*_together(self, groups))

    def solve(self, ridge: float, *, group: int = 0) -> tuple[Array, Array]:
        """Heads of the value and of the regression.

        Args:
            ridge: Transitions that the pull towards zero counts as: ρ is that number times the mean
                square of a feature, whatever their scale.
            group: Whose weights.

        Returns:
            x (D,) and y (E,).

        Raises:
            ValueError: If there is no solution that is finite.
        """
        xx_DD, yy_EE = self.xx_GDD[group], self.yy_GEE[group]
        try:
            x_D = np.linalg.solve(
                xx_DD - self.xa_GDD[group] + pull(xx_DD, ridge, self.value_mass_G[group]),
                self.xr_GD[group],
            )
            y_E = np.linalg.solve(
                yy_EE + pull(yy_EE, ridge, self.mass_G[group]),
                self.yr_GE[group] + self.ya_GED[group] @ x_D,
            )
        except np.linalg.LinAlgError:
            raise ValueError("the equations have no solution; take a larger ridge") from None
        if not (np.isfinite(x_D).all() and np.isfinite(y_E).all()):
            raise ValueError("the equations have no finite solution; take a larger ridge")
        return x_D, y_E


@dataclass
class Errors:
    """Squared errors of any linear prediction of given numbers, from sums alone.

    Args:
        mass_G: Σ w.
        ff_GEE: Σ w ψ ψᵀ.
        fg_GE: Σ w ψ g.
        gg_G: Σ w g².
    """

    mass_G: Array
    ff_GEE: Array
    fg_GE: Array
    gg_G: Array

    @classmethod
    def empty(cls, *, groups: int, features: int) -> Errors:
        """Nothing to predict yet."""
        G, E = groups, features
        return cls(np.zeros(G), np.zeros((G, E, E)), np.zeros((G, E)), np.zeros(G))

    def add(self, psi_NE: Array, wanted_N: Array, weight_NG: Array) -> None:
        """Features, what they should predict, and its weight in every group."""
        psi_NE = psi_NE.astype(np.float64)
        self.mass_G += weight_NG.sum(axis=0)
        for group, weight_N in enumerate(weight_NG.T):
            psi_EN = (psi_NE * weight_N[:, None]).T
            self.ff_GEE[group] += psi_EN @ psi_NE
            self.fg_GE[group] += psi_EN @ wanted_N
            self.gg_G[group] += weight_N @ wanted_N**2

    def of(self, groups: Sequence[int]) -> Errors:
        """One group: these taken together."""
        return Errors(*_together(self, groups))

    def squared(self, head_E: Array, *, group: int = 0) -> float:
        """Σ w (ψ·y − g)² of a group."""
        return float(
            head_E @ self.ff_GEE[group] @ head_E - 2 * head_E @ self.fg_GE[group] + self.gg_G[group]
        )

    def least(self, ridge: float, *, group: int = 0) -> Array:
        """The head (E,) with the least error in a group, pulled towards zero by a ridge as in
        `Moments.solve`."""
        ff_EE = self.ff_GEE[group]
        return np.linalg.solve(ff_EE + pull(ff_EE, ridge, self.mass_G[group]), self.fg_GE[group])


def pull(second_DD: Array, ridge: float, mass: float) -> Array:
    """ρ I: a ridge in examples, times the mean square of a feature, whatever their scale.

    Args:
        second_DD: Σ w φ φᵀ.
        ridge: In examples.
        mass: Σ w.
    """
    mean_square = np.trace(second_DD) / (mass * len(second_DD)) if mass > 0 else 0.0
    return ridge * mean_square * np.eye(len(second_DD))


def _together(sums: Any, groups: Sequence[int]) -> list[Array]:
    return [each[list(groups)].sum(axis=0, keepdims=True) for each in vars(sums).values()]
