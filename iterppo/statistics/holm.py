"""Several arms against one base: p-values that hold for all of them together."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's (1979) step-down correction.

        p̃_(k) = max_{j ≤ k} min(1, (m − j + 1) p_(j)),    p_(1) ≤ … ≤ p_(m)

    Whatever the dependence between the tests, and they share the base arm, the chance that any true
    hypothesis has p̃ ≤ α is at most α. It is never weaker than Bonferroni's. Always-valid p-values
    may go in as well as ordinary ones. (scipy has corrections for the false discovery rate alone.)

    >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
    [0.03, 0.06, 0.06]
    """
    order = sorted(range(len(p_values)), key=lambda k: p_values[k])
    adjusted = [1.0] * len(p_values)
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[k]))
        adjusted[k] = largest
    return adjusted
