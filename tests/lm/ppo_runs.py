"""PPO on the tiny policy, as many tests start it, and what they compare a run with."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from iterppo.config import PPOConfig
from iterppo.lm.policy import Policy, load_policy
from iterppo.lm.ppo import PPOTrainer


def config(**settings: Any) -> PPOConfig:
    usual = {
        "updates": 1,
        "completions_per_update": 16,
        "completions_per_prompt": 2,
        "baseline": "none",
        "minibatches": 2,
        "microbatch_size": 4,
        "epochs": 1,
        "learning_rate": 3e-3,
        "kl_coefficient": 0.0,
        "critic_samples": 32,
    }
    return PPOConfig.model_validate({**usual, **settings})


KNOWN = {
    "completions_per_update": 64,
    "completions_per_prompt": 2,
    "baseline": "none",
    "microbatch_size": 32,
    "epochs": 2,
    "learning_rate": 1e-3,
    "kl_coefficient": 0.02,
    "critic_samples": 256,
}


def says_yes(states: Any, actions: Any) -> list[float]:
    return [float(action == "yes") for action in actions]


def short_is_good(states: Any, actions: Any) -> list[float]:
    return [1 / (1 + len(action)) for action in actions]


@dataclass
class Seen:
    """An update as the trainer sees it, and the policy that it was sampled from."""

    model: Any
    batch: dict[str, Any]
    inputs: list[dict[str, Any]]


@dataclass
class Run:
    """A training that may be watched."""

    trainer: PPOTrainer
    policy: Policy
    samples: list[dict[str, Any]] = field(default_factory=list)
    updates: list[Seen] = field(default_factory=list)

    def watch(self) -> "Run":
        generate = self.trainer._generate_and_score_completions

        def watched(inputs: list[dict[str, Any]]) -> dict[str, Any]:
            model = load_policy(Path(self.policy.model.config._name_or_path)).model
            weights = self.policy.model.state_dict()
            model.load_state_dict({n: v for n, v in weights.items() if not n.startswith("value_")})
            batch = generate(inputs)
            self.updates.append(Seen(model.eval(), copy.deepcopy(batch), inputs))
            return batch

        self.trainer._generate_and_score_completions = watched  # type: ignore[method-assign]
        return self

    def train(self) -> "Run":
        self.trainer.train()
        return self


Start = Callable[..., Run]


def means(run: Run) -> list[float]:
    """Mean reward of every update."""
    by_step: dict[int, list[float]] = {}
    for row in run.samples:
        by_step.setdefault(row["step"], []).append(row["q"])
    return [sum(scores) / len(scores) for _, scores in sorted(by_step.items())]


def log_likelihood(model: Any, prompt: list[int], tokens: list[int], temperature: float) -> Any:
    """Of every token of a completion, under the distribution that is sampled from."""
    with torch.no_grad():
        logits_TV = model(input_ids=torch.tensor([prompt + tokens])).logits[0] / temperature
    logprob_TV = logits_TV.log_softmax(-1)[len(prompt) - 1 : -1]
    return logprob_TV.gather(1, torch.tensor(tokens).unsqueeze(1)).squeeze(1)
