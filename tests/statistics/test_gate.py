"""The gate: everything must hold, and what is not known does not."""

import dataclasses
import math

import pytest

from iterppo.statistics.evaluation import Estimate
from iterppo.statistics.gate import Decision, decide, improvement, kl_budget, q_verdict
from iterppo.statistics.guardrails import Guardrail
from iterppo.statistics.off_policy import Interval

BETTER = Estimate("dr", "logged", 1.0, Interval(0.4, 0.3, 0.5), Interval(0.1, 0.02, 0.2), None, 500)
WORSE = Guardrail("pressure", "block", "more", 0.0, 0.3, 0.1, 0.2, 0.1, 0.3, 0.001, 0.006, True)


def decision(
    *,
    estimate: Estimate | None = BETTER,
    tolerance: float = 0.0,
    kl: float | None = 2.0,
    verdict: str | None = "usable",
    guarded: tuple[Guardrail, ...] = (dataclasses.replace(WORSE, fails=False),),
) -> Decision:
    return decide(
        improvement=improvement(estimate, tolerance=tolerance),
        kl=kl_budget(kl, budget=10.0),
        verdict=q_verdict(verdict, least="weak"),
        guarded=guarded,
        expects_guardrails=True,
    )


def test_a_better_policy_ships_and_the_reason_is_on_one_line() -> None:
    found = decision()

    assert found.ships
    assert found.reason == (
        "improvement +0.100 [+0.020, +0.200] by dr, logged log-probabilities; KL 2.00 nat of 10; "
        "Q is usable"
    )


UNSURE = dataclasses.replace(BETTER, difference=Interval(0.1, -0.02, 0.2))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param(
            {"estimate": UNSURE},
            "improvement +0.100 [-0.020, +0.200] by dr, logged log-probabilities, not shown to be "
            "above 0",
            id="not shown to be better",
        ),
        pytest.param(
            {"estimate": None},
            "no method can say from this log whether it is better",
            id="nobody can say",
        ),
        pytest.param({"kl": 10.5}, "KL 10.50 nat exceeds 10", id="too far"),
        pytest.param({"kl": None}, "its KL from the old policy is not known", id="unknown"),
        pytest.param({"verdict": "noise"}, "Q is noise, not weak", id="noise"),
        pytest.param(
            {"verdict": None},
            "the verdict on Q is not known (name its artifact: --q)",
            id="no verdict",
        ),
        pytest.param(
            {"guarded": (WORSE,)},
            "guardrail pressure got worse: 0.3 where it was 0.1 (p = 0.006)",
            id="a guardrail",
        ),
        pytest.param(
            {"guarded": ()},
            "no state in which both policies made suggestions",
            id="nothing to compare",
        ),
    ],
)
def test_one_criterion_that_fails_holds(changes: dict[str, object], said: str) -> None:
    found = decision(**changes)  # type: ignore[arg-type]

    assert not found.ships
    assert found.reason == said


def test_a_loss_within_the_tolerance_ships() -> None:
    assert decision(estimate=UNSURE, tolerance=0.05).ships


def test_a_guardrail_that_only_warns_is_told_and_holds_nothing() -> None:
    found = decision(guarded=(dataclasses.replace(WORSE, action="warn"),))

    assert found.ships
    assert found.warnings == ["guardrail pressure got worse: 0.3 where it was 0.1 (p = 0.006)"]


def test_what_nobody_asks_for_is_no_criterion() -> None:
    assert kl_budget(math.inf, budget=0.0) is None
    nothing = kl_budget(-1e-9, budget=10.0)
    assert nothing is not None
    assert nothing.said == "KL 0.00 nat of 10"
    assert q_verdict("noise", least="any") is None
