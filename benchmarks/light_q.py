"""A light Q in the place of the one that reads texts: ridge regression on what a log shows.

    Played … (of b), π -> LoggedConversation …

It is fitted as `fit-q --method fqe` is: targets r + γ V⁻ of the sweep before, members of an
ensemble on bootstrap resamples of the conversations, and two fits on half of the conversations
each, so that every conversation is scored by a Q that was not fitted on it.

Features ψ(s): the type of the customer's last message, the turn, and which intents were sent so
far; each action has weights of its own: Q(s, a) = ψ(s)·θ_a.

Shapes: N conversations, T turns of all of them laid end to end, D features, A actions, M members.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.simulated_policies import GAMMA, Mixture, Played, actions
from iterppo.statistics.off_policy_log import LoggedConversation

Array = np.ndarray[Any, Any]

SWEEPS = 25
RIDGE = 0.1
FOLDS = 2


def logged(
    conversations: Sequence[Played],
    behaviour: Mixture,
    policy: Mixture,
    *,
    members: int,
    seed: int,
) -> list[LoggedConversation]:
    """A log of `behaviour`, with what `policy` would make of it and a light Q thinks of it."""
    turns = [turn for played in conversations for turn in played]
    index = {action: place for place, action in enumerate(actions())}
    feature_TD = _features(conversations)
    action_T = np.asarray([index[turn.action] for turn in turns])
    policy_TA = np.asarray(
        [[found.get(a, 0.0) for a in index] for t in turns for found in [policy(t.reply, t.turn)]]
    )
    before = [behaviour(turn.reply, turn.turn)[turn.action] for turn in turns]
    new_T = policy_TA[np.arange(len(turns)), action_T]
    ratio = [math.log(p / b) if p > 0 else -math.inf for p, b in zip(new_T, before, strict=True)]
    reward_T = np.asarray([float(turn.outcome) for turn in turns])
    length_N = np.asarray([len(played) for played in conversations])
    owner_T = np.repeat(np.arange(len(conversations)), length_N)
    first_N = np.cumsum(length_N) - length_N
    generator = np.random.default_rng(seed)
    fold_N = generator.permutation(len(conversations)) % FOLDS
    q_TM, v_TM = np.zeros((len(turns), members)), np.zeros((len(turns), members))
    for fold in range(FOLDS):
        drawn_NM = generator.poisson(1.0, size=(len(conversations), members))
        for member in range(members):
            weight_T = (drawn_NM[:, member] * (fold_N != fold))[owner_T].astype(float)
            q_TA = _fit(feature_TD, action_T, policy_TA, reward_T, first_N, weight_T)
            own_T = fold_N[owner_T] == fold
            q_TM[own_T, member] = q_TA[own_T, action_T[own_T]]
            v_TM[own_T, member] = (q_TA * policy_TA).sum(axis=1)[own_T]
    ends = first_N + length_N
    q_T, v_T = q_TM.mean(axis=1).tolist(), v_TM.mean(axis=1).tolist()
    return [
        LoggedConversation(
            conversation_id=str(number),
            reward=reward_T[start:end].tolist(),
            log_ratio=ratio[start:end],
            q=q_T[start:end],
            v=v_T[start:end],
            first_values=v_TM[start].tolist(),
        )
        for number, (start, end) in enumerate(zip(first_N, ends, strict=True))
    ]


def _features(conversations: Sequence[Played]) -> Array:
    """ψ of every turn."""
    replies = sorted({turn.reply for played in conversations for turn in played})
    intents = [action for action in actions() if action is not None]
    rows = []
    for played in conversations:
        sent: set[str] = set()
        for turn in played:
            rows.append(
                [1.0, turn.turn / 4]
                + [float(turn.reply == reply) for reply in replies]
                + [float(intent in sent) for intent in intents]
            )
            sent.add(turn.sent)
    return np.asarray(rows)


def _fit(
    feature_TD: Array,
    action_T: Array,
    policy_TA: Array,
    reward_T: Array,
    first_N: Array,
    weight_T: Array,
) -> Array:
    """Q of every action in every state, (T, A)."""
    num_actions, D = policy_TA.shape[1], feature_TD.shape[1]
    is_last_T = np.zeros(len(reward_T), dtype=bool)
    is_last_T[np.append(first_N[1:], len(reward_T)) - 1] = True
    rows = [np.flatnonzero((action_T == a) & (weight_T > 0)) for a in range(num_actions)]
    solvers = []
    for own in rows:
        weighted_DR = (feature_TD[own] * weight_T[own, None]).T
        gram_DD = weighted_DR @ feature_TD[own] + RIDGE * np.eye(D)
        solvers.append(np.linalg.solve(gram_DD, weighted_DR))
    weight_DA = np.zeros((D, num_actions))
    for _ in range(SWEEPS):
        v_T = ((feature_TD @ weight_DA) * policy_TA).sum(axis=1)
        next_T = np.where(is_last_T, 0.0, np.append(v_T[1:], 0.0))
        target_T = reward_T + GAMMA * next_T
        for a, own in enumerate(rows):
            weight_DA[:, a] = solvers[a] @ target_T[own]
    found_TA: Array = feature_TD @ weight_DA
    return found_TA
