"""What the runs of `benchmarks.itpo` say about ITPO's claims: claims[name] = {holds, value,
interval, …}.

A claim of a difference holds where its 95 % interval is on the claimed side of nothing; `opposite`
says that the interval is on the other side, and the contrary was seen.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.itpo_statistics import Estimate, over_seeds
from benchmarks.itpo_study import estimate

Claims = dict[str, dict[str, Any]]
REPORTED_TAU = (0.5, 0.75)
DRIFT = 1.25
"""A scale that grows by less is not called drifting."""


def study_claims(environment: str, studies: Sequence[Mapping[str, Any]]) -> Claims:
    """About credit."""

    def of(*path: str) -> list[Estimate]:
        found = []
        for run in studies:
            content: Any = run
            for key in path:
                content = content[key]
            found.append(estimate(content))
        return found

    claims: Claims = {
        "turn sums rank more stably than token rewards": _claim(
            of("stability_gain"), "mean difference of Spearman with the last checkpoint"
        ),
        "the scale of plain sums drifts": _claim(
            of("growth"), "spread of Σ_k R_k^imp, last / first checkpoint", above=DRIFT
        ),
        "the scale is steady under PRIME's batch normalisation": _claim(
            of("growth_batch"),
            "the same after division by the batch's scale",
            holds=lambda low, high: low > 1 / DRIFT and high < DRIFT,
        ),
        "Norm-ITPO pays exactly the outcome": _claim(
            [Estimate(run["norm_error"], 0.0) for run in studies],
            "largest |Σ_k R_k − R|",
            holds=lambda low, high: high < 1e-9,
        ),
        "the implicit sum goes with the outcome": _claim(
            of("kendall_tau"),
            "Kendall's τ_b; a binary outcome of this rate allows "
            f"{_mean([run['kendall_bound'] for run in studies]):.3f}",
        ),
        "Kendall's τ is as reported, .5 to .75": _claim(
            of("kendall_tau"),
            "Kendall's τ_b",
            holds=lambda low, high: low <= REPORTED_TAU[1] and high >= REPORTED_TAU[0],
        ),
    }
    for which in ("best", "worst"):
        for score, method in (("sum", "ITPO"), ("mean", "Norm-ITPO's mean"), ("mc-q", "MC-Q")):
            claims[f"{method} finds the {which} turn more often than guessing"] = _claim(
                of(f"{which}_over_uniform", score), "difference of hit rates"
            )
        claims[f"ITPO finds the {which} turn more often than MC-Q at equal data"] = _claim(
            of(f"{which}_over_mc_q", "sum"), "difference of hit rates"
        )
    return {f"{environment}: {name}": claim for name, claim in claims.items()}


def learning_claims(
    environment: str, curves: Mapping[tuple[str, str], Sequence[Sequence[Mapping[str, float]]]]
) -> Claims:
    """About learning: `curves` by estimator and method, one curve a seed."""
    claims: Claims = {}
    for estimator in sorted({estimator for estimator, _ in curves}):
        for method, other in (
            ("norm-itpo-sum", "outcome"),
            ("norm-itpo-mean", "outcome"),
            ("itpo", "outcome"),
            ("norm-itpo-sum", "itpo"),
            ("norm-itpo-sum", "prime"),
            ("norm-itpo-sum", "uniform"),
            ("norm-itpo-sum", "mc-q"),
        ):
            ours, theirs = curves.get((estimator, method)), curves.get((estimator, other))
            if ours and theirs:
                differences = [
                    _difference(late_success(one), late_success(two))
                    for one, two in zip(ours, theirs, strict=False)
                ]
                name = f"{environment}, {estimator}: {method} learns faster than {other}"
                claims[name] = _claim(
                    differences, "difference of success over the last third of the updates"
                )
    return claims


def late_success(curve: Sequence[Mapping[str, float]]) -> Estimate:
    """Success over the last third of the updates, which is what was learned until then."""
    late = curve[-max(1, len(curve) // 3) :]
    square = sum(point["standard_error"] ** 2 for point in late)
    return Estimate(_mean([point["success"] for point in late]), math.sqrt(square) / len(late))


def _difference(one: Estimate, two: Estimate) -> Estimate:
    return Estimate(one.value - two.value, math.hypot(one.standard_error, two.standard_error))


def _claim(
    estimates: Sequence[Estimate],
    what: str,
    *,
    above: float = 0.0,
    holds: Callable[[float, float], bool] | None = None,
) -> dict[str, Any]:
    value, (low, high) = over_seeds(estimates)
    return {
        "holds": bool(holds(low, high) if holds else low > above),
        "opposite": holds is None and high < 0,
        "value": float(f"{value:.4g}"),
        "interval": [float(f"{low:.4g}"), float(f"{high:.4g}")],
        "of": what,
        "seeds": len(estimates),
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
