"""LSTD and LSTDQ on a policy's backbone: transitions as the log shows them, heads as the definition
has them."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iterppo.config import FitQConfig
from iterppo.lm.q_fitting import draws_of
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.q_least_squares import RIDGES, fit_least_squares
from iterppo.lm.q_log import Conversation, conversations_of
from iterppo.lm.q_transitions import transitions
from iterppo.lm.rendering import decisions
from tests.lm.q_logs import ANSWERS, GAMMA, yes_and_no

MakePolicy = Callable[..., Path]
MakeRow = Callable[..., dict[str, Any]]
Array = np.ndarray[Any, Any]


@pytest.fixture
def q(make_policy: MakePolicy) -> QFunction:
    settings = QSettings(loss="squared", max_tokens=128, members=3)
    return QFunction.from_policy(make_policy(steps=20), settings)


@pytest.fixture
def log(q: QFunction, row: MakeRow, system: str) -> Callable[..., list[Conversation]]:
    """Conversations that end with the outcome where their last suggestion was `yes`."""

    def make(number: int, **settings: Any) -> list[Conversation]:
        return yes_and_no(q, number, row=row, system=system, **settings)

    return make


def config(**settings: Any) -> FitQConfig:
    return FitQConfig.model_validate({"method": "lstd", "compared_turns": 0, **settings})


@torch.no_grad()
def features(q: QFunction, c: Conversation) -> dict[int, tuple[Array, Array]]:
    """By a pass of each conversation on its own."""
    (segment,) = c.segments
    action_ND, state_ND = q.heads.lifted(q.features(c.segments)[0])
    return {
        index: (action.numpy().astype(float), state.numpy().astype(float))
        for (index, _), action, state in zip(segment.ends, action_ND, state_ND, strict=True)
    }


def ridged(features_ND: Array, weight_N: Array, ridge: float) -> tuple[Array, Array]:
    weighted = (features_ND * weight_N[:, None]).T
    second = weighted @ features_ND
    rho = ridge * np.trace(second) / (weight_N.sum() * len(second))
    return second + rho * np.eye(len(second)), weighted


@pytest.mark.parametrize("compared_turns", [0, 12])
def test_lstd_is_the_definition(
    q: QFunction, log: Callable[..., list[Conversation]], compared_turns: int
) -> None:
    conversations = log(30)
    chosen = config(ridge=2.0, compared_turns=compared_turns)
    found = fit_least_squares(q, conversations, chosen, gamma=GAMMA)
    assert q.heads.reads_history == (compared_turns > 0)

    phi, psi, after, reward, who = [], [], [], [], []
    for c in conversations:
        read = features(q, c)
        for index in range(len(c.rows)):
            psi.append(read[index][0])
            phi.append(read[index][1])
            last = index == len(c.rows) - 1
            after.append(0 * phi[-1] if last else GAMMA * read[index + 1][1])
            reward.append(c.rewards[index])
            who.append(draws_of(c.conversation_id, 3, 0))

    def heads(weight_N: Array) -> tuple[Array, Array]:
        second, weighted = ridged(np.stack(phi), weight_N, 2.0)
        value_D = np.linalg.solve(second - weighted @ np.stack(after), weighted @ np.array(reward))
        second, weighted = ridged(np.stack(psi), weight_N, 2.0)
        return value_D, np.linalg.solve(
            second, weighted @ (np.array(reward) + np.stack(after) @ value_D)
        )

    value_D, _ = heads(np.ones(len(phi)))
    assert q.heads.state.weight[0].detach().numpy() == pytest.approx(value_D, abs=1e-4)
    for member, weight_N in enumerate(np.array(who, dtype=float).T):
        _, head_D = heads(weight_N)
        assert q.heads.members.weight[member].detach().numpy() == pytest.approx(head_D, abs=1e-4)
    assert found.ridge == 2.0
    assert found.errors == {}


@pytest.mark.parametrize("compared_turns", [0, 12])
def test_lstdq_bootstraps_on_the_actions_of_the_policy_to_evaluate(
    make_policy: MakePolicy,
    log: Callable[..., list[Conversation]],
    system: str,
    compared_turns: int,
) -> None:
    settings = QSettings(loss="squared", max_tokens=128)
    q = QFunction.from_policy(make_policy(steps=20), settings)
    conversations = log(30)
    actions = {
        (c.conversation_id, turn): ["yes", "maybe"]
        for c in conversations
        for turn in range(1, len(c.rows) + 1)
    }
    chosen = config(method="lstdq", ridge=2.0, compared_turns=compared_turns)
    fit_least_squares(q, conversations, chosen, gamma=GAMMA, actions=actions)
    head = q.heads.members.weight[0].detach().double()

    # Q̂ solves its own equation: Σ φ (r + γ mean Q̂(s', a') − Q̂(s, a)) = ρ w
    gradient, squares, number = torch.zeros_like(head), 0.0, 0
    for c in conversations:
        read = features(q, c)
        states = [d.state for d in decisions(c.rows, system_prompt=system)]
        for index, (action_D, _) in read.items():
            target = c.rewards[index]
            if index + 1 < len(c.rows):
                target += GAMMA * sum(q([states[index + 1]] * 2, ["yes", "maybe"])) / 2
            phi = torch.from_numpy(action_D)
            gradient += phi * (target - float(phi @ head))
            squares += float(phi @ phi)
            number += 1
    rho = 2.0 * squares / (number * len(head))
    assert gradient.numpy() == pytest.approx((rho * head).numpy(), abs=2e-3)


def test_without_a_ridge_the_one_that_predicts_left_out_returns_best_is_taken(
    q: QFunction, log: Callable[..., list[Conversation]]
) -> None:
    found = fit_least_squares(q, log(60), config(), gamma=GAMMA)

    assert list(found.errors) == list(RIDGES)
    assert found.ridge == min(RIDGES, key=found.errors.__getitem__)
    assert len(set(found.errors.values())) == len(RIDGES)
    # What it can know: whether the last suggestion was `yes`, and how many turns there are to be.
    mean = np.mean([c.rewards[-1] for c in log(60)])
    assert min(found.errors.values()) < mean * (1 - mean)


def test_what_a_censored_conversation_showed_counts_and_what_it_hid_does_not(
    q: QFunction, log: Callable[..., list[Conversation]]
) -> None:
    def heads(conversations: list[Conversation]) -> Array:
        fit_least_squares(q, conversations, config(ridge=2.0), gamma=GAMMA)
        return q.heads.members.weight.detach().numpy().copy()

    several = [n for n in range(30) if n % 3 == 2]  # of three turns
    whole, cut = log(30), log(30, censored=several)
    without = [c for n, c in enumerate(whole) if n not in several]

    assert heads(cut) != pytest.approx(heads(without)), "their first two turns are known"
    assert heads(cut) != pytest.approx(heads(whole)), "their last one is not"


def test_a_turn_without_a_suggestion_is_passed_over(
    q: QFunction, log: Callable[..., list[Conversation]]
) -> None:
    (c,) = log(3, silent={2: 1})[2:]
    *_, first, third = transitions(c, {0: 0, 2: 0}, {0: 0, 2: 0}, gamma=GAMMA)

    assert c.num_without_action == 1
    assert first == (0, 0.0, pytest.approx(GAMMA**2), 2)
    assert third == (2, c.rewards[2], 0.0, None)


def test_nothing_to_learn_from_says_so(
    q: QFunction, log: Callable[..., list[Conversation]]
) -> None:
    single = [c for c in log(9, censored=range(9)) if len(c.rows) == 1]

    with pytest.raises(ValueError, match="no training turn"):
        fit_least_squares(q, single, config(), gamma=GAMMA)


def test_conversations_that_do_not_fit_the_context_are_passed_over(
    q: QFunction, log: Callable[..., list[Conversation]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iterppo.lm.q_least_squares.CONVERSATIONS_AT_ONCE", 1)
    first, *others = log(30)
    too_long = replace(first, segments=[], turns=[], num_too_long=1)

    def heads(conversations: list[Conversation]) -> Array:
        fit_least_squares(q, conversations, config(ridge=2.0), gamma=GAMMA)
        return q.heads.members.weight.detach().numpy().copy()

    assert heads([too_long, *others]) == pytest.approx(heads(others))


def test_a_resample_without_a_conversation_has_the_head_of_all(
    q: QFunction, log: Callable[..., list[Conversation]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("iterppo.lm.q_least_squares.draws_of", lambda *_: [0, 1, 2])
    fit_least_squares(q, log(6), config(ridge=2.0), gamma=GAMMA)
    none, once, twice = q.heads.members.weight.detach().numpy()

    assert none == pytest.approx(once, abs=1e-6), "every conversation was drawn once"
    assert once != pytest.approx(twice), "who weighs twice is pulled half as much"


def test_predictive_heads_see_what_is_repeated_and_linear_ones_do_not(
    make_policy: MakePolicy, row: MakeRow, system: str
) -> None:
    q = QFunction.from_policy(
        make_policy(steps=20), QSettings(loss="squared", max_tokens=128, members=1)
    )
    pairs = []
    for n, (first, second) in enumerate(itertools.product(ANSWERS * 4, ANSWERS * 4)):
        turns = [
            row(f"Hello {n % 7}", first, first, "verbatim"),
            row(f"So {n % 5}", second, second, "verbatim"),
        ]
        seen = {"conversation_id": f"c{n}", "split": "train", "censored": False}
        seen |= {"customer_time": None, "sent_time": None}
        outcome = float(first == second)
        pairs.append(
            (
                [turn | seen | {"turn": t} for t, turn in enumerate(turns, start=1)],
                [{"reward": r, "return": outcome, "weight": 1.0} for r in (0.0, outcome)],
            )
        )
    log = list(
        conversations_of(
            pairs, q.renderer, system_prompt=system, max_tokens=128, fate_known_until=None
        )
    )

    def right(**settings: Any) -> float:
        """Share of second turns whose repetition has the largest value of the three."""
        fit_least_squares(q, log, config(**settings), gamma=1.0)
        number = 0
        for c in log[:36]:
            *_, last = decisions(c.rows, system_prompt=system)
            values = q([last.state] * 3, list(ANSWERS))
            number += ANSWERS[int(np.argmax(values))] == c.rows[0]["suggestion"]
        return number / 36

    assert right(compared_turns=0) < 0.8
    assert right(compared_turns=100) > 0.95


def test_earlier_conversations_are_learned_from_and_valued_as_the_newest_policy_does(
    q: QFunction, log: Callable[..., list[Conversation]]
) -> None:
    own, both = log(30), log(60)
    earlier = both[30:]

    def heads(*conversations: list[Conversation], **settings: Any) -> tuple[Array, Array]:
        fit_least_squares(q, conversations[0], config(ridge=2.0), gamma=GAMMA, **settings)
        weights = q.heads.state.weight, q.heads.members.weight
        value, members = (weight.detach().numpy().copy() for weight in weights)
        return value, members

    value, members = heads(own)
    value_of_both, members_of_both = heads(own, earlier=earlier)
    assert value_of_both == pytest.approx(value, abs=1e-6)
    assert members_of_both != pytest.approx(members, abs=1e-3)
    assert heads(both)[0] != pytest.approx(value, abs=1e-3)
