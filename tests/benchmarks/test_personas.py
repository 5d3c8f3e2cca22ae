"""The pairs that `benchmarks.personas` reads Q on, and its figure."""

from pathlib import Path

import pytest

from benchmarks import personas
from iterppo.environments.shop import SCRIPTS, recognise, reply_type


def test_each_state_has_the_action_that_was_taken_and_one_that_seldom_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(personas, "STATES", 6)
    pairs = personas.true_pairs(tmp_path, script="expert", seed=0)

    assert {kind: len(of) for kind, of in pairs.items()} == {"likely": 6, "unlikely": 6}
    for rows, action, value in pairs["unlikely"]:
        row = rows[-1]
        probabilities = SCRIPTS["expert"](reply_type(row["customer"]), row["turn"])
        assert probabilities.get(recognise(action), 0.0) < 0.05
        assert 0 <= value <= 1
    for (rows, action, _), (other, *_) in zip(pairs["likely"], pairs["unlikely"], strict=True):
        assert action == (rows[-1]["suggestion"] or "")
        assert rows == other
    assert len({action for _, action, _ in pairs["unlikely"]}) > 1


def test_the_fall_is_told_of_each_seed() -> None:
    def one_seed(
        plain: float, explored: float
    ) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        return {
            "plain": {"fqe": {"unlikely": {"rmse": plain}}},
            "personas": {"fqe": {"unlikely": {"rmse": explored}}},
        }

    assert personas._fall([one_seed(0.2, 0.1), one_seed(0.4, 0.3)], "fqe") == [0.5, 0.25]
