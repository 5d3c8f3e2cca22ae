"""Settings of PPO are used, make the steps that they say, and have to divide."""

import ast
from pathlib import Path

import pytest

from iterppo.config import PPOConfig
from iterppo.lm.policy import Policy
from iterppo.lm.ppo import trainer_arguments
from tests.lm.ppo_runs import Start, config

pytestmark = pytest.mark.usefixtures("own_accelerator")


def test_no_setting_is_silently_unused() -> None:
    root = Path(__file__).resolve().parents[2]
    files = [*(root / "iterppo" / "lm").glob("*.py"), root / "stages" / "ppo.py"]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text("utf-8")))]
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and ast.unparse(node.value).endswith("config")
    }

    assert set(PPOConfig.model_fields) <= read


@pytest.mark.parametrize(
    ("settings", "numbers"),
    [
        pytest.param(
            {"completions_per_update": 30, "minibatches": 4},
            ["completions_per_update = 30", "minibatches = 4"],
            id="minibatches",
        ),
        pytest.param(
            {"completions_per_update": 16, "minibatches": 2, "microbatch_size": 5},
            ["completions_per_update = 16", "microbatch_size = 5"],
            id="microbatches",
        ),
        pytest.param(
            {"completions_per_update": 16, "minibatches": 2, "microbatch_size": 16},
            ["minibatches = 2", "microbatch_size = 16"],
            id="a microbatch larger than the minibatch",
        ),
        pytest.param(
            {"completions_per_update": 16, "completions_per_prompt": 3},
            ["completions_per_prompt = 3"],
            id="prompts",
        ),
    ],
)
def test_completions_that_do_not_divide_are_refused_with_the_numbers(
    settings: dict[str, int], numbers: list[str], policy: Policy, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="must be a multiple") as refused:
        trainer_arguments(config(**settings), policy, tmp_path)
    for number in numbers:
        assert number in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"completions_per_update": 16, "minibatches": 2, "microbatch_size": 8}, "minibatch of 8"),
        (
            {"completions_per_update": 18, "minibatches": 2, "microbatch_size": 9}
            | {"completions_per_prompt": 9},
            "prompts of an update, 18 / 9,",
        ),
    ],
    ids=["minibatches", "prompts"],
)
def test_what_does_not_divide_into_processes_is_said(
    settings: dict[str, int], said: str, policy: Policy, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=f"{said}.* into 3 processes"):
        trainer_arguments(config(**settings), policy, tmp_path, processes=3)


def test_the_steps_are_those_of_the_configuration(start: Start) -> None:
    run = start(updates=3, epochs=2, minibatches=4, microbatch_size=2).train()

    assert run.trainer.state.global_step == 3 * 2 * 4
    assert sorted({row["step"] for row in run.samples}) == [0, 8, 16]
    assert len([row for row in run.trainer.state.log_history if "q" in row]) == 3


def test_returns_of_the_log_have_no_others_and_matter_to_a_critic_alone() -> None:
    with pytest.raises(ValueError, match="critic_warmup returns needs baseline none"):
        PPOConfig(critic_warmup="returns")
    for settings in ({"baseline": "none"}, {"algorithm": "grpo"}, {"critic_samples": 0}):
        assert config(**{"baseline": "others", "critic_warmup": "returns"} | settings)
