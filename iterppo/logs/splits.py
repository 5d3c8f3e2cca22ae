"""Train and held-out conversations."""

import hashlib


def unit_hash(text: str, *, seed: int) -> float:
    """A number in [0, 1) that depends on text and seed alone: the same on every machine and in
    every order."""
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def split_of(conversation_id: str, *, heldout: float, seed: int) -> str:
    """`heldout` for a share of the conversations, else `train`. A conversation is never divided."""
    return "heldout" if unit_hash(conversation_id, seed=seed) < heldout else "train"
