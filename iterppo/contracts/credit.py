"""`credit`: one reward a turn, learned from outcomes, with the model that tells it."""

from typing import ClassVar

from iterppo.contracts.base import Row, column


class CreditRow(Row):
    """What a turn contributed to its conversation's outcome. The model lies in `model/`, the
    diagnostics in `metrics.json`."""

    kind: ClassVar[str] = "credit"
    one_row_is: ClassVar[str] = "a turn, in the order of the trajectories"
    no_dictionary: ClassVar[frozenset[str]] = frozenset({"conversation_id"})

    conversation_id: str = column("Conversation.")
    turn: int = column("i, from 1.", arrow="int32")
    num_tokens: int = column(
        "Tokens of the action that were scored, its end of turn included; 0 where the turn has no "
        "action, does not fit the model's context, or is of a censored conversation.",
        unit="tokens",
        arrow="int32",
    )
    implicit_reward: float | None = column(
        "β Σ_t (log π_φ − log π_ref) over those tokens; null where there are none.", unit="nats"
    )
    normalised_reward: float | None = column(
        "What the turn is paid; null where the conversation is censored.",
        unit="outcomes, or what the normalisation makes of nats",
    )
    weight: float | None = column(
        "Share of the outcome; null where the outcome was not shared out.", unit="1"
    )
    split: str = column("train or heldout.")
