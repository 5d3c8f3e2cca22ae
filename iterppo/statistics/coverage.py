"""Coverage: whether a log holds anything like what the policy would say.

    supported(s, a) = some logged turn (c', a'):  d(c, c') ≤ 1/2  and  d(a, a') ≤ 1/2

c is the customer's last message in s, d the edit distance (Levenshtein's) divided by the longer
length; 1/2 is where `ingest` stops calling one text another's edit. Where a log holds nothing
like (s, a), Q̂(s, a) is a guess from other words. It is a statement about texts alone: a
paraphrase in other words counts as unsupported, so true coverage is higher; and the messages before
the last are not compared, so the states that count as comparable may differ in them.

Shapes: S states with K sampled actions each, N logged turns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from iterppo.logs.splits import unit_hash
from iterppo.statistics.resampling import Resamples, ratio

NEAR = 0.5
"""Edit distance up to which two texts are comparable."""
MOST_TURNS = 20_000
"""Logged turns that are compared with, chosen by a hash of their text."""


def coverage(
    customer_S: Sequence[str],
    action_SK: Sequence[Sequence[str]],
    conversation_id_S: Sequence[str],
    logged_N: Sequence[tuple[str, str]],
    *,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """The share of sampled actions that a log supports.

    Args:
        customer_S: The customer's last message in each state.
        action_SK: Actions sampled there; "" is ∅, which only an abstention supports.
        conversation_id_S: Conversation, or customer, of each state, by which intervals are
            bootstrapped.
        logged_N: The customer's last message and the action of each turn of the log.
        samples: Resamples of the conversations.
        seed: Of the resamples.

    Returns:
        `support` with `support_low` and `support_high`, its 95 % interval; `support_in_any_state`,
        the share that would be supported were all states comparable; `comparable_states`, the share
        of states that any logged turn is comparable to; and counts. None where there is no state.

    >>> log = [("Hello!", "Which room?"), ("Too dear.", "We can do it for less.")]
    >>> found = coverage(["Hello"], [["Which room", "For less?"]], ["c"], log, samples=9, seed=0)
    >>> found["support"], found["comparable_states"]
    (0.5, 1.0)
    """
    if not len(customer_S) == len(action_SK) == len(conversation_id_S):
        raise ValueError(
            f"{len(customer_S)} customers, {len(action_SK)} lists of actions and "
            f"{len(conversation_id_S)} conversations are not one of each per state"
        )
    logged = _most(logged_N, seed=seed)
    by_customer: dict[str, set[str]] = {}
    for customer, action in logged:
        by_customer.setdefault(customer, set()).add(action)
    customers = list(by_customer)
    near_SC = _near(customer_S, customers)
    everything = sorted({action for _, action in logged})
    supported_S, anywhere_S, comparable_S = [], [], []
    for actions, near_C in zip(action_SK, near_SC, strict=True):
        places = np.flatnonzero(near_C)
        here = sorted(set().union(*(by_customer[customers[place]] for place in places)))
        comparable_S.append(bool(len(places)))
        supported_S.append(int(_near(actions, here).any(axis=1).sum()))
        anywhere_S.append(int(_near(actions, everything).any(axis=1).sum()))
    sums_S3 = np.array(
        [supported_S, anywhere_S, [len(actions) for actions in action_SK]], dtype=float
    ).T
    total = float(sums_S3[:, 2].sum()) if len(sums_S3) else 0.0
    resamples = Resamples.of(conversation_id_S, samples=samples, seed=seed)
    low = high = math.nan
    if total and resamples.num_conversations > 1:
        drawn_B3 = resamples.sums(sums_S3)
        shares_B = ratio(drawn_B3[:, 0], drawn_B3[:, 2])
        low, high = np.nanquantile(shares_B, [0.025, 0.975]).tolist()
    found = {
        "support": float(sums_S3[:, 0].sum()) / total if total else math.nan,
        "support_low": low,
        "support_high": high,
        "support_in_any_state": float(sums_S3[:, 1].sum()) / total if total else math.nan,
        "comparable_states": float(np.mean(comparable_S)) if comparable_S else math.nan,
        "num_actions": int(total),
        "num_states": len(customer_S),
        "num_logged_turns": len(logged),
    }
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in found.items()
    }


def _near(one: Sequence[str], other: Sequence[str]) -> np.ndarray[Any, Any]:
    """Which texts are near which, (len(one), len(other))."""
    if not one or not other:
        return np.zeros((len(one), len(other)), dtype=bool)
    scorer = Levenshtein.normalized_distance
    found: np.ndarray[Any, Any] = (
        cdist(one, other, scorer=scorer, score_cutoff=NEAR, dtype=np.float64) <= NEAR
    )
    return found


def _most(logged_N: Sequence[tuple[str, str]], *, seed: int) -> list[tuple[str, str]]:
    """At most `MOST_TURNS` of them."""
    if len(logged_N) <= MOST_TURNS:
        return list(logged_N)
    hashed = (
        (unit_hash(f"{number}/{customer}/{action}", seed=seed), number)
        for number, (customer, action) in enumerate(logged_N)
    )
    return [logged_N[number] for _, number in sorted(hashed)[:MOST_TURNS]]
