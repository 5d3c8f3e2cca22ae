"""One reward a turn, out of one outcome a conversation (ITPO, arXiv 2603.23550).

    log π_φ(y_t) − log π_ref(y_t) -> token reward β q_t -> turn sum R_k^imp -> reward of the turn

φ is trained so that the sum over a conversation predicts its outcome (`iterppo.rl.implicit_loss`).
Only what the assistant wrote has a q_t: a customer's tokens are context, and are not among the T.

Shapes: T tokens of the assistant in K turns of B conversations, each laid end to end. What belongs
to whom is told by counts: num_tokens_K sums to T, num_turns_B to K. A turn in which the assistant
wrote nothing has 0 tokens; it is paid nothing.
"""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Array = np.ndarray[Any, Any]

Normalise = Literal["none", "batch", "softmax-sum", "softmax-mean"]
"""How turn sums become rewards: see `turn_rewards`."""

SMALLEST_SCALE = 1e-6
"""What is added to the scale of a batch, so that a model that has learned nothing divides by no
zero."""


class TurnRewards(NamedTuple):
    """What each turn is paid."""

    implicit_K: Array
    """R_k^imp, the sum of the token rewards, in nats."""
    reward_K: Array
    """In units of the outcome under a softmax, in nats without any normalisation; NaN where the
    outcome has no turn to go to."""
    weight_K: Array
    """Share of the outcome; NaN where the outcome is not shared out."""
    scale: float
    """What the sums were divided by; 1 but for `batch`."""


def turn_sums(value_T: Array, num_tokens_K: Array) -> Array:
    """Sum over the tokens of each turn: R_k^imp = Σ_{t∈T_k} r_t; 0 for a turn without tokens.

    Raises:
        ValueError: If the turns have more or fewer tokens than there are.

    >>> turn_sums(np.array([1.0, 2.0, 4.0]), np.array([1, 0, 2]))
    array([1., 0., 6.])
    """
    _check_counts("tokens", num_tokens_K, len(value_T))
    owner_T = np.repeat(np.arange(len(num_tokens_K)), num_tokens_K)
    sums = np.bincount(owner_T, weights=value_T, minlength=len(num_tokens_K))
    return np.asarray(sums, dtype=np.float64)


def batch_scale(reward_T: Array, num_tokens_B: Array) -> float:
    """PRIME's scale of a batch (`prime_norm = batch_norm`): the largest return of any token.

        max_{i,t} |Σ_{s≥t} r_{i,s}| + 1e-6

    Divided by it, no sum of rewards from a token to its conversation's end is beyond ±1. It is one
    number, so that neither signs nor order change; and it is the batch's, so that rewards of two
    batches are in different units.

    Args:
        reward_T: β q_t.
        num_tokens_B: Tokens of each conversation.

    Returns:
        A positive number, in the units of the rewards.

    Raises:
        ValueError: If the conversations have more or fewer tokens than there are.

    >>> round(batch_scale(np.array([3.0, -4.0, 1.0, 1.0]), np.array([2, 2])), 6)
    4.000001
    """
    _check_counts("tokens", num_tokens_B, len(reward_T))
    from_here_T1 = np.append(np.cumsum(reward_T[::-1])[::-1], 0.0)
    after_B = from_here_T1[np.cumsum(num_tokens_B)]  # what later conversations add
    return_T = from_here_T1[:-1] - np.repeat(after_B, num_tokens_B)
    return float(np.abs(return_T).max(initial=0.0)) + SMALLEST_SCALE


def softmax_within(
    score_K: Array, num_turns_B: Array, *, temperature: float, takes_part_K: Array
) -> Array:
    """softmax_k(score_k / temperature) within each conversation, over the turns that take part.

    A score and the same score plus a constant of the conversation have the same weights.

    Args:
        score_K: Of each turn.
        num_turns_B: Turns of each conversation.
        temperature: In units of the score; positive. → 0: all on the best turn; → ∞: uniform.
        takes_part_K: The others have weight 0.

    Returns:
        Weights that sum to 1 in each conversation; NaN where no turn takes part.

    Raises:
        ValueError: If the temperature is not positive, or the shapes do not fit.

    >>> softmax_within(np.log([1.0, 3.0, 5.0]), np.array([2, 1]), temperature=1.0,
    ...                takes_part_K=np.array([True, True, True]))
    array([0.25, 0.75, 1.  ])
    """
    if not temperature > 0:
        raise ValueError(f"the temperature of a softmax is positive, is {temperature}")
    _check_counts("turns", num_turns_B, len(score_K))
    owner_K = np.repeat(np.arange(len(num_turns_B)), num_turns_B)
    scaled_K = np.where(takes_part_K, score_K / temperature, -np.inf)
    largest_B = np.full(len(num_turns_B), -np.inf)
    np.maximum.at(largest_B, owner_K, scaled_K)
    has_any_B = np.isfinite(largest_B)
    mass_K = np.exp(scaled_K - np.where(has_any_B, largest_B, 0.0)[owner_K])
    total_B = np.bincount(owner_K, weights=mass_K, minlength=len(num_turns_B))
    return np.asarray(mass_K / np.where(has_any_B, total_B, np.nan)[owner_K])


def uniform_weights(num_tokens_K: Array, num_turns_B: Array) -> Array:
    """The same share for every turn in which the assistant wrote: the baseline of a softmax.

    >>> uniform_weights(np.array([3, 0, 9, 2]), np.array([3, 1]))
    array([0.5, 0. , 0.5, 1. ])
    """
    return softmax_within(
        np.zeros(len(num_tokens_K)), num_turns_B, temperature=1.0, takes_part_K=num_tokens_K > 0
    )


def share_out(outcome_B: Array, weight_K: Array, num_turns_B: Array) -> Array:
    """R_k = w_k R: the outcome, shared out over the turns of its conversation.

    >>> share_out(np.array([2.0, 1.0]), np.array([0.5, 0.5, 1.0]), np.array([2, 1]))
    array([1., 1., 1.])
    """
    _check_counts("turns", num_turns_B, len(weight_K))
    return np.asarray(weight_K * np.repeat(outcome_B, num_turns_B))


def turn_rewards(
    log_ratio_T: Array,
    num_tokens_K: Array,
    num_turns_B: Array,
    outcome_B: Array,
    *,
    beta: float,
    normalise: Normalise,
    temperature: float,
) -> TurnRewards:
    """Rewards of turns, by ITPO or one of the two readings of Norm-ITPO.

        r_t = β q_t                       R_k^imp = Σ_{t∈T_k} r_t

        none                              R_k = R_k^imp
        batch (PRIME's scale)             R_k = R_k^imp / (max_{i,t} |Σ_{s≥t} r_{i,s}| + 1e-6)
        softmax-sum (the paper, η)        R_k = R · softmax_k(R_k^imp / η)
        softmax-mean (the released code)  R_k = R · softmax_k(mean_{t∈T_k} r_t · L̄ / η)

    L̄ is the mean length of a turn in the batch, over the turns that have tokens. The two readings
    agree where all turns are of one length. Where they are not, a sum favours the turn that says
    more of the same, and a mean does not.

    Under a softmax the rewards of a conversation sum to its outcome, however large the model's
    logits have grown; a failure (R = 0) is then paid nowhere, whatever its turns are thought of.
    Without one they sum to the logit of the model's prediction, and the outcome itself is not
    looked at.

    Args:
        log_ratio_T: q_t = log π_φ − log π_ref, in nats.
        num_tokens_K: Tokens of each turn.
        num_turns_B: Turns of each conversation.
        outcome_B: R of each conversation; looked at under a softmax only.
        beta: β, positive.
        normalise: Which line above.
        temperature: η, in nats; looked at under a softmax only.

    Returns:
        Sums, rewards and weights of the turns.

    Raises:
        ValueError: If β or η is not positive, a log-ratio is not finite, or the shapes do not fit.

    >>> three = turn_rewards(np.array([0.0, 4.0, 4.0]), np.array([1, 2]), np.array([2]),
    ...                      np.array([1.0]), beta=0.5, normalise="none", temperature=1.0)
    >>> three.reward_K
    array([0., 4.])
    >>> turn_rewards(np.array([0.0, np.log(3.0)]), np.array([1, 1]), np.array([2]),
    ...              np.array([0.8]), beta=1.0, normalise="softmax-sum", temperature=1.0).reward_K
    array([0.2, 0.6])
    """
    if not beta > 0:
        raise ValueError(f"beta is positive, is {beta}")
    if normalise not in get_args(Normalise):
        raise ValueError(f"normalise is one of {', '.join(get_args(Normalise))}, is {normalise!r}")
    if not np.isfinite(log_ratio_T).all():
        raise ValueError("a log-ratio is not a finite number")
    if len(outcome_B) != len(num_turns_B):
        raise ValueError(f"{len(outcome_B)} outcomes of {len(num_turns_B)} conversations")
    _check_counts("turns", num_turns_B, len(num_tokens_K))
    reward_T = beta * np.asarray(log_ratio_T, dtype=np.float64)
    implicit_K = turn_sums(reward_T, num_tokens_K)
    if normalise in ("none", "batch"):
        scale = 1.0
        if normalise == "batch":
            scale = batch_scale(reward_T, turn_sums(num_tokens_K, num_turns_B).astype(np.int64))
        return TurnRewards(implicit_K, implicit_K / scale, np.full(len(implicit_K), np.nan), scale)
    score_K, speaks_K = implicit_K, num_tokens_K > 0
    if normalise == "softmax-mean":
        mean_length = float(num_tokens_K[speaks_K].mean()) if speaks_K.any() else math.nan
        score_K = implicit_K / np.maximum(num_tokens_K, 1) * mean_length
    weight_K = softmax_within(score_K, num_turns_B, temperature=temperature, takes_part_K=speaks_K)
    return TurnRewards(implicit_K, share_out(outcome_B, weight_K, num_turns_B), weight_K, 1.0)


def _check_counts(what: str, counts: Array, number: int) -> None:
    if (np.asarray(counts) < 0).any() or int(np.sum(counts)) != number:
        raise ValueError(f"counts that sum to {int(np.sum(counts))} do not divide {number} {what}")
