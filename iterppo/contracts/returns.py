"""`returns`: Monte Carlo returns, turn by turn."""

from typing import ClassVar

from iterppo.contracts.base import Row, column


class ReturnsRow(Row):
    """G_i of a turn."""

    kind: ClassVar[str] = "returns"
    one_row_is: ClassVar[str] = "a turn, in the order of the trajectories"
    no_dictionary: ClassVar[frozenset[str]] = frozenset({"conversation_id"})

    conversation_id: str = column("Conversation.")
    turn: int = column("i, from 1.", arrow="int32")
    reward: float = column("r_{i+1}.", unit="outcomes")
    return_: float | None = column(
        "G_i = Σ_j γ^j r_{i+j+1}; null where the conversation is censored.",
        unit="discounted outcomes",
        name="return",
    )
    weight: float = column("Inverse-censoring weight of the turn.", unit="1")
    horizon: int | None = column(
        "Turns from this one to the last, both counted; null where censored.",
        unit="turns",
        arrow="int32",
    )
