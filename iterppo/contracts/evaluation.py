"""`evaluation`: the value of a new policy before it meets anybody, by every method that can say."""

from typing import ClassVar

from iterppo.contracts.base import Row, column


class EvaluationRow(Row):
    """An estimate. The overlap, the guardrails and the gate's decision lie in `evaluation.json`."""

    kind: ClassVar[str] = "evaluation"
    one_row_is: ClassVar[str] = "an estimate, or the reason why there is none"

    method: str = column(
        "dr (per-turn weighted doubly robust), wis (per-turn weighted importance sampling), fqe "
        "(fitted Q evaluation), or behaviour: the mean return of the policy that made the log."
    )
    logprobs: str | None = column(
        "logged or recomputed: where the log-probabilities of the policy that made the log are "
        "from; null where none are used."
    )
    policy_version: str = column("The policy that the value is of.")
    behaviour_version: str = column("The policy that is said to have made the log.")
    gamma: float = column("Discount per turn; 1: the value is the outcome rate.", unit="1")
    supported: bool = column("Whether the data support an estimate; without it there is none.")
    reason: str | None = column("Why there is no estimate.")
    value: float | None = column("Estimated value.", unit="discounted outcomes")
    value_low: float | None = column("Lower end of its 95 % interval.", unit="discounted outcomes")
    value_high: float | None = column("Upper end.", unit="discounted outcomes")
    difference: float | None = column(
        "Value less that of the policy that made the log, in the same conversations.",
        unit="discounted outcomes",
    )
    difference_low: float | None = column(
        "Lower end of its 95 % interval.", unit="discounted outcomes"
    )
    difference_high: float | None = column("Upper end.", unit="discounted outcomes")
    num_conversations: int = column("Conversations that took part.", unit="conversations")
    effective_sample_size: float | None = column(
        "(Σ w)² / Σ w² of the conversations' weights.", unit="conversations"
    )
    max_weight_share: float | None = column(
        "Share of all weight that the heaviest conversation has.", unit="1"
    )
    share_in_range: float | None = column(
        "Share of the turns whose ratio of probabilities lies in the configured range.", unit="1"
    )
    mean_ratio: float | None = column("Mean ratio of whole conversations; 1 is due.", unit="1")
