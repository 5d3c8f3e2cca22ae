"""The numbers of `benchmarks.itpo`: how large, how long, how often."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Settings:
    """Of one run. n rollouts per prompt, prompts per batch, the clip and the credit model's update
    on every batch are the paper's; learning rates and β are those of a model ten thousand times
    smaller."""

    hidden_size: int = 64
    num_layers: int = 2
    clone_conversations: int = 600
    clone_steps: int = 500
    clone_learning_rate: float = 5e-3

    num_prompts: int = 16
    per_prompt: int = 8
    updates: int = 30
    learning_rate: float = 5e-4
    policy_minibatch: int = 32
    clip: float = 0.2
    kl_coefficient: float = 0.01
    gae_lambda: float = 0.95
    value_coefficient: float = 0.5

    beta: float = 0.1
    credit_learning_rate: float = 5e-4
    credit_minibatch: int = 16

    study_batches: int = 40
    """Batches of the fixed script's conversations that the credit models see."""
    study_checkpoints: int = 10
    study_conversations: int = 600
    """On which turns and tokens are scored; no model is trained on them."""

    def digest(self) -> str:
        """Runs with other settings are other runs."""
        content = json.dumps(asdict(self), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:12]


QUICK = Settings(
    num_prompts=12,
    updates=8,
    study_batches=20,
    study_checkpoints=10,
    study_conversations=300,
)
