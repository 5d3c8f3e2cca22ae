"""What a Q̂ is worth on held-out conversations: all numbers, their intervals, and a verdict.

Held-out turns, with what the training turns give -> a dictionary for metrics.json.

Shapes: N held-out turns; S states with K sampled actions each.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from iterppo.statistics.action_sensitivity import action_share, length_sensitivity
from iterppo.statistics.calibration import calibration, calibration_by_group
from iterppo.statistics.discrimination import discrimination
from iterppo.statistics.regression import (
    auc,
    auc_interval,
    correlation,
    explained_variance,
    explained_variance_interval,
)
from iterppo.statistics.resampling import Array, Resamples
from iterppo.statistics.verdict import judge

LAST_TURN = 6  # this and later turns are one group


@dataclass(frozen=True)
class HeldOut:
    """Held-out turns, one entry each, in any order.

    `state` names what the model saw before the action (a hash of the rendered state), `matched` a
    coarser state (turn number and the customer's last message). `action` is the text; `q` is Q̂,
    `state_value` the estimate of a model that sees the state alone (None: there is no such model).
    `return_` is NaN or None where it is unknown. `segments`: name -> label of each turn.
    """

    conversation_id: Sequence[str]
    turn: Sequence[int]
    state: Sequence[Any]
    matched: Sequence[Any]
    action: Sequence[str]
    q: Sequence[float]
    state_value: Sequence[float] | None
    return_: Sequence[float | None]
    weight: Sequence[float]
    segments: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    unit: Sequence[str] | None = None
    """What is independent of all else: the customer, where the log names them; None: the
    conversation."""

    def __post_init__(self) -> None:
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        columns.update(columns.pop("segments"))
        lengths = {name: len(column) for name, column in columns.items() if column is not None}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of different lengths: {lengths}")

    def __len__(self) -> int:
        return len(self.conversation_id)


@dataclass(frozen=True)
class SampledActions:
    """Q̂ (S, K) and length in tokens (S, K) of actions sampled from the policy at held-out states;
    NaN where none was. `conversation_id_S` is the conversation of each state, or its customer;
    without it each state counts as one of its own."""

    q_SK: Array
    length_SK: Array
    conversation_id_S: Sequence[str] | None = None

    def __post_init__(self) -> None:
        shapes = np.shape(self.q_SK), np.shape(self.length_SK)
        if shapes[0] != shapes[1] or len(shapes[0]) != 2:
            raise ValueError(f"q_SK and length_SK have shapes {shapes[0]} and {shapes[1]}")
        if self.conversation_id_S is not None and len(self.conversation_id_S) != shapes[0][0]:
            raise ValueError(
                f"{len(self.conversation_id_S)} conversations of {shapes[0][0]} states"
            )


def diagnose(
    heldout: HeldOut,
    *,
    constant: float,
    turn_means: Mapping[int, float],
    sampled: SampledActions | None,
    samples: int,
    seed: int,
) -> dict[str, Any]:
    """All diagnostics, ready for JSON: a number that cannot be computed is None, never NaN.

    `x_low` and `x_high` are the ends of the 95 % interval of `x`, bootstrapped by conversation, or
    by customer: conversations of one customer are alike, and `num_independent` counts customers.
    Turns of unknown return or without weight are left out and counted in `num_turns_left_out`;
    turns where Q̂ is not finite in `num_turns_q_not_finite`, which makes the verdict `noise`.

    Args:
        heldout: Turns that Q̂ was not fitted on.
        constant: Weighted mean return of the training turns.
        turn_means: The same by turn number; a turn that is missing has the constant.
        sampled: Actions of the policy at held-out states, if there are any.
        samples: Resamples of the conversations.
        seed: Of the resamples, and of the choice of pairs where there are too many.
    """
    rows, num_left_out, num_not_finite = _rows(heldout)
    turns = _Turns.of(heldout, rows)
    q, v, g, w = turns.q, turns.state_value, turns.return_, turns.weight
    resamples = Resamples.of(turns.conversation_id, samples=samples, seed=seed, units=turns.unit)
    by_turn = np.array([turn_means.get(int(turn), constant) for turn in turns.turn], dtype=float)
    found: dict[str, Any] = {
        "num_turns": len(rows),
        "num_conversations": resamples.num_conversations,
        "num_independent": resamples.num_units,
        "num_turns_left_out": num_left_out,
        "num_turns_q_not_finite": num_not_finite,
        "num_turns_positive": int(np.sum(g > 0)),
        "return_mean": _mean(g, w),
        "return_min": _or_nan(g, np.min),
        "return_max": _or_nan(g, np.max),
        "q_mean": _mean(q, w),
        "q_min": _or_nan(q, np.min),
        "q_max": _or_nan(q, np.max),
        "constant": constant,
        "mse": _mean((g - q) ** 2, w),
        "mse_constant": _mean((g - constant) ** 2, w),
        "mse_turn_means": _mean((g - by_turn) ** 2, w),
        "mse_state_only": math.nan if v is None else _mean((g - v) ** 2, w),
    }
    for name, prediction, baseline in (
        ("explained_variance", q, constant),
        ("explained_variance_over_turn_means", q, by_turn),
        ("explained_variance_over_state_only", q, v),
        ("state_only_explained_variance", v, constant),
    ):
        found |= _estimate(name, *_explained(prediction, baseline, g, w, resamples))
    found["better_than_constant"] = bool(found["explained_variance_low"] > 0)
    found |= _estimate("correlation", *correlation(q, g, w, resamples))
    found |= _estimate("auc", auc(q, g > 0, w), *auc_interval(q, g > 0, w, resamples))
    found |= _calibration(turns, resamples)
    found |= _discrimination(turns, resamples, seed=seed)
    found |= _sampled(sampled, samples=samples, seed=seed)
    length = np.array([float(len(action)) for action in turns.action])
    found |= _estimate("residual_length_correlation", *correlation(g - q, length, w, resamples))
    found = _json_ready(found)
    verdict = judge(found)
    return found | {"verdict": verdict.verdict, "verdict_reason": verdict.reason}


@dataclass(frozen=True)
class _Turns:
    """The turns that count, ordered by conversation and turn, keys as numbers."""

    conversation_id: Array
    turn: Array
    state: Array
    matched: Array
    action_number: Array
    action: list[str]
    q: Array
    state_value: Array | None
    return_: Array
    weight: Array
    segments: dict[str, list[str]]
    unit: Array | None

    @classmethod
    def of(cls, heldout: HeldOut, rows: Array) -> _Turns:
        value = heldout.state_value
        v = None if value is None else _floats(value)[rows]
        action = [heldout.action[row] for row in rows]
        return cls(
            conversation_id=np.asarray(heldout.conversation_id, dtype=str)[rows],
            turn=np.asarray(heldout.turn, dtype=int)[rows],
            state=_numbered(heldout.state[row] for row in rows),
            matched=_numbered(heldout.matched[row] for row in rows),
            action_number=_numbered(action),
            action=action,
            q=_floats(heldout.q)[rows],
            state_value=v if v is not None and np.isfinite(v).all() else None,
            return_=_floats(heldout.return_)[rows],
            weight=_floats(heldout.weight)[rows],
            segments={
                name: ["(none)" if labels[row] is None else str(labels[row]) for row in rows]
                for name, labels in heldout.segments.items()
            },
            unit=None if heldout.unit is None else np.asarray(heldout.unit, dtype=str)[rows],
        )


def _rows(heldout: HeldOut) -> tuple[Array, int, int]:
    """The turns that count, by conversation and turn, so that the order they come in does not
    matter; the number of those of unknown return, and of those whose Q̂ is not finite."""
    g, w = _floats(heldout.return_), _floats(heldout.weight)
    known = np.isfinite(g) & np.isfinite(w) & (w > 0)
    finite = np.isfinite(_floats(heldout.q))
    chosen = np.flatnonzero(known & finite)
    ids = np.asarray(heldout.conversation_id, dtype=str)[chosen]
    order = np.lexsort((np.asarray(heldout.turn, dtype=int)[chosen], ids))
    return chosen[order], int(np.sum(~known)), int(np.sum(known & ~finite))


def _explained(
    prediction: Array | None,
    baseline: Array | float | None,
    g: Array,
    w: Array,
    resamples: Resamples,
) -> tuple[float, float, float]:
    if prediction is None or baseline is None:
        return math.nan, math.nan, math.nan
    low, high = explained_variance_interval(prediction, g, w, resamples, baseline=baseline)
    return explained_variance(prediction, g, w, baseline=baseline), low, high


def _calibration(turns: _Turns, resamples: Resamples) -> dict[str, Any]:
    columns = turns.q, turns.return_, turns.weight, resamples
    found = calibration(*columns)
    turn = [f"{LAST_TURN}+" if turn >= LAST_TURN else str(turn) for turn in turns.turn]
    return {
        **_estimate("calibration_error", found.error, found.low, found.high),
        "calibration_error_by_chance": found.by_chance,
        "calibration_error_by_chance_high": found.by_chance_high,
        "calibration_curve": found.curve,
        "by_turn": calibration_by_group(turn, *columns),
        "by_segment": {
            name: calibration_by_group(labels, *columns) for name, labels in turns.segments.items()
        },
    }


def _discrimination(turns: _Turns, resamples: Resamples, *, seed: int) -> dict[str, Any]:
    found = discrimination(
        turns.q,
        turns.state_value,
        turns.return_,
        turns.weight,
        state=turns.state,
        matched=turns.matched,
        action=turns.action_number,
        resamples=resamples,
        seed=seed,
    )
    return {
        **_estimate("discrimination", found.share, found.low, found.high),
        **_estimate("discrimination_gain", found.gain, found.gain_low, found.gain_high),
        "discrimination_pairs": found.num_pairs,
        "discrimination_conversations": found.num_conversations,
        "discrimination_matched_by": found.matched_by,
    }


def _sampled(sampled: SampledActions | None, *, samples: int, seed: int) -> dict[str, Any]:
    if sampled is None:
        share = by_tokens = slope = (math.nan, math.nan, math.nan)
        num_states, mean = 0, math.nan
    else:
        q_SK, length_SK = (_floats(each) for each in (sampled.q_SK, sampled.length_SK))
        q_SK = np.where(np.isfinite(q_SK), q_SK, np.nan)
        num_states = len(q_SK)
        known = q_SK[np.isfinite(q_SK)]
        mean = _mean(known, np.ones(len(known)))
        ids = (
            sampled.conversation_id_S
            if sampled.conversation_id_S is not None
            else range(num_states)
        )
        resamples = Resamples.of(ids, samples=samples, seed=seed)
        share = action_share(q_SK, resamples)
        by_tokens, slope = length_sensitivity(q_SK, length_SK, resamples)
    return {
        "num_states_sampled": num_states,
        "sampled_q_mean": mean,
        **_estimate("action_share", *share),
        **_estimate("length_correlation", *by_tokens),
        **_estimate("q_per_10_tokens", *slope),
    }


def _estimate(name: str, value: float, low: float, high: float) -> dict[str, float]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def _floats(values: Any) -> Array:
    return np.asarray(values, dtype=float)  # None becomes NaN


def _numbered(keys: Iterable[Any]) -> Array:
    """Equal keys, equal numbers, in the order of appearance."""
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=int)


def _mean(values: Array, weight: Array) -> float:
    return float(np.average(values, weights=weight)) if len(values) else math.nan


def _or_nan(values: Array, of: Any) -> float:
    return float(of(values)) if len(values) else math.nan


def _json_ready(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json_ready(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_json_ready(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
