"""Advantages of an update: who has one, how they are scaled, and what is paid.

Shapes: B completions, T tokens.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iterppo.lm.rendering import Renderer
from tests.lm.ppo_runs import Start, says_yes

MakePolicy = Callable[..., Path]


@pytest.mark.parametrize("whitened", [False, True], ids=["plain", "whitened"])
def test_nearly_every_token_is_learned_from(whitened: bool, start: Start) -> None:
    run = start(completions_per_update=32, whiten_advantages=whitened).watch().train()
    batch = run.updates[0].batch
    mask_BT = batch["completion_mask"].bool()

    assert batch["advantages"][mask_BT].ne(0).float().mean() > 0.99
    assert batch["advantages"][~mask_BT].ne(0).sum() == 0
    assert run.trainer.state.log_history[0]["advantage_nonzero"] > 0.99


def test_whitened_advantages_are_the_advantages_of_the_update_scaled(start: Start) -> None:
    plain, white = (
        start(whiten_advantages=whitened, completions_per_update=32)
        .watch()
        .train()
        .updates[0]
        .batch
        for whitened in (False, True)
    )
    mask_BT = plain["completion_mask"].bool()
    advantage_N, white_N = plain["advantages"][mask_BT], white["advantages"][mask_BT]

    assert torch.equal(plain["completion_ids"], white["completion_ids"])
    assert white_N.mean().item() == pytest.approx(0, abs=1e-5)
    assert white_N.std().item() == pytest.approx(1, abs=1e-4)
    expected = (advantage_N - advantage_N.mean()) / advantage_N.std()
    assert torch.allclose(white_N, expected, atol=1e-4)
    assert torch.equal(plain["returns"], white["returns"])


def test_an_update_without_a_difference_is_not_scaled_up(start: Start) -> None:
    calls: list[int] = []

    def tells_apart_once(states: Any, actions: Any) -> list[float]:
        calls.append(len(actions))
        return says_yes(states, actions) if len(calls) == 1 else [0.3] * len(actions)

    run = start(
        reward=tells_apart_once,
        updates=3,
        completions_per_update=32,
        learning_rate=1e-6,
        critic_samples=0,
        **{"lambda": 1.0},
    )
    run.watch().train()
    scales = [row["advantage_scale"] for row in run.trainer.state.log_history if "q" in row]
    spreads = []
    for update, scale in zip(run.updates, scales, strict=True):
        mask_BT = update.batch["completion_mask"].bool()
        plain_N = (update.batch["returns"] - update.batch["old_values"])[mask_BT]
        expected_N = (plain_N - plain_N.mean()) / scale
        assert torch.allclose(update.batch["advantages"][mask_BT], expected_N, atol=1e-5)
        spreads.append(plain_N.std().item())

    assert spreads[0] > 0.2
    assert scales[0] == pytest.approx(spreads[0])
    # Truncated completions apart, which the critic's estimate stands for, all is worth 0.3.
    assert max(spreads[1:]) < 0.5 * spreads[0]
    assert scales[1:] == pytest.approx([0.9 * scales[0], 0.81 * scales[0]])


@pytest.mark.parametrize("score", [1.0, 0.0], ids=["a reward", "a reward of zero"])
def test_a_truncated_completion_is_recorded_and_not_paid(
    score: float, start: Start, make_policy: MakePolicy, renderer: Renderer
) -> None:
    run = start(
        folder=make_policy(steps=30, max_new_tokens=3),
        reward=lambda states, actions: [score] * len(actions),
        completions_per_update=32,
        critic_samples=0,
        **{"lambda": 1.0},
    )
    torch.nn.init.constant_(run.policy.model.value_head.bias, 0.75)
    batch = run.watch().train().updates[0].batch
    truncated = [row["truncated"] for row in run.samples]

    assert truncated == [row["tokens"][-1] != renderer.eos_id for row in run.samples]
    assert 4 <= sum(truncated) <= 28
    assert all(len(row["tokens"]) == 3 for row in run.samples if row["truncated"])
    assert {row["q"] for row in run.samples} == {score}
    for b, row in enumerate(run.samples):
        return_T = batch["returns"][b, : len(row["tokens"])]
        assert return_T.max() - return_T.min() < 1e-5, "λ = 1 and no penalty: one return for all"
        # For what was not finished stands the critic's own estimate.
        assert return_T[0].item() == pytest.approx(0.75 if row["truncated"] else score)
    logged = run.trainer.state.log_history[0]
    assert logged["truncated"] == pytest.approx(sum(truncated) / 32)
    assert logged["q"] == pytest.approx(score * (1 - sum(truncated) / 32))


def test_only_the_text_of_an_action_is_paid(start: Start) -> None:
    asked: list[tuple[Any, Any]] = []

    def noting(states: Any, actions: Any) -> list[float]:
        asked.append((states, actions))
        return says_yes(states, actions)

    run = start(reward=noting, critic_samples=0).train()
    ((states, actions),) = asked

    assert actions == [row["completion"] for row in run.samples]
    assert all(action == action.strip() and "<|" not in action for action in actions)
    assert [message["role"] for message in states[0]] == ["system", "user"]
