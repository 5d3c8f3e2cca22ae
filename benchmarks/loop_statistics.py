"""What the success rates of `benchmarks.loop` say, over seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.over_seeds import interval, intervals

Rates = Mapping[str, Sequence[Sequence[float]]]
"""method -> seed -> round -> share of conversations with the outcome."""


def of_methods(rates: Rates) -> dict[str, dict[str, list[float]]]:
    """Mean over seeds of every round, with its 95 % interval."""
    return {method: intervals(np.array(found)) for method, found in rates.items()}


def claims_of(method: str, rates: Rates, *, optimum: float) -> dict[str, Any]:
    """What can be said of a method beside the others.

    seeds_rising: in how many seeds every round's policy is better than the one before;
    share_of_optimum: the last policy's, and by seed; ahead_of: of every other method, the paired
    difference of the last policies over the seeds that both have, with its 95 % interval (t, of the
    seeds' differences); separated: whether that interval lies above 0.
    """
    own = np.array(rates[method])
    last = own[:, -1]
    ahead: dict[str, dict[str, float | bool]] = {}
    for other, found in rates.items():
        if other == method:
            continue
        S = min(len(last), len(found))
        ahead[other] = {**interval(last[:S] - np.array(found)[:S, -1])}
        if "low" in ahead[other]:
            ahead[other]["separated"] = ahead[other]["low"] > 0
    return {
        "seeds_rising": int((np.diff(own, axis=1) > 0).all(axis=1).sum()),
        "share_of_optimum": round(float(last.mean()) / optimum, 3),
        "share_of_optimum_by_seed": [round(float(x) / optimum, 3) for x in last],
        "ahead_of": ahead,
    }
