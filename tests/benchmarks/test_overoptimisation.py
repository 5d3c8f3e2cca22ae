"""`benchmarks.overoptimisation`: what the stopping rule is told to have made of a run."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.overoptimisation import LIMITS, draw, judged
from iterppo.rl.stopping import Reading


def point(update: int, *, proxy: float, judge: float, gold: float, kl: float) -> dict[str, Any]:
    reading = Reading(
        update,
        q_P=(proxy - 0.1, proxy + 0.1),
        # The two prompts always differ by as much: a fall has no noise.
        judge_P=(judge - 0.1, judge + 0.1),
        kl=kl,
        entropy=5.0,
        distinct=0.5,
    )
    return {"reading": asdict(reading), "gold": gold}


RISE_AND_FALL = [
    point(0, proxy=0.10, judge=0.10, gold=0.10, kl=0.0),
    point(2, proxy=0.20, judge=0.18, gold=0.19, kl=2.0),
    point(4, proxy=0.30, judge=0.20, gold=0.20, kl=4.0),
    point(6, proxy=0.40, judge=0.15, gold=0.12, kl=6.0),
    point(8, proxy=0.50, judge=0.30, gold=0.30, kl=8.0),
]


def test_what_comes_after_the_stop_is_not_kept() -> None:
    found = judged({"mean": RISE_AND_FALL, "lower_bound": RISE_AND_FALL[:3]})

    assert found["stop"] == 6
    assert "other conversations fell" in found["reason"]
    assert found["kept"] == 2
    assert found["gold_share"] == pytest.approx(0.20 / 0.30)
    assert found["gain_share"] == pytest.approx(0.10 / 0.20)
    assert found["gold_last_share"] == 1.0
    assert found["peak_gain_lower_bound"] == pytest.approx(-0.10)


def test_a_climb_that_no_limit_ends_keeps_the_best_of_all() -> None:
    rise = [RISE_AND_FALL[0], RISE_AND_FALL[1], RISE_AND_FALL[4]]

    found = judged({"mean": rise, "lower_bound": rise})
    assert (found["reason"], found["kept"], found["gold_share"]) == (None, 2, 1.0)


def test_the_budget_of_the_kl_is_the_stages() -> None:
    far = [*RISE_AND_FALL[:2], point(4, proxy=0.3, judge=0.3, gold=0.3, kl=LIMITS.kl + 1)]

    found = judged({"mean": far, "lower_bound": far})
    assert "over its budget" in found["reason"]
    assert found["kept"] == 1


def test_the_figure_is_drawn(tmp_path: Path) -> None:
    runs = [judged({"mean": RISE_AND_FALL, "lower_bound": RISE_AND_FALL})] * 2

    draw(runs, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
