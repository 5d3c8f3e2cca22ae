"""PPO reaches a known answer, and the same one with the same seed."""

import statistics
from typing import Any

import torch

from iterppo.lm.generation import sample
from tests.lm.ppo_runs import KNOWN, Start, means


def test_a_bandit_is_solved(start: Start, prompts: list[dict[str, Any]]) -> None:
    run = start(updates=14, **KNOWN).train()

    assert 0.05 < means(run)[0] < 0.4
    assert statistics.median(means(run)[-3:]) > 0.9
    # What is deployed has learned it too, whatever it is asked.
    torch.manual_seed(1)
    states = [row["prompt"] for row in prompts] * 10
    said = [suggestion.text for suggestion in sample(run.policy, states)]
    assert said.count("yes") / len(said) > 0.9


def test_a_bandit_with_a_single_prompt_is_solved(
    start: Start, prompts: list[dict[str, Any]]
) -> None:
    run = start(problems=prompts[:1], updates=14, **KNOWN).train()

    assert statistics.median(means(run)[-3:]) > 0.9


def test_what_is_best_may_depend_on_what_was_asked(
    start: Start, prompts: list[dict[str, Any]]
) -> None:
    asked = [row["prompt"][-1]["content"] for row in prompts]
    best = dict(zip(asked, ["yes", "no", "yes", "no"], strict=True))

    def right(states: Any, actions: Any) -> list[float]:
        pairs = zip(states, actions, strict=True)
        return [float(best[state[-1]["content"]] == action) for state, action in pairs]

    run = start(updates=30, reward=right, **{**KNOWN, "learning_rate": 2e-3}).train()

    assert means(run)[0] < 0.4
    assert statistics.median(means(run)[-5:]) > 0.85


def test_training_depends_on_the_seed_and_on_nothing_else(start: Start) -> None:
    first, second, other = (start(updates=2, seed=seed).train().samples for seed in (1, 1, 2))

    assert first == second
    assert first != other


def test_it_is_reached_in_half_precision_too(start: Start, prompts: list[dict[str, Any]]) -> None:
    settings = {**KNOWN, "updates": 5, "bf16": True, "watch_updates": 2}
    run = start(watched=prompts * 5, **settings)
    logits = []
    run.policy.model.lm_head.register_forward_hook(lambda _, given, out: logits.append(out.dtype))
    run.train()

    assert means(run)[-1] > 0.8 > 0.4 > means(run)[0]
    assert set(logits) == {torch.bfloat16}
    assert {weight.dtype for weight in run.trainer.finish().values()} == {torch.float32}
    # What sampling has seen, token by token, is too far from what learning sees.
    assert run.trainer._sampled is None
