"""The loop without a language model: what its policy is, and what it holds."""

import numpy as np
import pytest

from benchmarks.loop_of_acts import Table, hold, loop
from benchmarks.visible_q import SAYABLE, VisibleQ, state_features
from iterppo.environments.shop import SCRIPTS
from iterppo.environments.shop_language import reply_type
from iterppo.environments.shop_solution import act_of

OPENING = [{"customer": "Hi there, do you do renovations?"}]


def test_without_a_q_it_is_the_script() -> None:
    script = SCRIPTS["mediocre"].acts(reply_type(OPENING[0]["customer"]), 1)
    found = dict(zip(SAYABLE, Table().probabilities(OPENING), strict=True))
    for act, probability in script.items():
        assert found[act] == pytest.approx(probability, abs=0.01)
    assert sum(found.values()) == pytest.approx(1.0)
    assert min(found.values()) > 0


def test_conversations_are_rows_of_suggestions_that_were_drawn() -> None:
    (*held,) = hold(Table(), number=40, name="test")
    assert held == hold(Table(), number=40, name="test")
    assert len({turns[0]["conversation_id"] for turns in held}) == 40
    rows = [row for turns in held for row in turns]
    assert {act_of(row["suggestion"]) for row in rows} <= set(SAYABLE)
    assert {row["reward"] for row in rows} == {0.0, 1.0}
    assert all(row["reward"] == 0 for turns in held for row in turns[:-1])


def test_a_step_is_the_policy_tilted_by_q() -> None:
    log = hold(Table(), number=60, name="log")
    q = VisibleQ(log, [], gamma=0.99)
    before, after = (p.probabilities(OPENING) for p in (Table(), Table().tilted(q, 0.5)))
    # log π'/π is Q/β but for a number that is the same for every act.
    rest = np.log(after / before) - q.of_acts(state_features(OPENING)) / 0.5
    np.testing.assert_allclose(rest, rest[0], atol=1e-9)


def test_every_round_is_told() -> None:
    first, last = loop(rounds=1, conversations=60, beta=0.1, seed=0)
    assert first["kl"] > 0
    assert last["kl"] == 0
    assert 0 < first["success"] < 1
    assert last["entropy"] < first["entropy"]
