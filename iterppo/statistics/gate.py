"""May the new policy be shipped? Every criterion must hold, and what is not known does not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from iterppo.statistics.evaluation import Estimate
from iterppo.statistics.guardrails import Guardrail

Verdict = Literal["any", "weak", "usable"]
_RANKS = {"noise": 0, "weak": 1, "usable": 2}


@dataclass(frozen=True)
class Criterion:
    """One of the conditions."""

    name: str
    holds: bool
    said: str
    """What was found, for people."""


@dataclass(frozen=True)
class Decision:
    """Of the gate."""

    criteria: list[Criterion]
    warnings: list[str]

    @property
    def ships(self) -> bool:
        """Whether every criterion holds."""
        return all(each.holds for each in self.criteria)

    @property
    def reason(self) -> str:
        """On one line: what failed, or what spoke for it."""
        return "; ".join(each.said for each in self.criteria if each.holds == self.ships)

    def told(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ship": self.ships,
            "reason": self.reason,
            "criteria": [asdict(each) for each in self.criteria],
            "warnings": self.warnings,
        }


def improvement(estimate: Estimate | None, *, tolerance: float) -> Criterion:
    """Is the new policy shown to be better: does the lower end of the 95 % interval of the
    improvement lie above −tolerance? A policy that is truly worse (by more than the tolerance)
    passes in 2.5 % of logs.

    Args:
        estimate: The one that decides; None: no method has an answer.
        tolerance: Loss that is put up with, in discounted outcomes a conversation.
    """
    if estimate is None:
        return Criterion(
            "improvement", False, "no method can say from this log whether it is better"
        )
    _, low, high = estimate.difference
    by = estimate.method + (f", {estimate.logprobs} log-probabilities" if estimate.logprobs else "")
    limit = f"{-tolerance:g}" if tolerance else "0"
    holds = low > -tolerance
    said = (
        f"improvement {estimate.difference.value:+.3f} [{low:+.3f}, {high:+.3f}] by {by}"
        f"{'' if holds else f', not shown to be above {limit}'}"
    )
    return Criterion("improvement", holds, said)


def kl_budget(kl: float | None, *, budget: float) -> Criterion | None:
    """Is the new policy within the budget of the old one's neighbourhood? None: no budget.

    Args:
        kl: KL(π_{k+1} ‖ π_k) per suggestion, in nats; None: unknown.
        budget: In nats; 0: none.
    """
    if budget == 0:
        return None
    if kl is None:
        return Criterion("kl", False, "its KL from the old policy is not known")
    return Criterion(
        "kl", kl <= budget, f"KL {kl:z.2f} nat {'of' if kl <= budget else 'exceeds'} {budget:g}"
    )


def q_verdict(verdict: str | None, *, least: Verdict) -> Criterion | None:
    """Was the Q that it was trained on worth climbing? None: nobody asks."""
    if least == "any":
        return None
    if verdict not in _RANKS:
        return Criterion("q", False, "the verdict on Q is not known (name its artifact: --q)")
    holds = _RANKS[verdict] >= _RANKS[least]
    return Criterion("q", holds, f"Q is {verdict}{'' if holds else f', not {least}'}")


def decide(
    *,
    improvement: Criterion,
    kl: Criterion | None,
    verdict: Criterion | None,
    guarded: Sequence[Guardrail],
    expects_guardrails: bool,
    warnings: Sequence[str] = (),
) -> Decision:
    """Put the criteria together.

    Args:
        improvement: Of the value.
        kl: None: not asked for.
        verdict: None: not asked for.
        guarded: What the guardrails showed.
        expects_guardrails: Whether any is on.
        warnings: What else whoever decides should know.
    """
    criteria = [improvement, *(each for each in (kl, verdict) if each is not None)]
    told = list(warnings)
    if expects_guardrails and not guarded:
        criteria.append(
            Criterion("guardrails", False, "no state in which both policies made suggestions")
        )
    for each in guarded:
        if not each.fails:
            continue
        said = (
            f"guardrail {each.name} got worse: {each.new:.3g} where it was {each.old:.3g} "
            f"(p {'< 1e-6' if each.p_value_holm < 1e-6 else f'= {each.p_value_holm:.2g}'})"
        )
        if each.action == "block":
            criteria.append(Criterion(each.name, False, said))
        else:
            told.append(said)
    return Decision(criteria, told)
