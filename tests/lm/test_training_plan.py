"""The plan says what the training then does, in the numbers of its configuration."""

from collections.abc import Callable
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from peft import get_peft_model

from iterppo.config import PPOConfig
from iterppo.lm import trl_arguments, trl_models
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.sharding import whole_weights
from iterppo.lm.training_plan import (
    estimated_memory,
    num_adapters,
    num_parameters,
    training_plan,
)
from iterppo.lm.trl_arguments import check_trackers, trainer_arguments

MakePolicy = Callable[..., Path]
TRACKERS = "transformers.integrations.integration_utils"


@pytest.fixture
def policy(make_policy: MakePolicy) -> Policy:
    return load_policy(make_policy())


def test_the_steps_of_the_plan_are_the_trainers(policy: Policy, tmp_path: Path) -> None:
    config = PPOConfig(updates=3, completions_per_update=96, minibatches=3, epochs=4)
    steps = trainer_arguments(config, policy, tmp_path).max_steps
    _, line, _ = training_plan(config, policy, q_model=None)

    assert line.endswith(f", {steps} in all")
    assert "3 updates of 96 completions (12 prompts, 8 each), 288 in all" in line
    assert "12 optimiser steps (4 epochs × 3 minibatches of 32, 16 at a time)" in line


@pytest.mark.parametrize("beta", [0.0, 0.1], ids=["no reference", "a reference"])
def test_the_models_of_the_plan_are_those_in_memory(beta: float, policy: Policy) -> None:
    config = PPOConfig(kl_coefficient=beta)
    number = num_parameters(policy.model)
    line, _, _ = training_plan(config, policy, q_model=policy.model)

    assert ("reference" in line) is (beta > 0)
    assert line.count(f"({number / 1000:.3g} thousand") == 2 + (beta > 0)
    memory = estimated_memory(config, policy, q_parameters=number)
    assert memory.models * 2**20 == pytest.approx(4 * number * (2 + (beta > 0)))
    assert memory.learning * 2**20 == pytest.approx(12 * number)


def test_with_adapters_the_plan_counts_those_that_are_trained(policy: Policy) -> None:
    config = PPOConfig(lora_rank=4, kl_coefficient=0.1)
    number, adapters = num_parameters(policy.model), num_adapters(policy.model, 4)
    line, _, _ = training_plan(config, policy, q_model=None)
    memory = estimated_memory(config, policy, q_parameters=0)

    assert "reference" not in line, "it is the policy without them"
    assert f"{adapters / 1000:.3g} thousand of adapters trained" in line
    assert memory.models * 2**20 == pytest.approx(4 * (number + adapters))
    assert memory.learning * 2**20 == pytest.approx(12 * adapters)
    chosen = trl_models.adapters(config)
    assert chosen is not None
    get_peft_model(policy.model, chosen)
    assert adapters == sum(p.numel() for p in policy.model.parameters() if p.requires_grad)


def test_the_best_that_was_read_is_held_as_it_is_saved(policy: Policy) -> None:
    size, kept = (
        estimated_memory(PPOConfig(watch_updates=every), policy, q_parameters=0).kept * 2**20
        for every in (0, 4)
    )

    assert size == 0
    assert kept == sum(4 * weight.numel() for weight in whole_weights(policy.model).values())


def test_more_at_a_time_is_more_memory(policy: Policy) -> None:
    few, many = (
        estimated_memory(
            PPOConfig(microbatch_size=size, completions_per_prompt=2), policy, q_parameters=0
        ).work
        for size in (8, 64)
    )

    assert many > 2 * few


def test_vllm_that_is_not_installed_is_refused(policy: Policy, tmp_path: Path) -> None:
    if find_spec("vllm") is not None:
        pytest.skip("vLLM is installed")
    with pytest.raises(ValueError, match=r"vllm = true needs vLLM, which is not installed"):
        trainer_arguments(PPOConfig(vllm=True), policy, tmp_path)


def test_vllm_without_a_gpu_is_refused(
    policy: Policy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str) -> Any:
        return ModuleSpec(name, None)

    monkeypatch.setattr(trl_arguments, "find_spec", found)
    monkeypatch.setattr(trl_arguments.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="vllm = true needs a GPU"):
        trainer_arguments(PPOConfig(vllm=True), policy, tmp_path)


def test_trackers_are_passed_on(policy: Policy, tmp_path: Path) -> None:
    assert trainer_arguments(PPOConfig(), policy, tmp_path).report_to == []
    arguments = trainer_arguments(PPOConfig(report_to="tensorboard, wandb"), policy, tmp_path)
    assert arguments.report_to == ["tensorboard", "wandb"]


def test_a_tracker_that_cannot_be_had_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for library in ("wandb", "tensorboard"):
        monkeypatch.setattr(f"{TRACKERS}.is_{library}_available", lambda: False)
        with pytest.raises(ValueError, match=f"Run: pip install {library}, or leave it away"):
            check_trackers(PPOConfig(report_to=library))
    monkeypatch.setattr(f"{TRACKERS}.is_wandb_available", lambda: True)
    for names in ("", "none", "wandb", "wandb, none"):
        check_trackers(PPOConfig(report_to=names))


def test_a_tracker_that_cannot_be_had_for_another_reason_says_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("KUBEFLOW_TRAINER_SERVER_URL", raising=False)
    with pytest.raises(ValueError, match="KUBEFLOW_TRAINER_SERVER_URL environment variable"):
        check_trackers(PPOConfig(report_to="kubeflow"))


def test_a_tracker_misspelt_is_told_those_that_there_are() -> None:
    with pytest.raises(ValueError, match=r"'wandbb' is no tracker\. .*tensorboard, .*wandb$"):
        check_trackers(PPOConfig(report_to="wandbb"))
