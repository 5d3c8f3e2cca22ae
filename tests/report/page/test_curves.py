import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from iterppo.artifact import open_artifact
from iterppo.report.page.curves import MOST_TURNS, read_training, returns_by_turn
from iterppo.report.page.run import read_run
from tests.report.page.made_run import sample, write, write_policy


def test_returns_are_weighted_and_those_that_are_unknown_count_for_nothing(tmp_path: Path) -> None:
    """Turn 1: 30 returns of weight 1 to 3. Turn 2: all alike. Turn 3: too few. One is unknown."""
    generator = np.random.default_rng(0)
    value, weight = generator.random(30), generator.uniform(1, 3, 30)
    rows = [
        {"turn": 1, "return": float(g), "weight": float(w)}
        for g, w in zip(value, weight, strict=True)
    ]
    rows += [{"turn": 2, "return": 0.5, "weight": 1.0}] * 25
    rows += [{"turn": 3, "return": 0.5, "weight": 1.0}] * 19
    rows += [{"turn": 1, "return": None, "weight": 1.0}]
    rows += [{"turn": MOST_TURNS + 1, "return": 0.5, "weight": 1.0}] * 25
    known = {"conversation_id": "c", "reward": 0.0, "horizon": None}
    write(tmp_path / "returns", "returns", "returns", [known | row for row in rows])

    found = returns_by_turn(open_artifact(tmp_path / "returns"))

    mean = float(np.average(value, weights=weight))
    error = math.sqrt(float(((weight * (value - mean)) ** 2).sum())) / weight.sum()
    half = stats.norm.ppf(0.975) * error
    assert [(one.turn, one.conversations) for one in found] == [(1, 30), (2, 25)]
    assert (found[0].mean, found[0].low, found[0].high) == pytest.approx(
        (mean, mean - half, mean + half)
    )
    assert found[1].mean == pytest.approx(0.5)
    assert math.isnan(found[1].low)


def test_a_training_is_told_by_updates_and_its_readings_with_intervals(tmp_path: Path) -> None:
    write_policy(tmp_path / "000" / "policy", of=[], samples=[sample(0, 0.5)])

    found = read_training(read_run(tmp_path).rounds[0].places["policy"])

    assert [curve.name for curve in found.curves] == [
        "Reward",
        "KL from the policy before",
        "Entropy",
        "Value loss",
    ]
    assert found.curves[0].update == (1, 2, 3, 4)
    assert found.curves[0].value == (0.125, 0.25, 0.5, 1.0)
    half = stats.t.ppf(0.975, 2) * 0.125 / math.sqrt(3)
    last = found.readings[-1]
    assert (last.update, last.q, last.kl, last.judge) == (4, 0.5, 0.5, None)
    assert (last.q_low, last.q_high) == pytest.approx((0.5 - half, 0.5 + half))
    assert (found.kept_update, found.best_of_n, found.best_of_q) == (4, 4, 0.5)


def test_a_policy_of_init_has_no_curves(tmp_path: Path) -> None:
    write(tmp_path / "000" / "policy", "policy", "init", metrics={"policy_version": "p0"})

    found = read_training(read_run(tmp_path).rounds[0].places["policy"])

    assert (found.curves, found.readings, found.kept_update) == ((), (), None)
