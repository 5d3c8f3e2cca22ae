"""Directions of one set of numbers that tell most of another: canonical correlations.

    max  uᵀ (X̃ᵀX̃ + ρ I)^{-1/2} X̃ᵀỸ (ỸᵀỸ + σ I)^{-1/2} v      over unit vectors, then the next pair

X̃ and Ỹ are X and Y less their means. What is left of X is what Y can be told from, most important
first, whatever the scale and the correlations of either. Source: Hotelling, 1936; the ridge: Vinod,
1976. With the past for X and the future for Y it is how a state is found that the future depends on
alone (Boots, Siddiqi and Gordon, 2011).

Shapes: N examples, D numbers of x, E or Y of y, V of z, K directions.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from iterppo.rl.least_squares import pull

Array = np.ndarray[Any, Any]

LEAST = 1e-6
"""Correlation below which a direction tells nothing."""


def canonical_directions(
    x_ND: Array, y_NE: Array, *, number: int, x_ridge: float, y_ridge: float
) -> Array:
    """(D, K), the first directions of x, for x less its mean.

    Each gives numbers of mean square 1 over the examples, less where the ridge holds them back:
    what hardly varies is not blown up. There are fewer than asked for where x tells less of y.

    Args:
        x_ND: x.
        y_NE: y.
        number: K at most.
        x_ridge: ρ, in examples: that number times the mean square of a number of x.
        y_ridge: σ, likewise.
    """
    x_ND, y_NE = (z.astype(np.float64) - z.mean(axis=0, dtype=np.float64) for z in (x_ND, y_NE))
    root_DD, other_EE = _inverse_root(x_ND, x_ridge), _inverse_root(y_NE, y_ridge)
    found_DK, correlation_K, _ = np.linalg.svd(
        root_DD @ (x_ND.T @ y_NE) @ other_EE, full_matrices=False
    )
    told_DK = found_DK[:, :number][:, correlation_K[:number] > LEAST]
    return np.asarray(root_DD @ told_DK * np.sqrt(len(x_ND)))


def foretold(by_NV: Array, y_NY: Array, *, ridge: float) -> Array:
    """Weights (V, Y) of the regression of y on other numbers.

        B = (ZᵀZ + ρ I)^{-1} ZᵀY

    Directions of x less Z B_x for y less Z B_y are those of partial canonical correlations: what x
    tells of y that z does not (Rao, 1969).

    Args:
        by_NV: z, a constant among its numbers where the means are not 0.
        y_NY: y.
        ridge: ρ, in examples: that number times the mean square of a number of z.
    """
    moment_VV = by_NV.T @ by_NV
    return np.linalg.solve(moment_VV + pull(moment_VV, ridge, len(by_NV)), by_NV.T @ y_NY)


def _inverse_root(x_ND: Array, ridge: float) -> Array:
    """(XᵀX + ρ I)^{-1/2}; 0 in directions that no example has."""
    moment_DD = x_ND.T @ x_ND
    value_D, vector_DD = np.linalg.eigh(moment_DD + pull(moment_DD, ridge, len(x_ND)))
    known_D = value_D > LEAST**2 * max(value_D[-1], np.finfo(float).tiny)
    scale_D = np.where(known_D, 1 / np.sqrt(np.where(known_D, value_D, 1.0)), 0.0)
    return np.asarray((vector_DD * scale_D) @ vector_DD.T)
