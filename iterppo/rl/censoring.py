"""Inverse-probability-of-censoring weights: an ended conversation also stands for those like it
that were still open when the log was cut.

Long conversations are open more often than short ones, and failed ones longer than successful ones:
an outcome is known at once, a failure only after a silence. So the ended conversations of a log are
no fair sample of all conversations; weighted by one over the probability of having been seen to
their end, they are.

The clock is the number of turns, in steps of half a turn: c_i is step 2i − 1, m_i step 2i. What
came after a step, the next message, the outcome or nothing, is its *fate*. A conversation's
censoring time is the number of its first steps whose fate the log shows; it is seen to its end
where that is all of them. For the weights to be right, censoring must not depend on what would have
come: not on when the outcome was reached, and not on whether it was success or failure. A log that
is read up to its very cut breaks this, since the fate of a step is known after a moment where it is
another message, and after `idle` where it is a silence. Hence it is read `idle` before: by the
cutoff, the fate of every step up to `cutoff − idle` is known, whatever it is. An outcome later than
that has weight 0, as the failures of those days are not known to be any yet. (Simulated: an outcome
in 33 of 100 conversations, of which the log ends after ten times `idle`; the conversations whose
outcome is known have 35, weighted on the unshifted clock 36, on the shifted clock 33.)

What remains assumed: the time between two messages tells nothing of the end to come (given how many
there were), and a silence of `idle` is an end. See Kaplan & Meier (1958) for the estimate; Robins &
Rotnitzky (1992) for the weights and for the interval.

Shapes: T turns of many conversations laid end to end, N conversations, S steps of the clock, from
0. A histogram over S counts the conversations whose clock stopped at that step.
"""

import math
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from iterppo.rl.returns import conversation_lengths

Array = np.ndarray[Any, Any]


class Times(NamedTuple):
    """When the two messages of each turn were written (datetime64; NaT: not known, or no message),
    and up to when the fate of a message is known: the cutoff minus `idle`."""

    customer_T: Array
    sent_T: Array
    fate_known_until: np.datetime64


def steps_seen(
    turn_T: Array, censored_T: Array, answered_T: Array, times: Times | None
) -> tuple[Array, Array]:
    """How many steps of each conversation have a known fate, and whether those are all of it.

    Where the log was not cut by a clock (`times` is None), every fate is known but that of the last
    message of a censored conversation. A message without a time counts as early enough.

    Args:
        turn_T: i of every turn; a conversation begins where it is 1.
        censored_T: Whether the conversation's outcome is unknown.
        answered_T: Whether the business sent anything; where it did not on the last turn, there is
            no step of that message.
        times: Where there is a cutoff.

    Returns:
        Steps and whether the conversation was seen to its end, both of shape (N,).

    Raises:
        ValueError: If turns do not count 1, 2, 3, …

    >>> turn_T, censored_T = np.array([1, 2, 1, 2, 3]), np.array([False, False, True, True, True])
    >>> steps_seen(turn_T, censored_T, np.array([True, True, True, True, False]), None)
    (array([4, 4]), array([ True, False]))
    """
    length_N = conversation_lengths(turn_T)
    last_N = np.cumsum(length_N) - 1
    all_N = 2 * length_N - ~answered_T[last_N]
    seen_N = all_N
    if times is not None and len(last_N):
        until = times.fate_known_until
        late_T = (times.customer_T > until).astype(np.int64) + (times.sent_T > until)
        seen_N = all_N - np.add.reduceat(late_T, last_N + 1 - length_N)
    ended_N = ~censored_T[last_N] & (seen_N == all_N)
    return np.minimum(seen_N, all_N - ~ended_N), ended_N


def censoring_weights(ended_S: Array, censored_S: Array) -> Array:
    """Weight of a conversation that was seen to its end at each step of the clock.

        w_s = 1 / G(s−),    G(s−) = Π_{u<s} (1 − c_u / (n_u − d_u)),    n_u = Σ_{v≥u} (d_v + c_v)

    G is the Kaplan–Meier estimate of the probability that more than s steps are seen of a
    conversation that is long enough; d_u conversations ended at step u, c_u were censored there.
    Who ended at a step is not at risk of being censored at it: ends come before censorings. Without
    censoring all weights are 1. The weights of the ended conversations sum to the number of all
    conversations where the one seen longest was seen to its end, and to less otherwise: nobody
    stands for what lies beyond.

    Args:
        ended_S: d, the number of conversations seen to their end, by step.
        censored_S: c, the number of the others, by step.

    Returns:
        Weights of shape (S,); 0 at steps that nobody was seen to reach.

    Raises:
        ValueError: If the shapes differ.

    >>> censoring_weights(np.array([0, 2, 1]), np.array([0, 1, 0]))
    array([1., 1., 2.])
    """
    risk_S = _at_risk(ended_S, censored_S)
    stay_S = np.ones(len(risk_S))
    np.divide(risk_S - censored_S, risk_S, out=stay_S, where=risk_S > 0)
    survival_S = np.concatenate([[1.0], np.cumprod(stay_S)[:-1]])[: len(stay_S)]
    return np.divide(1.0, survival_S, out=np.zeros(len(survival_S)), where=survival_S > 0)


class Mean(NamedTuple):
    """A mean with its confidence interval; NaN where there are too few conversations."""

    value: float
    low: float
    high: float


def weighted_mean(
    ended_S: Array,
    censored_S: Array,
    total_S: Array,
    square_S: Array,
    *,
    max_weight: float,
    level: float = 0.95,
) -> Mean:
    """Weighted mean, over conversations, of a quantity Y that is known of the ended ones.

        μ = Σ_i w_i Y_i / Σ_i w_i,    w_i = min(1 / G(s_i−), max_weight)

    The interval is normal, with the variance Σ φ_i² / (Σ w_i)² of the influence of each
    conversation, censored ones too, as they take part in the estimate of G:

        φ_i = [i ended] w_i (Y_i − μ) + Σ_u J_u ([i censored at u] − h_u [i at risk at u]),
        J_u = Σ_{j ended after u} w_j (Y_j − μ) / (n_u − d_u − c_u),    h_u = c_u / (n_u − d_u)

    Without censoring it is the usual mean, with the usual interval. A weight that was capped takes
    no part in J.

    Args:
        ended_S: Number of conversations seen to their end, by step.
        censored_S: Number of the others, by step.
        total_S: Σ Y over the ended ones, by step.
        square_S: Σ Y² over the ended ones, by step.
        max_weight: Cap of the weights.
        level: Of the interval.

    Raises:
        ValueError: If the shapes differ.

    >>> three, none = np.array([3.0]), np.array([0.0])
    >>> [round(x, 3) for x in weighted_mean(three, none, three * 2, three * 5, max_weight=20.0)]
    [2.0, 0.614, 3.386]
    """
    risk_S = _at_risk(ended_S, censored_S)
    full_S = censoring_weights(ended_S, censored_S)
    weight_S = np.minimum(full_S, max_weight)
    mass, num_ended = float(weight_S @ ended_S), float(np.sum(ended_S))
    if num_ended == 0:
        return Mean(math.nan, math.nan, math.nan)
    mean = float(weight_S @ total_S) / mass
    if num_ended < 2:
        return Mean(mean, math.nan, math.nan)

    deviation_S = weight_S * (total_S - mean * ended_S)
    moved_S = np.where(full_S <= max_weight, deviation_S, 0.0)
    later_S = np.cumsum(moved_S[::-1])[::-1] - moved_S
    left_S = risk_S - censored_S
    jump_S = np.divide(later_S, left_S, out=np.zeros(len(left_S)), where=left_S > 0)
    hazard_S = np.divide(censored_S, risk_S, out=np.zeros(len(risk_S)), where=risk_S > 0)
    through_S = np.cumsum(jump_S * hazard_S)
    if_ended_S = through_S - jump_S * hazard_S  # u < s
    if_censored_S = jump_S - through_S  # u <= s, and the censoring itself
    variance = float(
        weight_S**2 @ (square_S - 2 * mean * total_S + mean**2 * ended_S)
        - 2 * (deviation_S @ if_ended_S)
        + ended_S @ if_ended_S**2
        + censored_S @ if_censored_S**2
    )
    variance *= num_ended / (num_ended - 1) / mass**2
    half = NormalDist().inv_cdf(0.5 + level / 2) * math.sqrt(max(variance, 0.0))
    return Mean(mean, mean - half, mean + half)


def effective_sample_size(weight_S: Array, ended_S: Array) -> float:
    """Number of conversations of equal weight that would say as much: (Σ w)² / Σ w² (Kish, 1965);
    0 without any.

    >>> effective_sample_size(np.array([1.0, 3.0]), np.array([3, 1]))
    3.0
    """
    squares = float(weight_S**2 @ ended_S)
    return float(weight_S @ ended_S) ** 2 / squares if squares > 0 else 0.0


def _at_risk(ended_S: Array, censored_S: Array) -> Array:
    """Conversations that may still be censored at each step: n_u − d_u."""
    if ended_S.shape != censored_S.shape:
        raise ValueError(f"ended {ended_S.shape} and censored {censored_S.shape} are not both (S,)")
    return np.cumsum((ended_S + censored_S)[::-1])[::-1] - ended_S
