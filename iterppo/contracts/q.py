"""`q`: the fitted Q-function, with its estimate for every turn it was fitted on or held out
from."""

from typing import ClassVar

from iterppo.contracts.base import Row, column


class QRow(Row):
    """Q̂(s_i, a_i) beside the return. The model lies in `model/`, the diagnostics in
    `metrics.json`."""

    kind: ClassVar[str] = "q"
    version: ClassVar[int] = 2  # 2: v
    readable_versions: ClassVar[tuple[int, ...]] = (1, 2)
    one_row_is: ClassVar[str] = "a turn that has an action and fits the model's context"

    conversation_id: str = column("Conversation.")
    turn: int = column("i, from 1.", arrow="int32")
    q: float = column("Q̂(s_i, a_i).", unit="discounted outcomes")
    q_spread: float | None = column(
        "Standard deviation over the ensemble; null where there is one member.",
        unit="discounted outcomes",
    )
    return_: float | None = column(
        "G_i; null where censored.", unit="discounted outcomes", name="return"
    )
    weight: float = column("Weight of the turn in the fit.", unit="1")
    split: str = column("train or heldout.")
    v: float | None = column(
        "V̂(s_i), which knows the state and not the action; null where there is none.",
        unit="discounted outcomes",
    )
