"""What an A/B test showed: each arm by itself, and its difference to the first.

    Arm … -> a dictionary that is the command's JSON

Shapes: N conversations, A kinds of adoption.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from iterppo.contracts.trajectories import ADOPTIONS
from iterppo.logs.arms import Arm
from iterppo.statistics.always_valid import rate_variance
from iterppo.statistics.covariate import Adjusted, adjust
from iterppo.statistics.heterogeneity import heterogeneity_p_value
from iterppo.statistics.holm import holm
from iterppo.statistics.intervals import newcombe_interval, wilson_interval
from iterppo.statistics.outcome_effect import Effect, Outcomes, outcome_effect
from iterppo.statistics.resampling import Array
from iterppo.statistics.sample_ratio import LEAST_P_VALUE, sample_ratio_p_value
from iterppo.statistics.two_samples import Estimate, Sample, ratio_differences, ratios

LEVEL = 0.95
MOST_SEGMENTS = 10
"""The largest; the others are one segment together."""
OTHERS = "(others)"
MEASURES = ("return", "turns_to_outcome", *(f"adoption_{kind}" for kind in ADOPTIONS))


@dataclass(frozen=True)
class Question:
    """How the arms are to be compared."""

    sequential_scale: float | None = None
    """τ of the always-valid interval, in outcomes a conversation; None: for one look."""
    covariates: Sequence[Array] | None = None
    """By arm and conversation, NaN where not known; None: no adjustment."""


def sample_ratio(arms: Sequence[Arm], expected: Sequence[float]) -> dict[str, Any]:
    """Sizes of the arms beside their plan.

    What is counted is what was assigned: clusters, where each lies in one arm (a customer who comes
    back is no new draw), else conversations, the open ones among them.
    """
    clusters = [set(arm.cluster_N.tolist()) for arm in arms if arm.cluster_N is not None]
    by_cluster = bool(clusters) and len(set().union(*clusters)) == sum(map(len, clusters))
    counts = [len(each) for each in clusters] if by_cluster else [len(arm.id_N) for arm in arms]
    p_value = sample_ratio_p_value(counts, expected)
    return {
        "counts": counts,
        "counted": "clusters" if by_cluster else "conversations",
        "expected": list(expected),
        "p_value": p_value,
        "holds": p_value >= LEAST_P_VALUE,
    }


def compare_arms(arms: Sequence[Arm], question: Question) -> dict[str, Any]:
    """Every arm, and every later one's difference to the first.

    The outcome rate decides, so it alone has p-values, corrected by Holm where arms are several.
    The other measures have intervals, each for itself and for one look. Open conversations count in
    adoption, of which all is known, and in nothing else.
    """
    results = [_alone(arm) for arm in arms]
    adjusted = _adjusted(arms, question)
    compared = [
        number
        for number in range(1, len(arms))
        if results[0]["conversations"] and results[number]["conversations"]
    ]
    for number in compared:
        results[number] |= _effect(arms, number, adjusted, question).told()
    p_values = holm([results[number]["p_value"] for number in compared])
    for number, p_value in zip(compared, p_values, strict=True):
        results[number]["p_value_holm"] = p_value
        results[number]["differs"] = p_value <= 1 - LEVEL
    for number in range(1, len(arms)):
        _add(
            results[number],
            "_difference",
            ratio_differences(_sample(arms[number]), _sample(arms[0]), level=LEVEL),
        )
    found: dict[str, Any] = {"level": LEVEL, "arms": results, "open": open_shares(arms)}
    if adjusted is not None:
        known = [np.isfinite(each) for each in question.covariates or ()]
        found["adjustment"] = {
            "theta": adjusted.theta,
            "variance_explained": adjusted.variance_explained,
            "conversations_with_covariate": sum(int(each.sum()) for each in known),
        }
    if arms[0].segment_N is not None:
        found["segments"] = [_segments(arms[number], arms[0]) for number in range(1, len(arms))]
    return found


def _alone(arm: Arm) -> dict[str, Any]:
    ended = ~arm.is_censored_N
    num, outcomes = int(ended.sum()), int(arm.outcome_N[ended].sum())
    result: dict[str, Any] = {
        "trajectories": arm.name,
        "policy_versions": arm.policy_versions,
        "conversations": num,
        "censored": int(arm.is_censored_N.sum()),
        "outcomes": outcomes,
    }
    if unknown := sum(not versions for versions in arm.versions_N):
        result["policy_unknown"] = unknown
    if arm.cluster_N is not None:
        result["clusters"] = len(set(arm.cluster_N.tolist()))
    if num:
        result["rate"] = outcomes / num
        if arm.cluster_N is None:
            result["rate_low"], result["rate_high"] = wilson_interval(outcomes, num, level=LEVEL)
        else:
            own = Sample(*(each[ended] for each in _rate_sample(arm)))
            _, *ends = ratios(own, level=LEVEL)[0]
            result["rate_low"], result["rate_high"] = map(_known, ends)
    _add(result, "", ratios(_sample(arm), level=LEVEL))
    return result


def _add(result: dict[str, Any], suffix: str, estimates: Sequence[Estimate]) -> None:
    """Measures that are known, by their names."""
    for measure, (value, low, high) in zip(MEASURES, estimates, strict=True):
        if math.isfinite(value):
            name = f"{measure}{suffix}"
            result |= {name: value, f"{name}_low": _known(low), f"{name}_high": _known(high)}


def _known(end: float) -> float | None:
    """JSON has no NaN."""
    return end if math.isfinite(end) else None


def _units(arm: Arm) -> Array:
    """What is independent of all else: clusters, or conversations, in this arm alone."""
    if arm.cluster_N is not None:
        return arm.cluster_N
    return np.asarray([f"{arm.name}:{number}" for number in range(len(arm.id_N))], dtype=object)


def _rate_sample(arm: Arm) -> Sample:
    known = ~arm.is_censored_N
    return Sample(np.nan_to_num(arm.outcome_N)[:, None], known[:, None].astype(float), _units(arm))


def _sample(arm: Arm) -> Sample:
    """The measures as ratios; those of adoption are shares of the turns that say what became of a
    suggestion."""
    shown_N = arm.adoption_NA.sum(axis=1)
    above = [np.nan_to_num(arm.return_N), np.nan_to_num(arm.turns_to_outcome_N)]
    below = [np.isfinite(arm.return_N), np.isfinite(arm.turns_to_outcome_N)]
    return Sample(
        np.stack([*above, *arm.adoption_NA.T], axis=1),
        np.stack([*below, *[shown_N] * len(ADOPTIONS)], axis=1).astype(float),
        _units(arm),
    )


def _adjusted(arms: Sequence[Arm], question: Question) -> Adjusted | None:
    """Outcomes of all ended conversations, in order, without what the covariate explains."""
    if question.covariates is None:
        return None
    outcome, arm_number, covariate = [], [], []
    for number, (arm, own) in enumerate(zip(arms, question.covariates, strict=True)):
        ended = ~arm.is_censored_N
        outcome.append(arm.outcome_N[ended])
        covariate.append(own[ended])
        arm_number.append(np.full(int(ended.sum()), number))
    return adjust(*(np.concatenate(each) for each in (outcome, covariate, arm_number)))


def _effect(
    arms: Sequence[Arm], number: int, adjusted: Adjusted | None, question: Question
) -> Effect:
    """The difference of the outcome rates of ended conversations."""
    ended = [~arm.is_censored_N for arm in arms]
    values = [arm.outcome_N[own] for arm, own in zip(arms, ended, strict=True)]
    if adjusted is not None:
        values = np.split(adjusted.value_N, np.cumsum([len(each) for each in values])[:-1])
    one, base = (
        Outcomes(values[k], None if (own := arms[k].cluster_N) is None else own[ended[k]])
        for k in (number, 0)
    )
    return outcome_effect(
        one,
        base,
        is_adjusted=adjusted is not None,
        scale=question.sequential_scale,
        level=LEVEL,
    )


def open_shares(arms: Sequence[Arm]) -> dict[str, Any]:
    """Whether the arms have different shares of open conversations: then those that ended are no
    longer alike, and their rates may differ for that alone."""
    table = np.asarray(
        [[arm.is_censored_N.sum(), (~arm.is_censored_N).sum()] for arm in arms], dtype=float
    )
    p_value = 1.0
    if len(arms) > 1 and table.sum(axis=0).all() and table.sum(axis=1).all():
        p_value = float(stats.chi2_contingency(table, correction=False).pvalue)
    return {"p_value": p_value, "alike": p_value >= LEAST_P_VALUE}


def _segments(arm: Arm, base: Arm) -> dict[str, Any]:
    """The difference within each segment; nothing is corrected for their number, so what is found
    here is a question for the next experiment."""
    assert arm.segment_N is not None
    assert base.segment_N is not None
    names, counts = np.unique(
        np.concatenate([arm.segment_N, base.segment_N]).astype(str), return_counts=True
    )
    largest = names[np.argsort(-counts, kind="stable")][:MOST_SEGMENTS].tolist()
    rows: list[dict[str, Any]] = []
    for name in [*largest, OTHERS]:
        sizes: list[int] = []
        for each in (arm, base):
            assert each.segment_N is not None
            own = ~each.is_censored_N & (
                ~np.isin(each.segment_N, largest) if name == OTHERS else each.segment_N == name
            )
            sizes += [int(each.outcome_N[own].sum()), int(own.sum())]
        if name == OTHERS and sizes[1] + sizes[3] == 0:
            continue
        row: dict[str, Any] = {"segment": name, "conversations": sizes[1]}
        row["base_conversations"] = sizes[3]
        if sizes[1] and sizes[3]:
            low, high = newcombe_interval(*sizes, level=LEVEL)
            row["difference"] = sizes[0] / sizes[1] - sizes[2] / sizes[3]
            row |= {"difference_low": low, "difference_high": high}
            row["variance"] = float(rate_variance(*sizes))
        rows.append(row)
    known = [row for row in rows if "difference" in row]
    p_value = heterogeneity_p_value(
        np.asarray([row["difference"] for row in known]),
        np.asarray([row.pop("variance") for row in known]),
    )
    return {"trajectories": arm.name, "p_value_heterogeneity": p_value, "segments": rows}
