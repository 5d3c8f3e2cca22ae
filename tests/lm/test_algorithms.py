"""PPO, GRPO and RLOO on one task; where the KL is paid, and how β is steered."""

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.state import AcceleratorState

from iterppo.config import PPOConfig
from iterppo.lm.policy import load_policy
from iterppo.lm.ppo import PPOTrainer
from iterppo.rl.group_advantages import group_relative_advantages, leave_one_out_advantages

Train = Callable[..., PPOTrainer]
GROUPS = {"grpo": group_relative_advantages, "rloo": leave_one_out_advantages}


@pytest.fixture(autouse=True)
def _own_accelerator() -> Iterator[None]:
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


def says_yes(states: Any, actions: Any) -> list[float]:
    return [float(action == "yes") for action in actions]


@pytest.fixture
def make(make_policy: Callable[..., Path], prompts: list[dict[str, Any]], tmp_path: Path) -> Train:
    """Makes a trainer; the rows that it writes are its attribute `samples`."""

    def trainer(*, reward: Any = says_yes, max_new_tokens: int = 6, **settings: Any) -> PPOTrainer:
        samples: list[dict[str, Any]] = []
        usual = {
            "updates": 1,
            "completions_per_update": 64,
            "completions_per_prompt": 4,
            "minibatches": 2,
            "microbatch_size": 32,
            "epochs": 2,
            "learning_rate": 1e-3,
            "kl_coefficient": 0.02,
            "critic_samples": 256,
        }
        made = PPOTrainer(
            policy=load_policy(make_policy(steps=100, max_new_tokens=max_new_tokens)),
            reward=reward,
            prompts=prompts,
            config=PPOConfig.model_validate({**usual, **settings}),
            work=tmp_path / "work",
            on_samples=samples.extend,
        )
        made.samples = samples  # type: ignore[attr-defined]
        return made

    return trainer


def means(trainer: Any) -> list[float]:
    """Mean reward of every update."""
    return [row["q"] for row in trainer.state.log_history if "q" in row]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"algorithm": "ppo"}, id="ppo"),
        pytest.param({"algorithm": "ppo", "kl_in": "loss"}, id="ppo, KL in the loss"),
        pytest.param({"algorithm": "grpo"}, id="grpo"),
        pytest.param({"algorithm": "grpo", "kl_in": "loss"}, id="grpo, KL in the loss"),
        pytest.param({"algorithm": "rloo", "learning_rate": 2e-3}, id="rloo"),
    ],
)
def test_every_algorithm_solves_a_bandit(settings: dict[str, Any], make: Train) -> None:
    trainer = make(updates=16, **settings)
    trainer.train()
    assert 0.05 < means(trainer)[0] < 0.4
    assert statistics.median(means(trainer)[-3:]) > 0.9


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_every_token_has_the_advantage_of_its_completion_among_those_of_its_prompt(
    algorithm: str, make: Train
) -> None:
    # Every text has a worth of its own.
    def worth(states: Any, actions: Any) -> list[float]:
        return [sum(map(ord, action)) % 101 / 100 for action in actions]

    trainer = make(algorithm=algorithm, reward=worth)
    seen: list[dict[str, Any]] = []
    sampled = trainer._generate_and_score_completions
    trainer._generate_and_score_completions = lambda inputs: (  # type: ignore[method-assign]
        seen.append(sampled(inputs)) or seen[-1]
    )
    trainer.train()
    batch, rows = seen[0], trainer.samples  # type: ignore[attr-defined]
    for start in range(0, 64, 4):
        group = rows[start : start + 4]
        assert len({row["prompt_id"] for row in group}) == 1
        paid = torch.tensor([row["q"] - 0.02 * row["kl"] for row in group])
        expected = GROUPS[algorithm](paid, per_prompt=4)
        for row, advantage in zip(range(start, start + 4), expected.tolist(), strict=True):
            mask_T = batch["completion_mask"][row].bool()
            found_T = batch["advantages"][row]
            assert found_T[mask_T].tolist() == pytest.approx([advantage] * int(mask_T.sum()))
            assert not found_T[~mask_T].any()


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_without_a_critic_nothing_is_fitted_and_the_head_stays(algorithm: str, make: Train) -> None:
    trainer = make(algorithm=algorithm)
    trainer.train()
    assert not any(weight.any() for weight in trainer.critic.model.value_head.parameters())
    assert not any("value_loss" in row for row in trainer.state.log_history)


@pytest.mark.parametrize("algorithm", ["grpo", "rloo"])
def test_a_completion_that_is_cut_off_is_worth_an_abstention(algorithm: str, make: Train) -> None:
    asked: list[list[str]] = []

    def silence_is_golden(states: Any, actions: Any) -> list[float]:
        asked.append(list(actions))
        return [1.0 if action == "" else 0.0 for action in actions]

    trainer = make(
        algorithm=algorithm, reward=silence_is_golden, max_new_tokens=3, kl_coefficient=0.0
    )
    trainer.train()
    rows = trainer.samples  # type: ignore[attr-defined]
    cut = [row for row in rows if row["truncated"]]
    assert 0 < len(cut) < 64
    assert asked[1] == [""] * len(cut)
    mixed = [
        row
        for start in range(0, 64, 4)
        for row in rows[start : start + 4]
        if 0 < sum(other["truncated"] for other in rows[start : start + 4]) < 4
    ]
    assert mixed
    assert all((row["advantage"] > 0) == row["truncated"] for row in mixed)


def test_the_penalty_in_the_loss_pulls_back_as_the_one_in_the_reward_does(make: Train) -> None:
    # Nothing is paid but the KL: a policy that was moved away goes back.
    def nothing(states: Any, actions: Any) -> list[float]:
        return [0.0] * len(actions)

    for kl_in in ("reward", "loss"):
        trainer = make(
            updates=12, reward=nothing, kl_in=kl_in, kl_coefficient=0.2, critic_samples=0
        )
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in trainer.model.model.parameters():
                parameter.add_(0.06 * torch.randn(parameter.shape, generator=generator))
        trainer.train()
        kl = [row["kl_per_completion"] for row in trainer.state.log_history if "q" in row]
        assert kl[0] > 0.3
        assert statistics.mean(kl[-3:]) < 0.6 * kl[0]
        AcceleratorState._reset_state(reset_partial_state=True)


def test_beta_follows_the_kl_and_is_part_of_a_checkpoint(make: Train) -> None:
    trainer = make(updates=4, kl_target=0.001, kl_horizon=64, learning_rate=3e-3)
    trainer.train()
    beta = [row["kl_coefficient"] for row in trainer.state.log_history if "q" in row]
    assert beta[0] == pytest.approx(0.02)
    assert beta[1] == pytest.approx(0.02 * 0.8)  # no KL yet: the largest step down
    assert beta[3] > beta[2]  # by then there is more than a thousandth
    other = make(kl_target=0.001, kl_horizon=64)
    other.take_notes(trainer.saved_notes())
    assert other.kl.coefficient == trainer.kl.coefficient


def test_a_kl_that_is_aimed_at_and_not_paid_is_refused(make: Train) -> None:
    with pytest.raises(ValueError, match="kl_target needs a kl_coefficient"):
        make(kl_target=1.0, kl_coefficient=0.0)
