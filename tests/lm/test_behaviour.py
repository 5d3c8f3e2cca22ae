"""Whose returns a log holds: the policy's own, others', or nobody knows whose."""

from collections.abc import Callable, Sequence
from typing import Literal

import pytest

from iterppo.config import FitQConfig
from iterppo.lm.behaviour import behind_the_log
from iterppo.lm.likelihood import action_logprobs
from iterppo.lm.policy import Policy
from iterppo.lm.q_log import Conversation, Turn
from iterppo.lm.rendering import Message
from tests.lm.conftest import MakeRow

MakeState = Callable[..., list[Message]]

OWN = "own"
"""Stands for the version of the policy that is to be improved."""


def conversation(make_row: MakeRow, versions: Sequence[str | None]) -> Conversation:
    """A turn for each version; no probability was logged."""
    logged = {"persona": None, "suggestion_logprob": None}
    rows = [
        make_row("And then?", "yes", "yes", "verbatim") | logged | {"policy_version": version}
        for version in versions
    ]
    turns = [Turn(row, "yes", 0.0, 1.0, "key") for row in rows]
    known = [True] * len(rows)
    return Conversation("c", "train", rows, [0.0] * len(rows), known, [], [turns], 0, 0)


@pytest.mark.parametrize(
    ("versions", "other", "unknown", "advised"),
    [
        pytest.param([OWN, OWN], 0.0, 0.0, set(), id="the policy's own"),
        pytest.param([None, None], 0.0, 1.0, {"advice_unknown"}, id="not said"),
        pytest.param(["old", "old"], 1.0, 0.0, {"advice"}, id="another's"),
        pytest.param(
            ["old", None, OWN, OWN], 0.25, 0.25, {"advice", "advice_unknown"}, id="some of each"
        ),
    ],
)
def test_a_turn_of_nobody_knows_whom_is_not_said_to_be_anothers(
    policy: Policy,
    row: MakeRow,
    versions: list[str | None],
    other: float,
    unknown: float,
    advised: set[str],
) -> None:
    made = [policy.settings.version if version == OWN else version for version in versions]
    log = [conversation(row, made)]

    found = behind_the_log(log, policy, FitQConfig())

    assert (found["share_other_policies"], found["share_unknown_policies"]) == (other, unknown)
    assert {name for name in found if name.startswith("advice")} == advised
    asked = behind_the_log(log, policy, FitQConfig(method="fqe"))
    assert not any(name.startswith("advice") for name in asked), "Q is of the policy itself"


@pytest.mark.parametrize("method", ["fqe", "lstdq"])
def test_a_q_is_of_the_policy_that_was_asked(
    policy: Policy, row: MakeRow, method: Literal["fqe", "lstdq"]
) -> None:
    """`evaluate` asks the new policy for actions, on the log of the one before it."""
    own = policy.settings.version
    log = [conversation(row, [own])]
    found = [
        behind_the_log(log, policy, FitQConfig(method=method), asked=asked)["evaluates"]
        for asked in (own, "the-next")
    ]

    assert found == ["the plain policy", "the-next, which was asked for actions"]


def test_what_was_cut_off_has_no_part_in_what_is_left_of_a_log(
    policy: Policy, row: MakeRow, make_state: MakeState
) -> None:
    (own,) = action_logprobs(policy, [(make_state("And then?"), "yes")])
    said = {"policy_version": "old", "suggestion_logprob": own}
    # Of one that was cut off, the log has the probability of its words, and not the words.
    cut = said | {"suggestion": None, "adoption": "abstained", "suggestion_logprob": -40.0}
    log = [conversation(row, ["old"]) for _ in range(10)]
    for number, each in enumerate(log):
        each.rows[0].update(cut if number == 0 else said)

    assert behind_the_log(log, policy, FitQConfig())["effective_share"] == pytest.approx(1)
