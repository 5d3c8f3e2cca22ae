"""Which prompts an update samples from: a function of the seed and the update's number alone.

A training that goes on after a kill, or on another number of processes, has no place in the data
to find again.
"""

from __future__ import annotations

import random


def prompts_of_update(num_prompts: int, *, per_update: int, update: int, seed: int) -> list[int]:
    """Indices of the prompts of an update, counted from 0.

    Epoch after epoch of all prompts in an order of its own, cut into updates: no prompt is met
    twice more often than another.

    Args:
        num_prompts: How many there are.
        per_update: How many an update takes; may be more than there are.
        update: Its number, from 0.
        seed: Of the orders.

    >>> [prompts_of_update(3, per_update=2, update=u, seed=0) for u in range(3)]
    [[0, 2], [1, 0], [1, 2]]
    """
    orders: dict[int, list[int]] = {}
    found = []
    for place in range(update * per_update, (update + 1) * per_update):
        epoch, index = divmod(place, num_prompts)
        if epoch not in orders:
            orders[epoch] = list(range(num_prompts))
            random.Random(f"{seed}/{epoch}").shuffle(orders[epoch])
        found.append(orders[epoch][index])
    return found
