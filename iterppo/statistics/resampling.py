"""Resamples of whole conversations, as the number of times that each was drawn.

Most statistics of held-out turns are functions of weighted sums over turns. A resample that draws
conversation c m_c times changes such a sum to Σ_c m_c · (sum over the turns of c), so all resamples
together are one product of matrices, and no turn is ever copied.

Where customers come back their conversations are alike, and what is drawn is a customer.

Shapes: N turns, C conversations (or customers with all of theirs), S resamples (b of them at once),
F columns, G groups, P pairs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

ELEMENTS_AT_ONCE = 2**21  # of the largest array held while resampling: 16 MiB


@dataclass(frozen=True)
class Resamples:
    """`samples` draws of C conversations out of C, with replacement.

    The draws depend on the seed and the number of conversations only: every statistic sees the same
    resamples, and the order of the turns does not matter.
    """

    conversation_N: Array
    num_conversations: int
    samples: int
    seed: int
    unit_N: Array
    """What is drawn as a whole."""
    num_units: int

    @classmethod
    def of(
        cls,
        conversation_ids: Sequence[Any] | Array,
        *,
        samples: int,
        seed: int,
        units: Sequence[Any] | Array | None = None,
    ) -> Resamples:
        """`units`: what is drawn as a whole, of each turn; None: its conversation."""
        names, conversation_N = np.unique(np.asarray(conversation_ids), return_inverse=True)
        if units is None:
            return cls(conversation_N, len(names), samples, seed, conversation_N, len(names))
        drawn, unit_N = np.unique(np.asarray(units), return_inverse=True)
        return cls(conversation_N, len(names), samples, seed, unit_N, len(drawn))

    def rows(self, chosen: Array) -> Resamples:
        """The same draws of the same conversations, seen from some of the turns."""
        return replace(self, conversation_N=self.conversation_N[chosen], unit_N=self.unit_N[chosen])

    def times(self, *, width: int = 0) -> Iterator[Array]:
        """How often each conversation was drawn, (b, C), a block of resamples at a time.

        Args:
            width: Columns of what is made of a block, if more than C; keeps blocks small enough.
        """
        num = self.num_units
        if num == 0:
            return
        generator = np.random.default_rng(self.seed)
        block = max(1, ELEMENTS_AT_ONCE // max(width, num))
        for start in range(0, self.samples, block):
            size = min(block, self.samples - start)
            drawn = generator.integers(num, size=(size, num)) + num * np.arange(size)[:, None]
            times = np.bincount(drawn.ravel(), minlength=size * num)
            yield times.reshape(size, num).astype(float)

    def sums(self, rows_NF: Array) -> Array:
        """Sum of each column over the turns of each resample, (S, F)."""
        group_N = np.zeros(len(rows_NF), dtype=int)
        return self.grouped_sums(rows_NF, group_N, num_groups=1)[:, 0]

    def grouped_sums(self, rows_NF: Array, group_N: Array, *, num_groups: int) -> Array:
        """The same by group of turns, (S, G, F)."""
        num_columns = rows_NF.shape[1]
        cell_N = self.unit_N * num_groups + group_N
        num_cells = self.num_units * num_groups
        per_unit = np.stack(
            [np.bincount(cell_N, weights=column, minlength=num_cells) for column in rows_NF.T],
            axis=1,
        ).reshape(self.num_units, num_groups * num_columns)
        blocks = [times @ per_unit for times in self.times()]
        return np.vstack([np.empty((0, num_groups * num_columns)), *blocks]).reshape(
            -1, num_groups, num_columns
        )

    def pair_sums(self, first_P: Array, second_P: Array, rows_PF: Array) -> Array:
        """Sum of each column over pairs of turns, (S, F); a pair counts as often as the two
        conversations can meet in the resample: the product of their numbers."""
        one, other = self.unit_N[first_P], self.unit_N[second_P]
        blocks = [
            (times[:, one] * times[:, other]) @ rows_PF for times in self.times(width=len(one))
        ]
        return np.vstack([np.empty((0, rows_PF.shape[1])), *blocks])


def ratio(above: Array, below: Array) -> Array:
    """above / below, NaN where there is nothing below.

    >>> ratio(np.array([1.0, 2.0]), np.array([4.0, 0.0])).tolist()
    [0.25, nan]
    """
    found = np.full(len(below), np.nan)
    found[below > 0] = above[below > 0] / below[below > 0]
    return found
