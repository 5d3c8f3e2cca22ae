"""Values by playing on from copies: what is copied, counted and shown."""

import math
from collections.abc import Sequence
from random import Random
from typing import Any

import pytest

from iterppo.environments.cloned_rollouts import cloned_values
from iterppo.environments.episodes import Suggestion, TurnSoFar
from iterppo.environments.protocol import Observation
from iterppo.errors import UsageError

WAITING: list[TurnSoFar] = [
    {"customer": "Hello", "suggestion": "Hi", "adoption": "verbatim", "sent": "Hi"},
    {"customer": "And?", "suggestion": None, "adoption": "not_shown", "sent": None},
]


class Patience:
    """The outcome comes with the text `win`; else it ends in silence after so many turns."""

    def __init__(self, turns_left: int = 10) -> None:
        self.turns_left = turns_left
        self.seeds: list[int] = []

    def reset(self, seed: int) -> Observation:
        return Observation("Hello", outcome=False, done=False)

    def step(self, suggestion: str | None) -> Observation:
        self.turns_left -= 1
        if suggestion == "win":
            return Observation("Yes", outcome=True, done=True, sent=suggestion)
        done = self.turns_left == 0
        return Observation(None if done else "Go on", outcome=False, done=done, sent=suggestion)

    def clone(self, seed: int | None = None) -> "Patience":
        assert seed is not None
        self.seeds.append(seed)
        return Patience(self.turns_left)


class Coin(Patience):
    """The outcome comes on the first turn, or nothing does."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self.random = Random(seed)

    def step(self, suggestion: str | None) -> Observation:
        outcome = self.random.random() < 0.3
        return Observation("Yes" if outcome else None, outcome=outcome, done=True)

    def clone(self, seed: int | None = None) -> "Coin":
        assert seed is not None
        return Coin(seed)


class WinsOnTurn:
    """Says `win` when the conversation has so many turns."""

    version = "winner"

    def __init__(self, turn: int) -> None:
        self.turn = turn
        self.shown: list[list[TurnSoFar]] = []
        self.batches: list[int] = []

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        self.batches.append(len(conversations))
        self.shown += [list(turns) for turns in conversations]
        return [Suggestion("win" if len(t) == self.turn else "wait", None) for t in conversations]


def values(environments: Sequence[Any], assistant: Any = None, **settings: Any) -> Any:
    arguments: dict[str, Any] = {
        "turns": [WAITING] * len(environments),
        "actions": ["wait"] * len(environments),
        "gamma": 0.5,
        "rollouts": 3,
        "max_turns": 10,
        "seed": 0,
        **settings,
    }
    turns, actions = arguments.pop("turns"), arguments.pop("actions")
    return cloned_values(environments, turns, actions, assistant or WinsOnTurn(0), **arguments)


@pytest.mark.parametrize("later", [1, 2, 5])
def test_an_outcome_is_discounted_by_the_turns_before_it(later: int) -> None:
    [value] = values([Patience()], WinsOnTurn(2 + later))

    assert (value.mean, value.standard_error) == (0.5**later, 0.0)


def test_the_action_itself_may_bring_the_outcome() -> None:
    assistant = WinsOnTurn(3)
    won, waited = values([Patience(), Patience()], assistant, actions=["win", "wait"])

    assert (won.mean, waited.mean) == (1.0, 0.5)
    assert all(turns[1]["suggestion"] == "wait" for turns in assistant.shown)


def test_silence_is_worth_nothing_and_is_an_end() -> None:
    [value] = values([Patience(turns_left=2)])

    assert (value.mean, value.num_unfinished) == (0.0, 0)


@pytest.mark.parametrize(("max_turns", "unfinished"), [(1, 3), (2, 3), (3, 0)])
def test_what_is_still_open_at_the_last_turn_is_counted_as_such(
    max_turns: int, unfinished: int
) -> None:
    [value] = values([Patience()], WinsOnTurn(4), max_turns=max_turns)

    assert value.num_unfinished == unfinished
    assert value.mean == (0.0 if unfinished else 0.25)


def test_the_assistant_is_shown_the_past_and_the_action_and_what_followed() -> None:
    assistant = WinsOnTurn(4)
    values([Patience()], assistant, rollouts=1, actions=[None])

    tried = {"customer": "And?", "suggestion": None, "adoption": "abstained", "sent": None}
    after = {"customer": "Go on", "suggestion": None, "adoption": "not_shown", "sent": None}
    assert assistant.shown[0] == [WAITING[0], tried, after]
    assert len(assistant.shown[1]) == 4


def test_the_environment_itself_is_never_stepped_and_every_copy_has_its_own_seed() -> None:
    shared = Patience()
    values([shared, shared], rollouts=50)

    assert shared.turns_left == 10
    assert len(set(shared.seeds)) == 100


def test_mean_and_standard_error_are_those_of_the_continuations() -> None:
    [value] = values([Coin()], rollouts=4000)

    assert abs(value.mean - 0.3) <= 4 * math.sqrt(0.3 * 0.7 / 4000)
    assert value.standard_error == pytest.approx(
        math.sqrt(value.mean * (1 - value.mean) / (4000 - 1))
    )
    assert math.isnan(values([Coin()], rollouts=1)[0].standard_error)


def test_pairs_are_independent_and_seeds_decide() -> None:
    first, second = values([Coin(), Coin()], rollouts=1000)
    [again] = values([Coin()], rollouts=1000)
    [other] = values([Coin()], rollouts=1000, seed=1)

    assert first == again
    assert len({first.mean, second.mean, other.mean}) > 1


@pytest.mark.parametrize("parallel", [1, 4, 7, 1000])
def test_batches_are_full_and_change_nothing(parallel: int) -> None:
    assistant = WinsOnTurn(6)
    environments = [Patience(), Patience(turns_left=3)]

    found = values(environments, assistant, rollouts=10, parallel=parallel)

    assert [value.mean for value in found] == [0.5**4, 0.0]
    assert sum(assistant.batches) == 10 * 4 + 10 * 2
    assert max(assistant.batches) == min(parallel, 20)
    # All that is held together waits together: few calls beyond what full batches need.
    assert len(assistant.batches) <= math.ceil(20 / parallel) * 5


def test_an_environment_that_cannot_be_copied_is_refused() -> None:
    class Single:
        def reset(self, seed: int) -> Observation:
            return Observation("Hello", outcome=False, done=False)

        def step(self, suggestion: str | None) -> Observation:
            return Observation(None, outcome=False, done=True)

    with pytest.raises(UsageError, match=r"Single cannot be cloned, .* give it clone\(seed\)"):
        values([Single()])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"actions": []}, "1 environments, 1 conversations and 0 actions"),
        ({"gamma": 1.5}, r"gamma is a discount in \[0, 1\], is 1.5"),
        ({"rollouts": 0}, "rollouts 0, max_turns 10 and parallel 256 are at least 1"),
        ({"turns": [[]]}, "conversation 0 has no turn"),
    ],
    ids=["lengths differ", "discount", "no rollouts", "no turns"],
)
def test_arguments_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        values([Patience()], **settings)
