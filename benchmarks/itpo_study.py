"""How good is the credit, and how stable? Conversations of a fixed script, whose advantages are
known exactly.

    batches of the script's conversations -> the credit models, updated on each
    some other conversations, scored at checkpoints -> beside A^π(s_k, a_k)

Scores of a turn: sum (ITPO; Norm-ITPO of the paper has the same order), mean (Norm-ITPO as its code
has it), token (the largest or smallest token reward in it), mc-q (Q̂ − V̂), uniform.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import kendalltau, spearmanr

from benchmarks.itpo_dialogues import (
    Array,
    Counts,
    Dialogue,
    counts_of,
    dialogue_of,
    hold_by_script,
    outcomes_of,
)
from benchmarks.itpo_models import ImplicitModel, ValueModel
from benchmarks.itpo_settings import Settings
from benchmarks.itpo_statistics import (
    Estimate,
    bootstrapped,
    hits,
    mean_of,
    slope,
    spearman_with_last,
    units_of,
)
from benchmarks.itpo_worlds import SCRIPT, World
from iterppo.lm.policy import Policy
from iterppo.rl.implicit_rewards import batch_scale, turn_rewards, turn_sums

BOOTSTRAP = 40
SCORES = ("sum", "mean", "token", "mc-q", "uniform")


def study(world: World, first: Policy, settings: Settings, *, seed: int) -> dict[str, Any]:
    """All that is said about credit, of one seed."""
    per_batch = settings.num_prompts * settings.per_prompt
    scored = _dialogues(world, first, settings.study_conversations, seed=seed + 500)
    rate, minibatch = settings.credit_learning_rate, settings.credit_minibatch
    implicit = ImplicitModel(
        first.model, beta=settings.beta, learning_rate=rate, minibatch=minibatch, seed=seed
    )
    values = ValueModel(first.model, learning_rate=rate, minibatch=minibatch, seed=seed)
    checkpoints = np.linspace(0, settings.study_batches, settings.study_checkpoints + 1)[1:]
    reward_CN: list[Array] = []
    for number in range(1, settings.study_batches + 1):
        batch = _dialogues(world, first, per_batch, seed=seed + 1000 * number)
        implicit.update(batch)
        values.update(batch)
        if number in checkpoints.round():
            reward_CN.append(implicit.beta * implicit.log_ratios(scored))
    return summary(
        reward_CN,
        mc_q_K=values.advantages(scored),
        truth_K=world.advantages(scored),
        outcome_B=outcomes_of(scored),
        counts=counts_of(scored),
    )


def summary(
    reward_CN: list[Array], *, mc_q_K: Array, truth_K: Array, outcome_B: Array, counts: Counts
) -> dict[str, Any]:
    """Statistics of token rewards at checkpoints, beside the truth and the outcomes."""
    B, tokens_B = len(outcome_B), counts.tokens_B
    sum_CK = [turn_sums(reward_N, counts.tokens_K) for reward_N in reward_CN]
    total_CB = [turn_sums(reward_N, tokens_B) for reward_N in reward_CN]
    scaled_CB = [
        total_B / batch_scale(reward_N, tokens_B)
        for total_B, reward_N in zip(total_CB, reward_CN, strict=True)
    ]

    def gain(chosen: Array) -> float:
        turns, tokens = units_of(chosen, counts.turns_B), units_of(chosen, tokens_B)
        by_turn = spearman_with_last([sum_K[turns] for sum_K in sum_CK])
        by_token = spearman_with_last([reward_N[tokens] for reward_N in reward_CN])
        return float((by_turn - by_token).mean())

    def growth(chosen: Array, value_CB: list[Array]) -> float:
        return float(value_CB[-1][chosen].std() / value_CB[0][chosen].std())

    def tau(chosen: Array) -> float:
        return float(kendalltau(total_CB[-1][chosen], outcome_B[chosen]).statistic)

    share = float(outcome_B.mean())
    found: dict[str, Any] = {
        "conversations": B,
        "success": share,
        "turns_per_conversation": float(counts.turns_B.mean()),
        "spearman_turns": spearman_with_last(sum_CK).tolist(),
        "spearman_tokens": spearman_with_last(reward_CN).tolist(),
        "stability_gain": bootstrapped(gain, B, samples=BOOTSTRAP, seed=0),
        "spread": [float(total_B.std()) for total_B in total_CB],
        "slope": [slope(total_B, outcome_B) for total_B in total_CB],
        "growth": bootstrapped(lambda c: growth(c, total_CB), B, samples=BOOTSTRAP, seed=0),
        "growth_batch": bootstrapped(lambda c: growth(c, scaled_CB), B, samples=BOOTSTRAP, seed=0),
        "norm_error": _norm_error(reward_CN, outcome_B, counts),
        "kendall_tau": bootstrapped(tau, B, samples=BOOTSTRAP, seed=0),
        # Of two numbers drawn for a binary outcome many tie: τ_b cannot be larger than this.
        "kendall_bound": float(np.sqrt(2 * share * (1 - share))),
    }
    for sign, name in ((1.0, "best"), (-1.0, "worst")):
        score = _scores(reward_CN[-1], mc_q_K, counts, sign)
        hit = {n: hits(score[n], sign * truth_K, counts.turns_B) for n in SCORES}
        found[name] = {n: mean_of(hit[n]) for n in SCORES}
        found[f"{name}_over_uniform"] = {n: mean_of(hit[n] - hit["uniform"]) for n in SCORES}
        found[f"{name}_over_mc_q"] = {n: mean_of(hit[n] - hit["mc-q"]) for n in SCORES}
    plain = _scores(reward_CN[-1], mc_q_K, counts, 1.0)
    found["rank_correlation"] = {
        n: float(spearmanr(plain[n], truth_K)[0]) for n in SCORES if n != "uniform"
    }
    return found


def _scores(reward_N: Array, mc_q_K: Array, counts: Counts, sign: float) -> dict[str, Array]:
    """Of turns, the larger the better; with sign −1 the larger the worse."""
    sum_K = turn_sums(reward_N, counts.tokens_K)
    pieces = np.split(sign * reward_N, np.cumsum(counts.tokens_K)[:-1])
    return {
        "sum": sign * sum_K,
        "mean": sign * sum_K / counts.tokens_K,
        "token": np.array([piece.max() for piece in pieces]),
        "mc-q": sign * mc_q_K,
        "uniform": np.zeros(len(sum_K)),
    }


def _norm_error(reward_CN: list[Array], outcome_B: Array, counts: Counts) -> float:
    """The largest |Σ_k R_k − R| of Norm-ITPO, over checkpoints and conversations."""
    worst = 0.0
    for reward_N in reward_CN:
        for normalise in ("softmax-sum", "softmax-mean"):
            paid = turn_rewards(
                reward_N,
                counts.tokens_K,
                counts.turns_B,
                outcome_B,
                beta=1.0,
                normalise=normalise,
                temperature=0.4,
            )
            total_B = turn_sums(paid.reward_K, counts.turns_B)
            worst = max(worst, float(np.abs(total_B - outcome_B).max()))
    return worst


def _dialogues(world: World, first: Policy, number: int, *, seed: int) -> list[Dialogue]:
    held = hold_by_script(
        world.factory, SCRIPT, number=number, max_turns=world.max_turns, seed=seed + 77
    )
    return [
        dialogue_of(
            turns,
            outcome=outcome,
            drawn=None,
            renderer=first.renderer,
            system_prompt=world.system_prompt,
            max_tokens=world.context_tokens,
        )
        for turns, outcome in held
    ]


def estimate(content: Any) -> Estimate:
    """From JSON, where a tuple is a list."""
    value, standard_error = content
    return Estimate(float(value), float(standard_error))
