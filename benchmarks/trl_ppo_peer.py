"""The peer of `benchmarks.ppo_vs_trl`: `trl.experimental.ppo.PPOTrainer` as TRL 1.12 last had it.

    python -m benchmarks.trl_ppo_peer FOLDER      # in the peer's own environment

Nothing of it is changed. The parts of its training step are timed by wrapping them.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

from benchmarks.ppo_task import ToyReward, Watch, read_task


def main(folder: Path) -> None:
    """Train, write the result."""
    watch = Watch()
    task = read_task(folder)
    torch.set_num_threads(task.threads)
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("trl").setLevel(logging.ERROR)
    tokenizer = AutoTokenizer.from_pretrained(task.policy, padding_side="left")
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(task.policy, dtype=torch.float32) for _ in range(2)
    )
    value = AutoModelForSequenceClassification.from_pretrained(
        task.policy, num_labels=1, dtype=torch.float32
    )
    torch.nn.init.zeros_(value.score.weight)
    reward = ToyReward(
        task, vocab_size=len(tokenizer), num_control=len(tokenizer.get_added_vocab())
    )
    watch.wrap(ppo_trainer, "batch_generation", "generation")
    watch.wrap(ppo_trainer, "forward", lambda m, *_: "reference" if m is reference else "update")
    watch.wrap(ppo_trainer, "get_reward", lambda m, *_: "scoring" if m is reward else "old")
    generated = ppo_trainer.batch_generation
    lengths: list[float] = []

    def counted(model: Any, queries: torch.Tensor, *args: Any) -> Any:
        sequences, logits = generated(model, queries, *args)
        written = sequences[:, queries.shape[1] :]
        lengths.append((written != tokenizer.pad_token_id).sum().item() / len(written))
        return sequences, logits

    ppo_trainer.batch_generation = counted
    rows = Dataset.from_list([{"input_ids": ids} for ids in task.prompt_ids])
    trainer = PPOTrainer(
        args=PPOConfig(
            output_dir=str(folder / "peer"),
            # Its accumulation runs over minibatches too, so one microbatch a minibatch is the only
            # way to take a step after each.
            per_device_train_batch_size=task.completions_per_update,
            gradient_accumulation_steps=1,
            num_mini_batches=task.minibatches,
            num_ppo_epochs=task.epochs,
            total_episodes=task.completions_per_update * task.updates,
            local_rollout_forward_batch_size=min(64, task.completions_per_update),
            response_length=task.max_new_tokens,
            stop_token="eos",
            temperature=1.0,
            learning_rate=task.learning_rate,
            kl_coef=task.kl_coefficient,
            vf_coef=task.value_coefficient,
            cliprange=task.clip,
            cliprange_value=task.value_clip,
            gamma=task.gamma,
            lam=task.lambda_,
            num_sample_generations=0,
            gradient_checkpointing=False,
            bf16=False,
            use_cpu=True,
            seed=task.seed,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        ),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=rows,
        eval_dataset=rows,
        callbacks=[_Updates(watch, lengths)],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    watch.start()
    trainer.train()
    watch.finish(folder, parameters=sum(p.numel() for p in policy.parameters()))


class _Updates(TrainerCallback):  # type: ignore[misc]
    def __init__(self, watch: Watch, lengths: list[float]) -> None:
        self._watch, self._lengths = watch, lengths

    def on_log(self, _: Any, __: Any, ___: Any, logs: Any = None, **____: Any) -> None:
        if "objective/scores" in logs:
            self._watch.update_ended(logs["objective/scores"], self._lengths[-1])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
