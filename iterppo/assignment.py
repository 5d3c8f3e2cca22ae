"""Which arm of an experiment a customer belongs to: a hash, so that any backend can do the same.

    u = first 32 bits of SHA-256("salt:key")       slot = ⌊u · W / 2³²⌋,   W = Σ weights

Arms own slots 0 … W − 1 in their order, as many as their weight. Nothing is stored: the same key
has the same arm on every machine and on every day, and another salt draws anew. All numbers stay
below 2⁵³, so languages whose only numbers are doubles come to the same arm. docs/experiments.md
has the test vectors.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from iterppo.errors import UsageError

MOST_SLOTS = 2**20  # times 2³² is below 2⁵³


def assign(key: str, *, salt: str, arms: Mapping[str, int]) -> str:
    """The arm of a key.

    Args:
        key: What is randomised, as a customer's id; one key is in one arm.
        salt: Name of the experiment. Without `:`, so that no two pairs of salt and key are hashed
            as the same text.
        arms: Whole weights of the arms, in their order.

    Raises:
        UsageError: If a salt, an arm or a weight cannot be used.

    >>> assign("customer-1", salt="greeting", arms={"a": 1, "b": 1})
    'a'
    """
    check_experiment(salt, arms)
    # What is no UTF-8 on a command line is hashed as the bytes that it is.
    digest = hashlib.sha256(f"{salt}:{key}".encode(errors="surrogateescape")).digest()
    slot = int.from_bytes(digest[:4], "big") * sum(arms.values()) >> 32
    for name, weight in arms.items():
        slot -= weight
        if slot < 0:
            return name
    raise AssertionError("a slot is below the sum of the weights")


def check_experiment(salt: str, arms: Mapping[str, int]) -> None:
    """Refuse what has no arm, or no single one.

    Raises:
        UsageError: With what to write instead.
    """
    if not salt or ":" in salt:
        raise UsageError(
            f"--salt {salt!r}: name the experiment by a text without a colon, as greeting-1."
        )
    if not arms or not all(arms):
        raise UsageError("--arms: names no arm. Write a,b or a:9,b:1.")
    for name, weight in arms.items():
        if weight < 1:
            raise UsageError(f"--arms {name}:{weight}: a weight is a whole number from 1 on.")
    if sum(arms.values()) > MOST_SLOTS:
        raise UsageError(
            f"--arms: weights add up to {sum(arms.values())}, above {MOST_SLOTS}. Divide them all."
        )


def parse_arms(text: str) -> dict[str, int]:
    """Arms as they are typed: `a,b` or `a:9,b:1`.

    Raises:
        UsageError: If an arm is named twice or a weight is no whole number.

    >>> parse_arms("control:9, new")
    {'control': 9, 'new': 1}
    """
    arms: dict[str, int] = {}
    for part in text.split(","):
        name, colon, weight = part.strip().partition(":")
        if name in arms:
            raise UsageError(f"--arms {text}: {name} is named twice. Name each arm once.")
        if colon and not (weight.isascii() and weight.isdigit()):
            raise UsageError(f"--arms {part.strip()}: a weight is a whole number from 1 on.")
        arms[name] = int(weight) if colon else 1
    return arms
