"""The implicit reward model: what it scores, whatever shares the batch, and what it learns."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iterppo.config import CreditConfig
from iterppo.lm import implicit_model
from iterppo.lm.checkpoint import Checkpoint
from iterppo.lm.implicit_model import (
    Said,
    all_token_logprobs,
    batch_loss,
    fit,
    said_of,
    token_logprobs,
)
from iterppo.lm.likelihood import action_logprobs
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.rendering import decisions
from iterppo.rl.implicit_rewards import turn_rewards

MakeRow = Callable[..., dict[str, Any]]
MakePolicy = Callable[..., Path]
MakeSaid = Callable[..., Said]


@pytest.fixture
def untaught(make_policy: MakePolicy) -> Policy:
    """Freshly loaded; even in training mode it may differ from itself by dropout."""
    return load_policy(make_policy(attention_dropout=0.5))


@pytest.fixture
def make_said(row: MakeRow, system: str, untaught: Policy) -> MakeSaid:
    """A conversation of (customer, action) turns; None: the turn has no action."""

    def make(
        name: str,
        turns: list[tuple[str, str | None]],
        *,
        outcome: float = 0.0,
        max_tokens: int = 128,
    ) -> Said:
        rows = [
            row(customer, action, action, "not_shown" if action is None else "verbatim")
            | {"conversation_id": name, "reward": outcome * (number == len(turns))}
            for number, (customer, action) in enumerate(turns, start=1)
        ]
        return said_of(rows, untaught.renderer, system_prompt=system, max_tokens=max_tokens)

    return make


@pytest.fixture
def saids(make_said: MakeSaid) -> list[Said]:
    return [
        make_said("a", [("Hello!", "Which room?"), ("None", None), ("Bye", "yes")], outcome=1.0),
        make_said("b", [("Is it done?", "no")]),
        make_said("c", [("Hello! " * 4, "Shall we come by?"), ("9500", "")], outcome=0.25),
        make_said(
            "d",
            [("Kitchen, please.", "Monday is fine."), ("Yes", "maybe"), ("And then?", "soon")],
            max_tokens=50,
        ),
    ]


def references(policy: Policy, saids: list[Said]) -> list[torch.Tensor]:
    return all_token_logprobs(policy.model.eval(), saids, tokens_per_batch=500)


def gradients(policy: Policy) -> list[torch.Tensor]:
    return [p.grad.clone() for p in policy.model.parameters() if p.grad is not None]


# --- what is scored ---


def test_what_is_scored_are_the_actions_and_their_ends_and_nothing_else(
    saids: list[Said], untaught: Policy
) -> None:
    renderer = untaught.renderer
    by_turn: dict[int, list[int]] = {}
    for turn, number, position in saids[0].tokens:
        by_turn.setdefault(turn, []).append(saids[0].segments[number].ids[position])

    assert by_turn == {0: renderer.action_ids("Which room?"), 2: renderer.action_ids("yes")}
    assert saids[0].tokens_per_turn.tolist() == [len(by_turn[0]), 0, len(by_turn[2])]
    assert saids[0].num_without_action == 1
    assert len(saids[3].segments) > 1, "no conversation was longer than the context"


def test_one_pass_gives_what_a_pass_over_every_turn_by_itself_gives(
    row: MakeRow, system: str, make_policy: MakePolicy
) -> None:
    policy = load_policy(make_policy(steps=40))
    rows = [
        row("Hello!", "Which room?", "And who are you?", "rejected")
        | {"conversation_id": "a", "reward": 0.0},
        row("Kitchen", "Shall we come by?", "Shall we come by?", "verbatim")
        | {"conversation_id": "a", "reward": 1.0},
    ]
    turns = list(decisions(rows, system_prompt=system))
    said = said_of(rows, policy.renderer, system_prompt=system, max_tokens=128)

    (found,) = all_token_logprobs(policy.model.eval(), [said], tokens_per_batch=500)

    alone = action_logprobs(policy, [(turn.state, turn.action or "") for turn in turns])
    sums = [part.sum().item() for part in found.split(said.tokens_per_turn.tolist())]
    assert sums == pytest.approx(alone, abs=1e-4)


@pytest.mark.parametrize("tokens_per_batch", [1, 300, 10_000])
def test_log_probabilities_do_not_depend_on_what_shares_the_batch(
    tokens_per_batch: int, saids: list[Said], untaught: Policy
) -> None:
    untaught.model.eval()
    silent = Said("s", 1.0, [], [], 1, 0, 1)
    with torch.no_grad():
        alone = [token_logprobs(untaught.model, [said]) for said in saids]

    found = all_token_logprobs(untaught.model, [*saids, silent], tokens_per_batch=tokens_per_batch)

    assert [len(each) for each in found] == [len(said.tokens) for said in [*saids, silent]]
    for one, other in zip(found[:-1], alone, strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), abs=1e-5)


# --- the loss ---


@pytest.mark.parametrize("size", [1, 2], ids=["one by one", "in pairs"])
def test_loss_and_gradient_do_not_depend_on_how_a_batch_is_cut(
    size: int, saids: list[Said], untaught: Policy
) -> None:
    reference = [each + 0.3 for each in references(untaught, saids)]

    def loss_and_gradient(size: int) -> tuple[float, list[torch.Tensor]]:
        untaught.model.zero_grad()
        total = 0.0
        for start in range(0, len(saids), size):
            chosen = slice(start, start + size)
            loss = batch_loss(
                untaught.model,
                saids[chosen],
                reference[chosen],
                beta=0.5,
                num_conversations=len(saids),
            )
            loss.backward()
            total += loss.item()
        return total, gradients(untaught)

    whole, expected = loss_and_gradient(len(saids))
    cut, found = loss_and_gradient(size)

    assert cut == pytest.approx(whole, rel=1e-5)
    assert len(found) == len(expected)
    assert max(each.abs().max().item() for each in expected) > 1e-3
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-6)


def test_before_it_has_learned_anything_every_outcome_is_as_likely_as_not(
    saids: list[Said], untaught: Policy
) -> None:
    loss = batch_loss(
        untaught.model, saids, references(untaught, saids), beta=0.5, num_conversations=4
    )

    assert loss.item() == pytest.approx(math.log(2), abs=1e-5)


# --- the fit ---

SETTINGS: dict[str, Any] = {
    "beta": 0.5,
    "epochs": 100.0,
    "max_steps": 24,
    "tokens_per_batch": 1200,
    "learning_rate": 4e-3,
}


@pytest.fixture
def log(make_said: MakeSaid) -> Callable[[int], list[Said]]:
    """Conversations of two turns. They succeed where the assistant said "soon" in one of them."""

    def make(number: int) -> list[Said]:
        found = []
        for n in range(number):
            said = ["maybe", "later"] if n % 2 else ["maybe", "maybe"]
            if n % 4 >= 2:
                said[n % 3 % 2] = "soon"
            turns: list[tuple[str, str | None]] = [("Hello!", said[0]), ("And then?", said[1])]
            found.append(make_said(f"c{n}", turns, outcome=float(n % 4 >= 2)))
        return found

    return make


def test_it_learns_which_conversations_succeed_and_which_turn_made_them(
    log: Callable[[int], list[Said]], untaught: Policy
) -> None:
    saids = log(48)
    reference = references(untaught, saids)

    made = fit(untaught.model, saids, reference, CreditConfig(**SETTINGS))

    learned = references(untaught, saids)
    paid = turn_rewards(
        torch.cat([a - b for a, b in zip(learned, reference, strict=True)]).double().numpy(),
        torch.tensor([n for said in saids for n in said.tokens_per_turn]).numpy(),
        torch.full((48,), 2).numpy(),
        torch.tensor([said.outcome for said in saids]).numpy(),
        beta=0.5,
        normalise="softmax-sum",
        temperature=0.4,
    )
    assert made.validation[0] == pytest.approx(math.log(2), abs=1e-5)
    assert min(made.validation) == made.validation[made.best_epoch] < 0.2
    logits = paid.implicit_K.reshape(48, 2).sum(axis=1)
    for n, (logit, weights) in enumerate(zip(logits, paid.weight_K.reshape(48, 2), strict=True)):
        assert (logit > 0) == (n % 4 >= 2)
        if n % 4 >= 2:
            assert weights[n % 3 % 2] > 0.8


class Killed(Exception):
    pass


@pytest.mark.parametrize("kill_at", [5, 9])
def test_a_killed_fit_goes_on_to_the_same_model(
    kill_at: int,
    log: Callable[[int], list[Said]],
    make_policy: MakePolicy,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    saids = log(30)
    settings = CreditConfig(**SETTINGS | {"max_steps": 10, "checkpoint_steps": 3})
    steps: list[int] = []

    def fitted(checkpoint: Checkpoint | None) -> tuple[list[torch.Tensor], Any]:
        policy = load_policy(make_policy())
        made = fit(policy.model, saids, references(policy, saids), settings, checkpoint=checkpoint)
        return [p.detach() for p in policy.model.parameters()], made

    whole, made = fitted(None)
    plain = token_logprobs

    def counted(*given: Any) -> torch.Tensor:
        if torch.is_grad_enabled():
            steps.append(1)
            if len(steps) == kill_at:
                raise Killed
        return plain(*given)

    checkpoint = Checkpoint(tmp_path / "state", key="k", every=3)
    with monkeypatch.context() as patch:
        patch.setattr(implicit_model, "token_logprobs", counted)
        with pytest.raises(Killed):
            fitted(checkpoint)
    assert checkpoint.load() is not None
    again, remade = fitted(checkpoint)

    assert all(torch.equal(one, other) for one, other in zip(again, whole, strict=True))
    assert remade == made
    assert len(made.losses) == 10


def test_the_epoch_that_predicts_best_is_the_one_that_is_kept(
    log: Callable[[int], list[Said]], untaught: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    saids = log(20)
    reference = references(untaught, saids)
    told = iter([0.7, 0.5, 0.6, *[0.9] * 9])
    seen: list[list[float]] = []

    def judged(model: Any, *_: Any) -> float:
        seen.append(next(iter(model.parameters())).flatten()[:20].tolist())
        return next(told)

    monkeypatch.setattr(implicit_model, "_mean_loss", judged)
    made = fit(
        untaught.model, saids, reference, CreditConfig(**SETTINGS | {"epochs": 3.0, "max_steps": 9})
    )

    assert made.best_epoch == 1
    assert next(iter(untaught.model.parameters())).flatten()[:20].tolist() == seen[1] != seen[-1]


def test_conversations_in_which_nothing_was_said_are_nothing_to_learn_from(
    make_said: MakeSaid, untaught: Policy
) -> None:
    silent = [make_said(name, [("Hello!", None)], outcome=1.0) for name in "ab"]

    with pytest.raises(ValueError, match="no training conversation has a known outcome and"):
        fit(untaught.model, silent, references(untaught, silent), CreditConfig(**SETTINGS))
