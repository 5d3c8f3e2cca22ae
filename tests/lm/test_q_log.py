"""Targets of Q's own making: each member's are of what it thinks itself of the next states."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from iterppo.config import FitQConfig
from iterppo.lm.q_fitting import fit
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.q_log import Conversation, conversations_of, next_values
from iterppo.lm.rendering import Segment, decisions

MakeRow = Callable[..., dict[str, Any]]
GAMMA = 0.9
MEMBERS = 3


@pytest.fixture
def q(make_policy: Callable[..., Path]) -> QFunction:
    made = QFunction.from_policy(
        make_policy(), QSettings(loss="bce", max_tokens=128, members=MEMBERS)
    )
    torch.manual_seed(1)
    torch.nn.init.normal_(made.heads.members.weight, std=0.5)
    return made


@pytest.fixture
def log(q: QFunction, row: MakeRow, system: str) -> list[Conversation]:
    """Two turns each, but for the first conversation, which has one; the last one is cut off."""
    pairs = []
    for n in range(6):
        turns = [
            row(f"Hello {n}", action, action, "verbatim")
            | {
                "conversation_id": f"c{n}",
                "turn": number,
                "split": "train",
                "censored": n == 5,
                "customer_time": None,
                "sent_time": None,
            }
            for number, action in enumerate(("yes", "no")[: 1 + (n > 0)], start=1)
        ]
        paid = [
            {
                "reward": float(n % 2 == 0 and n < 5 and number == len(turns)),
                "return": None,
                "weight": 0.0,
            }
            for number in range(1, len(turns) + 1)
        ]
        pairs.append((turns, paid))
    return list(
        conversations_of(
            pairs, q.renderer, system_prompt=system, max_tokens=128, fate_known_until=None
        )
    )


@pytest.mark.parametrize("asked", [False, True], ids=["sarsa", "fqe"])
def test_targets_of_a_member_are_made_of_its_own_values(
    q: QFunction, log: list[Conversation], system: str, asked: bool
) -> None:
    actions = {(c.conversation_id, 2): ["maybe", "soon"] for c in log} if asked else None
    values = next_values(q, log, actions)

    for c, found in zip(log, values, strict=True):
        (target,) = c.bootstrapped(found, gamma=GAMMA, lambda_=0.0)
        if len(c.rows) == 1:
            assert target.returns == [1.0]
            assert target.of_members(MEMBERS) == [[1.0] * MEMBERS]
            continue
        state = list(decisions(c.rows, system_prompt=system))[1].state
        ids = [q.renderer.pair_ids(state, a) for a in (["maybe", "soon"] if asked else ["no"])]
        said = q.renderer.said(state)
        segments = [Segment(i, [(0, len(i) - 1)], [len(i) - 1], [said]) for i in ids]
        with torch.no_grad():
            of_members = q.to_value(q.outputs(segments).q_NM).mean(dim=0).tolist()
            of_all = q.to_value(q.raw(segments)).mean().item()
        first, last = target.of_members(MEMBERS)
        assert first == pytest.approx([GAMMA * value for value in of_members], abs=1e-5)
        assert target.returns[0] == pytest.approx(GAMMA * of_all, abs=1e-5)
        assert max(first) - min(first) > 0.01, "the members are of one mind"
        if c.conversation_id == "c5":
            assert target.weights == [1.0, 0.0]
        else:
            assert last == [c.rewards[1]] * MEMBERS


def test_members_are_as_unsure_as_their_targets(q: QFunction, log: list[Conversation]) -> None:
    """A member that is told 0 and one that is told 1 must not be told 1/2 both."""
    config = FitQConfig(
        method="sarsa", sweeps=1, max_steps=40, sweep_epochs=40, sweep_learning_rate=2e-2
    )
    certain = [
        target
        for c in log
        for target in c.bootstrapped({1: [0.5, 0.0, 0.5, 1.0]}, gamma=1.0, lambda_=0.0)
        if len(c.rows) > 1
    ]
    fit(q, certain, config, sweep=lambda: certain)
    found = np.array([each[0].members for each in q.estimates([t.segment for t in certain])])

    assert (found[:, 2] - found[:, 0] > 0.5).all()
