"""`actions`: what a policy would do in the states of a log."""

from typing import ClassVar

from iterppo.contracts.base import Row, column


class ActionsRow(Row):
    """An action a^k ~ π(· | s_i), in a state that somebody else's action may have followed."""

    kind: ClassVar[str] = "actions"
    one_row_is: ClassVar[str] = "a sampled action; all of a conversation are neighbours, in order"
    no_dictionary: ClassVar[frozenset[str]] = frozenset({"conversation_id", "action"})

    conversation_id: str = column("Conversation.")
    turn: int = column("i, from 1.", arrow="int32")
    sample: int = column("k, from 1.", arrow="int32")
    action: str | None = column("a^k; null where the policy abstained.")
    logprob: float | None = column(
        "log π(a^k | s_i) as it was sampled; null where it is not known.", unit="nat"
    )
    policy_version: str = column("π.")
    split: str = column("train or heldout.")
