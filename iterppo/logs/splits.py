"""Train and held-out conversations."""

import hashlib

from iterppo.errors import DataError
from iterppo.logs.records import LogConversation


def unit_hash(text: str, *, seed: int) -> float:
    """A number in [0, 1) that depends on text and seed alone: the same on every machine and in
    every order.

    What is drawn for one purpose must not depend on what was drawn for another: `split_of` draws by
    the key alone, everybody else names the purpose, as `validation/KEY`.
    """
    digest = hashlib.sha256(f"{seed}:{text}".encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def split_of(key: str, *, heldout: float, seed: int) -> str:
    """`heldout` for a share of the keys, else `train`. A key is never divided."""
    return "heldout" if unit_hash(key, seed=seed) < heldout else "train"


def split_key(conversation: LogConversation, by: str) -> str:
    """What decides a conversation's split: conversations with one key share it.

    `opening` is the first message that says something, but for its case and white space: copies of
    a conversation, and forms that were filled in the same way, stay together.

    Raises:
        DataError: If the log does not have the key.
    """
    if by == "conversation":
        return conversation.conversation_id
    if by == "opening":
        texts = (" ".join(m.content.casefold().split()) for m in conversation.messages)
        return next((text for text in texts if text), "")
    key = conversation.customer_id if by == "customer" else conversation.business_id
    if not key:
        raise DataError(f"{by}_id: is missing, and ingest.split_by = {by!r} needs it")
    return key
