"""All estimates of a new policy's value from the log of another one, or why there is none.

    LoggedConversation … by source of the log-probabilities -> Estimate …

| method | needs |
|---|---|
| fqe | a Q fitted for the new policy, an ensemble, not noise; conversations that it has not seen |
| wis | log-probabilities of both policies; overlap |
| dr | the same, and Q at turns of conversations that it has not seen; Q may be any |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from iterppo.statistics import FEWEST_CONVERSATIONS
from iterppo.statistics.fitted_value import fitted_value
from iterppo.statistics.off_policy import (
    SAMPLES,
    Interval,
    OffPolicyValue,
    doubly_robust,
    logged_value,
    weighted_importance_sampling,
)
from iterppo.statistics.off_policy_log import LoggedConversation, OffPolicyLog, arrays
from iterppo.statistics.overlap import (
    Limits,
    overlap,
    turn_overlap,
    unsupported,
)

MOST_MISSING = 0.01
"""Share of the conversations that may lack a log-probability; they are left out."""
LOGPROBS = ("logged", "recomputed")
NO_Q = "no Q was fitted for the new policy (--fqe)"
UNKNOWN = Interval(math.nan, math.nan, math.nan)

Method = Literal["dr", "wis", "fqe"]
IN_TURN: tuple[Method, ...] = ("dr", "wis", "fqe")
"""Who decides where several have an answer: the one that needs least to be right."""


@dataclass(frozen=True)
class FittedQ:
    """What is known of the Q that was fitted for the new policy."""

    gamma: float
    """Of the returns that it was fitted with."""
    trouble: str | None = None
    """Why its value must not be told."""


@dataclass(frozen=True)
class Estimate:
    """A row of the evaluation artifact."""

    method: str
    """dr, wis, fqe; or `behaviour`: the mean return of the policy that made the log."""
    logprobs: str | None
    """logged or recomputed: where those of the old policy are from."""
    gamma: float
    value: Interval
    difference: Interval
    reason: str | None
    """Why there is no number."""
    num_conversations: int
    effective_sample_size: float | None = None
    max_weight_share: float | None = None
    share_in_range: float | None = None
    mean_ratio: float | None = None

    @property
    def supported(self) -> bool:
        """Whether there is a number."""
        return self.reason is None


def estimates(
    logs: Mapping[str, Sequence[LoggedConversation]],
    *,
    fitted: FittedQ | None,
    limits: Limits,
    gamma: float,
    seed: int,
    samples: int = SAMPLES,
) -> list[Estimate]:
    """Every method, in the order of IN_TURN, then the behaviour policy's own value.

    Args:
        logs: The same conversations with ratios by each source of log-probabilities.
        fitted: None: no Q was fitted for the new policy.
        limits: Of importance sampling.
        gamma: Discount of wis, dr and behaviour, per turn.
        seed: Of the resampling.
        samples: Resamples.
    """
    found: list[Estimate] = []
    for method in ("dr", "wis"):
        for source, conversations in logs.items():
            if method == "dr" and fitted is None:
                none = Estimate(method, source, gamma, UNKNOWN, UNKNOWN, NO_Q, len(conversations))
                found.append(none)
                continue
            found.append(
                _by_ratios(
                    method,
                    source,
                    conversations,
                    fitted,
                    limits=limits,
                    gamma=gamma,
                    seed=seed,
                    samples=samples,
                )
            )
    plain = arrays([_without_ratios(each) for each in next(iter(logs.values()))])
    found.append(_by_q(_known_ratios(logs), plain, fitted, limits))
    known = int(np.count_nonzero(plain.weight_N))
    why = _too_few(known) or _all_alike(plain)
    behaviour = Estimate("behaviour", None, gamma, UNKNOWN, UNKNOWN, why, known)
    if behaviour.supported:
        value = logged_value(plain, gamma=gamma, seed=seed, samples=samples)
        behaviour = replace(behaviour, value=value)
    return [*found, behaviour]


def decisive(found: Sequence[Estimate], *, method: Method | Literal["auto"]) -> Estimate | None:
    """The estimate that decides; None where no method has an answer.

    What is chosen depends on what the data support, never on what the estimates say.
    """
    for name in IN_TURN if method == "auto" else (method,):
        for each in found:
            if each.method == name and each.supported:
                return each
    return None


def _by_ratios(
    method: str,
    source: str,
    conversations: Sequence[LoggedConversation],
    fitted: FittedQ | None,
    *,
    limits: Limits,
    gamma: float,
    seed: int,
    samples: int,
) -> Estimate:
    if method == "dr":
        conversations = [each for each in conversations if _has_q(each)]
    complete = [each for each in conversations if not np.isnan(each.log_ratio).any()]
    empty = Estimate(method, source, gamma, UNKNOWN, UNKNOWN, None, len(complete))
    missing = len(conversations) - len(complete)
    if not conversations:
        why = "no conversation"
        if method == "dr":
            trouble = None if fitted is None else fitted.trouble
            why = trouble or "no conversation that Q was not fitted on"
        return replace(empty, reason=why)
    if missing > MOST_MISSING * len(conversations):
        where = "in the log" if source == "logged" else "by the policy that is said to have made it"
        return replace(
            empty,
            reason=f"{missing} of {len(conversations)} conversations have turns without a "
            f"log-probability {where}, or whose suggestion was cut off",
        )
    log = arrays(complete)
    seen = overlap(log, limits)
    filled = replace(
        empty,
        num_conversations=seen.num_conversations,
        effective_sample_size=seen.effective_sample_size,
        max_weight_share=seen.max_weight_share,
        share_in_range=seen.share_in_range,
        mean_ratio=seen.mean_ratio,
        reason=unsupported(seen, limits) or _all_alike(log),
    )
    if not filled.supported:
        return filled
    estimate = doubly_robust if method == "dr" else weighted_importance_sampling
    return _with(filled, estimate(log, gamma=gamma, seed=seed, samples=samples))


def _by_q(
    known: Sequence[LoggedConversation] | None,
    plain: OffPolicyLog,
    fitted: FittedQ | None,
    limits: Limits,
) -> Estimate:
    """By Q alone, in whose equation the ratios are a check where they are known."""
    log = plain if known is None else arrays(known)
    gamma = 1.0 if fitted is None else fitted.gamma
    num = int(np.isfinite(log.first_NM).all(axis=1).sum()) if log.first_NM.shape[1] else 0
    share = turn_overlap(log)
    few = _too_few(min(num, int(np.count_nonzero(log.weight_N)))) or _all_alike(log)
    if fitted is None:
        why: str | None = NO_Q
    elif fitted.trouble is not None:
        why = fitted.trouble
    elif num and log.first_NM.shape[1] < 2:
        why = "Q has one member, so nobody knows how sure it is: fit-q.members of 2 or more"
    elif few is not None:
        why = few
    elif limits.least_turn_overlap > 0 and known is None:
        why = "without log-probabilities nothing shows whether Q is right where the new policy goes"
    elif share < limits.least_turn_overlap:
        why = (
            f"effective share of the turns {share:.2g}, below {limits.least_turn_overlap:g}: "
            "nothing shows whether Q is right where the new policy goes"
        )
    else:
        why = None
    empty = Estimate("fqe", None, gamma, UNKNOWN, UNKNOWN, why, num)
    return _with(empty, fitted_value(log, gamma=gamma).value) if why is None else empty


def _known_ratios(
    logs: Mapping[str, Sequence[LoggedConversation]],
) -> list[LoggedConversation] | None:
    """The conversations of the first source that lacks hardly any log-probability; None where none
    does."""
    for conversations in logs.values():
        complete = [each for each in conversations if not np.isnan(each.log_ratio).any()]
        if len(conversations) - len(complete) <= MOST_MISSING * len(conversations):
            return complete
    return None


def _with(estimate: Estimate, found: OffPolicyValue) -> Estimate:
    if not all(map(math.isfinite, (*found.value, *found.difference))):
        return replace(estimate, reason="the estimate is not a finite number")
    return replace(estimate, value=found.value, difference=found.difference)


def _too_few(number: int) -> str | None:
    if number >= FEWEST_CONVERSATIONS:
        return None
    return f"{number} conversations with a known outcome; {FEWEST_CONVERSATIONS} are needed"


def _all_alike(log: OffPolicyLog) -> str | None:
    """Resamples of outcomes that do not vary are all alike: an interval of them has no width, and
    looks certain."""
    known = log.returns(gamma=1.0)[log.weight_N > 0]
    if len(known) == 0 or np.ptp(known) > 0:
        return None
    return f"every known outcome is {known[0]:.3g}, so nothing tells how sure that is"


def _has_q(conversation: LoggedConversation) -> bool:
    return any(math.isfinite(value) for value in conversation.q)


def _without_ratios(conversation: LoggedConversation) -> LoggedConversation:
    return replace(conversation, log_ratio=[0.0] * len(conversation.reward))


def agreement(
    logged: Sequence[float], recomputed: Sequence[float], *, tolerance: float
) -> dict[str, Any]:
    """Do recomputed log-probabilities repeat the logged ones? Of the turns that have both.

    Args:
        logged: log b(a|s) as it was recorded, in nats; NaN where it was not.
        recomputed: log b(a|s) by the policy that is said to have made the log.
        tolerance: Difference that counts as none, in nats.

    >>> found = agreement([-1.0, -2.0, math.nan], [-1.0, -2.5, -3.0], tolerance=0.1)
    >>> found["num_turns"], found["share_apart"], found["median_difference"]
    (2, 0.5, -0.25)
    """
    one, other = np.asarray(logged, dtype=float), np.asarray(recomputed, dtype=float)
    both = np.isfinite(one) & np.isfinite(other)
    difference = (other - one)[both]
    num = len(difference)
    return {
        "num_turns": num,
        "share_apart": float(np.mean(np.abs(difference) > tolerance)) if num else math.nan,
        "median_difference": float(np.median(difference)) if num else math.nan,
    }
