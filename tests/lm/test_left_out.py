"""What a Q thinks of conversations that it was fitted without: as if they had never been there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iterppo.config import FitQConfig
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.q_heads import Heads
from iterppo.lm.q_least_squares import FOLDS, LeastSquares, fit_least_squares
from iterppo.lm.q_log import Conversation
from iterppo.logs.splits import unit_hash
from tests.lm.q_logs import GAMMA, yes_and_no

MakePolicy = Callable[..., Path]
Log = Callable[..., list[Conversation]]


@pytest.fixture
def make_q(make_policy: MakePolicy) -> Callable[..., QFunction]:
    def make(members: int = 1) -> QFunction:
        settings = QSettings(loss="squared", max_tokens=128, members=members)
        return QFunction.from_policy(make_policy(steps=20), settings)

    return make


@pytest.fixture
def log(make_q: Callable[..., QFunction], row: Callable[..., dict[str, Any]], system: str) -> Log:
    q = make_q()

    def make(number: int, **settings: Any) -> list[Conversation]:
        return yes_and_no(q, number, row=row, system=system, **settings)

    return make


def config(**settings: Any) -> FitQConfig:
    return FitQConfig.model_validate({"method": "lstd", "compared_turns": 0, **settings})


def fold_of(key: str) -> int:
    return int(unit_hash(f"fold/{key}", seed=0) * FOLDS)


def fit(
    q: QFunction, conversations: Sequence[Conversation], chosen: FitQConfig, **settings: Any
) -> LeastSquares:
    return fit_least_squares(q, conversations, chosen, gamma=GAMMA, leave_out=True, **settings)


def numbers(heads: Heads) -> dict[str, Any]:
    return {name: value.detach().numpy() for name, value in heads.state_dict().items()}


def same(one: Heads, other: Heads) -> bool:
    a, b = numbers(one), numbers(other)
    return a.keys() == b.keys() and all(np.allclose(a[name], b[name], atol=1e-5) for name in a)


@pytest.mark.parametrize("settings", [{"ridge": 2.0}, {}], ids=["ridge given", "ridge found"])
@pytest.mark.parametrize("compared_turns", [0, 12])
def test_a_folds_heads_are_those_of_a_log_that_never_had_it(
    make_q: Callable[..., QFunction], log: Log, compared_turns: int, settings: dict[str, float]
) -> None:
    chosen = config(compared_turns=compared_turns, **settings)
    found = fit(make_q(), log(60), chosen)

    assert len(found.left_out) == FOLDS
    for fold, heads in enumerate(found.left_out):
        alone = make_q()
        others = [c for c in log(60) if fold_of(c.conversation_id) != fold]
        fit_least_squares(alone, others, chosen, gamma=GAMMA)
        assert same(heads, alone.heads)


@pytest.mark.parametrize("compared_turns", [0, 12])
def test_every_conversation_is_judged_by_heads_that_never_saw_it(
    make_q: Callable[..., QFunction], log: Log, compared_turns: int
) -> None:
    q, conversations = make_q(members=3), log(30)
    found = fit(q, conversations, config(ridge=2.0, compared_turns=compared_turns))
    estimates = found.left_out_estimates(q, conversations)

    for c, here in zip(conversations, estimates, strict=True):
        heads = found.left_out[fold_of(c.conversation_id)]
        (read,) = q.features(c.segments)
        (judged,) = here
        with torch.no_grad():
            q_NM, v_N = heads.outputs(read)
        assert [each.q for each in judged] == pytest.approx(q_NM[:, 0].tolist())
        assert [each.v for each in judged] == pytest.approx(v_N.tolist())
        assert [each.spread for each in judged] == [None] * len(c.rows)
    seen = q.estimates([c.segments[0] for c in conversations])
    assert [here[0].q for here in seen] != pytest.approx([here[0][0].q for here in estimates])


@pytest.mark.parametrize("compared_turns", [0, 12])
def test_outcomes_of_a_fold_do_not_reach_its_heads(
    make_q: Callable[..., QFunction], log: Log, compared_turns: int
) -> None:
    def turned(c: Conversation) -> Conversation:
        turns = [
            [replace(turn, return_=1.0 - (turn.return_ or 0.0)) for turn in each]
            for each in c.turns
        ]
        return replace(c, turns=turns, rewards=[1.0 - reward for reward in c.rewards])

    chosen, whole = config(compared_turns=compared_turns), log(60)
    told = [turned(c) if fold_of(c.conversation_id) == 2 else c for c in whole]
    as_it_was, changed = (fit(make_q(), each, chosen).left_out for each in (whole, told))

    assert [same(a, b) for a, b in zip(as_it_was, changed, strict=True)] == [
        fold == 2 for fold in range(FOLDS)
    ]


def test_the_fit_itself_is_the_same(make_q: Callable[..., QFunction], log: Log) -> None:
    chosen = config(compared_turns=12)
    with_, without = make_q(members=3), make_q(members=3)
    found = fit(with_, log(60), chosen)
    plain = fit_least_squares(without, log(60), chosen, gamma=GAMMA)

    assert plain.left_out == []
    assert (found.ridge, found.errors) == (plain.ridge, plain.errors)
    assert numbers(with_.heads).keys() == numbers(without.heads).keys()
    for name, value in numbers(with_.heads).items():
        assert (value == numbers(without.heads)[name]).all()


def test_a_customers_conversations_are_left_out_together_those_of_earlier_policies_too(
    make_q: Callable[..., QFunction], log: Log
) -> None:
    both = log(60, customer_id=lambda n: f"someone {n % 15}")
    own, earlier = both[:30], both[30:]
    chosen = config(ridge=2.0, compared_turns=12)
    found = fit(make_q(), own, chosen, earlier=earlier, split_by="customer")
    fold = fold_of("someone 3")
    alone = make_q()
    fit_least_squares(
        alone,
        *([c for c in log_ if fold_of(c.kept_together("customer")) != fold] for log_ in (own,)),
        chosen,
        gamma=GAMMA,
        earlier=[c for c in earlier if fold_of(c.kept_together("customer")) != fold],
    )

    assert same(found.left_out[fold], alone.heads)


@pytest.mark.parametrize("compared_turns", [0, 12])
def test_a_log_too_small_to_be_divided_is_fitted_all_the_same(
    make_q: Callable[..., QFunction], log: Log, compared_turns: int
) -> None:
    q, chosen = make_q(), config(ridge=2.0, compared_turns=compared_turns)
    (only,) = log(1)
    found = fit(q, [only], chosen)

    assert found.left_out == []
    assert float(q.heads.state.weight.detach().abs().max()) > 0


def test_what_a_split_never_divides(log: Log) -> None:
    first, second = log(
        2,
        customer=lambda n: [" Hello\tTHERE \nI need a roof", "hello there"][n],
        customer_id=lambda n: "someone",
        business_id=lambda n: f"business {n}",
    )

    assert first.kept_together("opening") == second.kept_together("opening") == "hello there"
    assert first.kept_together("customer") == second.kept_together("customer") == "someone"
    assert second.kept_together("business") == "business 1"
    assert second.kept_together("conversation") == "c1"


def test_where_the_business_opens_its_words_are_the_opening(log: Log) -> None:
    (c,) = log(1, customer=lambda _: None, sent=lambda _: "How can we help?")

    assert c.kept_together("opening") == "how can we help?"


def test_only_a_policys_own_conversations_are_of_it(log: Log) -> None:
    *_, own = log(3, policy_version=lambda _: "p-2")
    mixed = replace(
        own,
        turns=[
            [
                replace(turn, row={**turn.row, "policy_version": f"p-{1 + min(n, 1)}"})
                for n, turn in enumerate(own.turns[0])
            ]
        ],
    )
    (unknown,) = log(1, policy_version=lambda _: None)

    assert own.is_of("p-2")
    assert not own.is_of("p-1")
    assert not mixed.is_of("p-2")
    assert not unknown.is_of("p-2")
    assert not replace(own, segments=[], turns=[]).is_of("p-2"), "nothing of it is read"
