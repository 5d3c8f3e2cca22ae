"""Whether the logit of an implicit reward model knows anything of the outcome.

Shapes: N conversations.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from iterppo.statistics.intervals import percentile_interval
from iterppo.statistics.regression import auc, auc_interval
from iterppo.statistics.resampling import Array, Resamples


def diagnose_credit(
    logit: Sequence[float], outcome: Sequence[float], *, base_rate: float, samples: int, seed: int
) -> dict[str, float | None]:
    """The prediction σ(logit) of conversations, beside that of the base rate.

    `bce_gain` is the cross-entropy of the base rate less that of the model, in nats per
    conversation: above 0 where the model knows more than how often conversations succeed. Kendall's
    τ (τ-b) is that of the logit, which is the sum of the implicit rewards, with the outcome. AUC
    takes an outcome above ½ for a success. The logit's range tells whether the fit has run away: a
    model that is sure of everything has logits without limit, and without normalisation those are
    the rewards. Intervals are 95 %, by resampling conversations.

    Args:
        logit: Σ_k R_k^imp of each conversation.
        outcome: R, in [0, 1].
        base_rate: Mean outcome of the training conversations.
        samples: Resamples.
        seed: Of them.

    Returns:
        By name; None where a number is not known.

    >>> found = diagnose_credit([2.0, -2.0, 1.0], [1.0, 0.0, 1.0], base_rate=0.5, samples=0, seed=0)
    >>> found["auc"], round(found["kendall_tau"], 3), round(found["bce"], 3), found["logit_highest"]
    (1.0, 0.816, 0.189, 2.0)
    """
    z, r = np.asarray(logit, dtype=float), np.asarray(outcome, dtype=float)
    resamples = Resamples.of(np.arange(len(z)), samples=samples, seed=seed)
    model_N = np.logaddexp(0.0, z) - r * z
    sure = float(np.clip(base_rate, 1e-9, 1 - 1e-9))
    base_N = -(r * math.log(sure) + (1 - r) * math.log1p(-sure))
    gain_N = base_N - model_N
    success_N, one_N = r > 0.5, np.ones(len(z))
    draws = [np.repeat(np.arange(len(z)), t.astype(int)) for b in resamples.times() for t in b]
    gains = np.array([gain_N[drawn].mean() for drawn in draws])
    taus = np.array([_tau(z[drawn], r[drawn]) for drawn in draws])
    auc_low, auc_high = auc_interval(z, success_N, one_N, resamples)
    found = {
        "num_conversations": float(len(z)),
        "outcome_mean": _mean(r),
        "base_rate": base_rate,
        "bce": _mean(model_N),
        "bce_base_rate": _mean(base_N),
        "bce_gain": _mean(gain_N),
        **_interval("bce_gain", gains),
        "kendall_tau": _tau(z, r),
        **_interval("kendall_tau", taus),
        "auc": auc(z, success_N),
        "auc_low": auc_low,
        "auc_high": auc_high,
        "logit_mean": _mean(z),
        "logit_lowest": float(z.min(initial=math.inf)),
        "logit_highest": float(z.max(initial=-math.inf)),
        "logit_spread": float(z.std()) if len(z) else math.nan,
    }
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def _tau(logit: Array, outcome: Array) -> float:
    """τ-b; NaN where one of the two does not vary."""
    if len(logit) < 2 or np.ptp(logit) == 0 or np.ptp(outcome) == 0:
        return math.nan
    return float(stats.kendalltau(logit, outcome).statistic)


def _interval(name: str, values: Array) -> dict[str, float]:
    low, high = percentile_interval(values)
    return {f"{name}_low": low, f"{name}_high": high}


def _mean(values: Array) -> float:
    return float(values.mean()) if len(values) else math.nan
