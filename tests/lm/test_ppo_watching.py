"""A policy that is watched on the way: nothing is learned from it, the best is kept."""

from typing import Any

import pytest
import torch

from tests.lm.ppo_runs import KNOWN, Start

WATCHED = {"watch_updates": 2, "best_of": 4, "kl_budget": 0.0, "judge_fall": 0.0}


def test_watching_changes_nothing_of_what_is_learned(
    start: Start, prompts: list[dict[str, Any]]
) -> None:
    # But for the curves, which know nothing of it, and what is kept in the end.
    settings = {**KNOWN, **WATCHED, "updates": 3, "best_of": 0}
    alone = start(**settings).train()
    watched = start(watched=prompts * 5, **settings).train()
    assert alone.samples == watched.samples
    for name, weight in alone.trainer.model.state_dict().items():
        assert torch.equal(weight, watched.trainer.model.state_dict()[name]), name


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"kl_coefficient": 0.02}, id="a model of its own as the reference"),
        pytest.param({"kl_coefficient": 0.0}, id="no reference in training"),
        pytest.param({"lora_rank": 4, "learning_rate": 2e-2}, id="without its adapters"),
    ],
)
def test_a_watched_policy_is_read_against_the_policy_before(
    settings: dict[str, Any], start: Start, prompts: list[dict[str, Any]]
) -> None:
    run = start(watched=prompts * 10, updates=4, **{**KNOWN, **WATCHED, **settings}).train()
    watching = run.trainer.watching
    assert watching is not None
    first, *_, last = watching.readings
    assert [reading.update for reading in watching.readings] == [0, 2, 4]
    assert first.kl == pytest.approx(0.0, abs=1e-4)
    assert last.kl > 0.01
    assert last.q > first.q
    assert watching.best_of is not None
    assert watching.best_of.q > first.q


def test_what_is_kept_is_the_policy_that_was_best_by_the_judge(
    start: Start, prompts: list[dict[str, Any]]
) -> None:
    def dislikes_yes(states: Any, actions: Any) -> list[float]:
        return [float(action != "yes") for action in actions]

    settings = {**KNOWN, **WATCHED, "updates": 8, "judge_fall": 1.0}
    run = start(watched=prompts * 20, judge=dislikes_yes, **settings)
    before = {n: w.clone() for n, w in run.policy.model.state_dict().items()}
    run.train()
    watching = run.trainer.watching
    assert watching is not None
    assert "other conversations" in (watching.reason or "")
    assert run.trainer.state.global_step < 8 * 2 * 2
    kept = run.trainer.finish()
    assert watching.best.update == 0
    assert all(torch.equal(kept[name], weight) for name, weight in before.items())
    assert "keeps the policy of update 0" in watching.sentence()
    assert watching.summary()["stopped"] == watching.reason
