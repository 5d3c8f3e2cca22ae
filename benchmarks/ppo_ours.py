"""Our side of `benchmarks.ppo_vs_trl`: `iterppo.lm.ppo.PPOTrainer` as the stage runs it.

python -m benchmarks.ppo_ours FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from benchmarks.ppo_task import Task, ToyReward, Watch, read_task
from iterppo.config import PPOConfig
from iterppo.lm.policy import load_policy, prepare_libraries
from iterppo.lm.ppo import PPOTrainer
from iterppo.lm.rendering import Message, Renderer
from iterppo.lm.training import right_pad, token_batches


class TextReward:
    """The toy reward of texts, in batches of similar length, as `QFunction` values them."""

    def __init__(self, module: ToyReward, renderer: Renderer) -> None:
        self._module, self._renderer = module, renderer

    @torch.no_grad()
    def __call__(self, states: Sequence[Sequence[Message]], actions: Sequence[str]) -> list[float]:
        """Rewards, in the order of the texts."""
        pairs = [
            [*self._renderer.prompt_ids(state), *self._renderer.action_ids(action)]
            for state, action in zip(states, actions, strict=True)
        ]
        found = [0.0] * len(pairs)
        for batch in token_batches([len(p) for p in pairs], tokens_per_batch=4096, seed=None):
            ids_BS = right_pad([pairs[index] for index in batch], value=0)
            mask_BS = right_pad([[1] * len(pairs[index]) for index in batch], value=0)
            share_BS = self._module.model(ids_BS, mask_BS).hidden_states[-1].squeeze(-1)
            last_B1 = mask_BS.sum(1, keepdim=True) - 1
            for index, value in zip(batch, share_BS.gather(1, last_B1).tolist(), strict=True):
                found[index] = value[0]
        return found


def main(folder: Path) -> None:
    """Train, write the result."""
    watch = Watch()
    task = read_task(folder)
    torch.set_num_threads(task.threads)
    prepare_libraries()
    policy = load_policy(Path(task.policy))
    tokenizer = policy.renderer.tokenizer
    reward = TextReward(
        ToyReward(task, vocab_size=len(tokenizer), num_control=len(tokenizer.get_added_vocab())),
        policy.renderer,
    )
    trainer = PPOTrainer(
        policy=policy,
        reward=reward,
        prompts=[{"prompt_id": str(n), "prompt": state} for n, state in enumerate(task.states)],
        config=configuration(task),
        work=folder / "ours",
        on_samples=lambda _: None,
    )
    reference = trainer.ref_model

    def pass_of(model: Any, *_: Any, **__: Any) -> str:
        if model is reference:
            return "reference"
        return "update" if torch.is_grad_enabled() else "old"

    watch.wrap(trainer, "_generate_single_turn", "generation")
    watch.wrap(trainer, "_calculate_rewards", "scoring")
    watch.wrap(trainer, "_get_per_token_logps_and_entropies", pass_of)
    trainer.add_callback(_Updates(watch))
    parameters = sum(p.numel() for p in policy.model.parameters())
    watch.start()
    trainer.train()
    watch.finish(folder, parameters=parameters)


def configuration(task: Task) -> PPOConfig:
    """The task in the words of the stage."""
    given = {
        "updates": task.updates,
        "completions_per_update": task.completions_per_update,
        "completions_per_prompt": 2,  # the peer draws every prompt once
        "baseline": "none",  # as the peer
        "minibatches": task.minibatches,
        "microbatch_size": task.microbatch_size,
        "epochs": task.epochs,
        "learning_rate": task.learning_rate,
        "kl_coefficient": task.kl_coefficient,
        "value_coefficient": task.value_coefficient,
        "value_clip": task.value_clip,
        "clip": task.clip,
        "gamma": task.gamma,
        "lambda": task.lambda_,
        "critic_samples": task.critic_samples,
        "seed": task.seed,
        "generation": task.generation,
    }
    return PPOConfig.model_validate(given)


class _Updates(TrainerCallback):  # type: ignore[misc]
    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def on_log(self, _: Any, __: Any, ___: Any, logs: Any = None, **____: Any) -> None:
        if logs and "reward" in logs:  # of all completions, cut off or not, as the peer's
            self._watch.update_ended(logs["reward"], logs["completions/mean_length"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
