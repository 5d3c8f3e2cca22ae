"""`policy`: a trained policy, with the completions sampled on the way."""

from typing import ClassVar

from iterppo.contracts.base import Row, column


class PolicyRow(Row):
    """A sampled completion. The checkpoint lies in `model/`, the curves in
    `training_log.parquet`."""

    kind: ClassVar[str] = "policy"
    one_row_is: ClassVar[str] = (
        "a completion sampled during training (none for a policy made by init)"
    )

    step: int = column("Optimiser step at which it was sampled, from 0.", arrow="int32")
    prompt_id: str = column("Prompt, as in the prompts artifact.")
    completion: str = column("The completion as text; empty: abstained.")
    tokens: list[int] = column(
        "Its token ids, end-of-turn included where it was reached.", arrow="list<int32>"
    )
    truncated: bool = column("It reached the length limit before the end of its turn.")
    q: float = column("Q̂(s, a), the reward; not paid where truncated.", unit="discounted outcomes")
    kl: float = column(
        "Σ_t log π(a_t|·) − log π_ref(a_t|·) at sampling (k1); 0 without a reference (β = 0).",
        unit="nat",
    )
    advantage: float = column(
        "Mean of the token advantages, before whitening.", unit="discounted outcomes"
    )
