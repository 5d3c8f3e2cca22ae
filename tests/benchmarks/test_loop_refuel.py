"""REFUEL beside `benchmarks.loop`: pairs from one state, and the regression on them."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from random import Random

import pytest
import torch

from benchmarks import loop_refuel
from benchmarks.itpo_worlds import WORLDS, first_policy
from benchmarks.loop_refuel import Pair, hold_pairs, regress
from iterppo.environments.episodes import Suggestion, TurnSoFar
from iterppo.environments.protocol import Observation
from iterppo.lm.likelihood import action_logprobs
from iterppo.lm.policy import Policy, prepare_libraries
from iterppo.lm.rendering import decisions

TURNS = 4


class Numbered:
    """A customer who has a number, and tells it on every one of four turns; the outcome comes with
    the last turn, if `yes` was said on it. A copy keeps the number, and draws its future anew."""

    def __init__(self) -> None:
        self._number = self._turn = 0

    def reset(self, seed: int) -> Observation:
        self._number, self._turn = Random(seed).randrange(10**6), 0
        return self._observed(outcome=False)

    def step(self, suggestion: str | None) -> Observation:
        self._turn += 1
        return self._observed(outcome=self._turn == TURNS and suggestion == "yes")

    def clone(self, seed: int | None = None) -> Numbered:
        assert seed is not None
        return copy.copy(self)

    def _observed(self, *, outcome: bool) -> Observation:
        done = self._turn == TURNS
        return Observation(None if done else f"{self._number}/{self._turn}", outcome, done)


class Alternating:
    """Says yes and no in turns, whoever asks."""

    version = "alternating"

    def __init__(self) -> None:
        self._said = 0

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        found = []
        for _ in conversations:
            found.append(Suggestion(("yes", "no", None)[self._said % 3], None))
            self._said += 1
        return found


@pytest.fixture(scope="module")
def pairs() -> list[Pair]:
    return hold_pairs(Numbered, Alternating(), number=800, parallel=64, max_turns=20, seed=3)


def test_a_pair_has_one_state(pairs: list[Pair]) -> None:
    assert len(pairs) == 800
    for pair in pairs:
        heard = [str(turn["customer"]).split("/") for turn in pair.turns]
        assert len({number for number, _ in heard}) == 1, "one customer"
        assert [int(turn) for _, turn in heard] == list(range(len(heard)))
        assert pair.turns[-1]["suggestion"] is None, "the last one waits"


def test_each_conversation_of_a_pair_has_its_own_outcome(pairs: list[Pair]) -> None:
    """On the last turn the outcome is the action's own; abstaining is the empty action."""
    last = [pair for pair in pairs if len(pair.turns) == TURNS]
    assert {action for pair in last for action in pair.actions} == {"yes", "no", ""}
    for pair in last:
        assert pair.outcomes == tuple(action == "yes" for action in pair.actions)


def test_each_state_of_a_conversation_is_as_likely(pairs: list[Pair]) -> None:
    """Of 800, a quarter each: 200, with a standard deviation of √(800 · ¼ · ¾) = 12.2."""
    counts = Counter(len(pair.turns) for pair in pairs)
    assert set(counts) == set(range(1, TURNS + 1))
    assert all(abs(number - 200) < 4 * 12.3 for number in counts.values())


def test_the_same_seed_holds_the_same_pairs(pairs: list[Pair]) -> None:
    again = hold_pairs(Numbered, Alternating(), number=64, parallel=64, max_turns=20, seed=3)
    other = hold_pairs(Numbered, Alternating(), number=64, parallel=64, max_turns=20, seed=4)
    assert again == pairs[:64]
    assert other != again


def test_what_is_open_in_the_end_has_no_outcome() -> None:
    cut = hold_pairs(Numbered, Alternating(), number=32, parallel=32, max_turns=2, seed=3)
    assert {len(pair.turns) for pair in cut} == {1, 2}
    assert {pair.outcomes for pair in cut} == {(False, False)}


# --- the regression ---


@pytest.fixture(scope="module")
def first() -> Policy:
    prepare_libraries()
    torch.set_num_threads(1)
    return first_policy(
        WORLDS["tutor"],
        conversations=40,
        hidden_size=32,
        num_layers=1,
        max_steps=20,
        learning_rate=5e-3,
        seed=0,
    )


def _said(action: str, other: str, outcomes: tuple[bool, bool]) -> Pair:
    turn = {"customer": "Shall we?", "suggestion": None, "adoption": "not_shown", "sent": None}
    return Pair([turn], (action, other), outcomes)


def _copied(policy: Policy) -> Policy:
    return Policy(copy.deepcopy(policy.model), policy.renderer, policy.settings)


def _log_ratio(policy: Policy, pair: Pair) -> float:
    """log π(a|s) − log π(a'|s), in nats."""
    *_, last = decisions(pair.turns, system_prompt=policy.settings.system_prompt)
    a, b = action_logprobs(policy, [(last.state, action) for action in pair.actions])
    return a - b


def test_it_finds_the_solution(first: Policy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a leads to the outcome and a' does not, log π'/π(a) − log π'/π(a') = 1/β."""
    monkeypatch.setattr(loop_refuel, "BETA", 0.5)
    monkeypatch.setattr(loop_refuel, "EPOCHS", 150.0)
    policy = _copied(first)
    pair = _said("yes, today", "no", (True, False))
    losses = regress(policy, [pair], seed=0)

    assert losses[0] == pytest.approx(1.0), "π_θ is π_t, which foretells nothing: (0 − 1)²"
    assert losses[-1] < 1e-2
    assert _log_ratio(policy, pair) - _log_ratio(first, pair) == pytest.approx(2.0, abs=0.2)


def test_of_outcomes_that_differ_on_both_sides_it_is_the_mean(
    first: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """a leads to the outcome two times in three where a' does not, and once the other way round:
    the mean of the differences is a third, and so 1/(3β) is what it comes to."""
    monkeypatch.setattr(loop_refuel, "BETA", 0.5)
    monkeypatch.setattr(loop_refuel, "EPOCHS", 150.0)
    policy = _copied(first)
    pairs = [_said("yes, today", "no", outcomes) for outcomes in ((True, False),) * 2]
    pairs.append(_said("no", "yes, today", (True, False)))
    regress(policy, pairs, seed=0)

    moved = _log_ratio(policy, pairs[0]) - _log_ratio(first, pairs[0])
    assert moved == pytest.approx(2 / 3, abs=0.1)


def test_of_outcomes_that_do_not_differ_nothing_is_learned(first: Policy) -> None:
    policy = _copied(first)
    losses = regress(
        policy, [_said("yes", "no", (True, True)), _said("a", "b", (False, False))], seed=0
    )

    assert losses[0] == pytest.approx(0.0, abs=1e-9)
    after = policy.model.state_dict()
    for name, weight in first.model.state_dict().items():
        assert torch.allclose(after[name], weight, atol=1e-3)
