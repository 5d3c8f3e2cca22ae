"""Token-level PPO with a critic, as a thin subclass of TRL's GRPOTrainer (1.16).

TRL's: generation, clipped surrogate, reference model, accumulation, PEFT, DeepSpeed, checkpoints.
Ours: rendering, the critic and its loss, the KL penalty in the reward, per-token advantages, Q as
the reward.

Where several processes train together, each samples and scores its share of an update's prompts;
then all of them hold the whole update, and each learns from its share of every minibatch.

Shapes: B completions, b of a microbatch, T completion tokens, S prompt and completion tokens
together. Values have T + 1 columns: the last T + 1 of the sequence, so that column t stands before
completion token t.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import PrinterCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from iterppo.config import PPOConfig
from iterppo.errors import DivergenceError
from iterppo.lm import critic_warmup
from iterppo.lm.completion_trainer import CompletionTrainer
from iterppo.lm.critic import BACKBONE, HEAD, Critic, Valued
from iterppo.lm.critic_warmup import LoggedSuggestion
from iterppo.lm.generation import seed_sampling
from iterppo.lm.minibatches import by_prompt
from iterppo.lm.policy import Policy
from iterppo.lm.ppo_checkpoint import PPOCheckpoint, Resume
from iterppo.lm.prompts_of_updates import prompts_of_update
from iterppo.lm.row_sampling import uniforms_of_update
from iterppo.lm.sharding import restore_parameters, whole_weights
from iterppo.lm.team import everyones, team
from iterppo.lm.trl_arguments import Report, trainer_arguments
from iterppo.lm.trl_models import (
    adapters,
    models_built_whole,
    with_positions_from_the_mask,
    without_dropout,
)
from iterppo.lm.watch import Reward, Watch
from iterppo.lm.watching import Watching, limits_of
from iterppo.rl.advantages import generalised_advantages, token_rewards, whiten
from iterppo.rl.group_advantages import (
    group_relative_advantages,
    leave_one_out_advantages,
    less_the_others,
)
from iterppo.rl.kl import kl_estimate
from iterppo.rl.kl_control import AdaptiveKL, FixedKL
from iterppo.rl.losses import value_loss

RATIO_TOLERANCE = 1e-3
"""Largest |log π_new − log π_old| on a minibatch that saw no update yet. Beyond rounding it is a
defect, never noise."""
RATIO_TOLERANCE_BF16 = 0.1
"""The same in bfloat16, whose eight bits round a logit of 20 by as much as 0.06."""

LEAST_ADVANTAGE_SCALE = 1e-4
"""Advantages of less than a ten-thousandth of an outcome are rounding of Q̂ and are not enlarged."""
ADVANTAGE_SCALE_KEPT = 0.9
"""An update's advantages are scaled by no less than this share of the scale before. The spread of Q
may shrink as the policy learns, but not at a stroke: an update that happens to hold completions of
one worth has nothing to teach, and shall not be the loudest."""


class PPOTrainer(CompletionTrainer):
    """PPO (Schulman et al., 2017) on single-turn prompts; or, without a critic, GRPO (Shao et al.,
    2024) and RLOO (Ahmadian et al., 2024), with the same clipped surrogate.

    Args:
        policy: Model, renderer and settings of the policy to improve; its model is trained in
            place.
        reward: From states and actions to Q.
        prompts: Rows with `prompt_id` and `prompt`.
        config: Of the stage.
        work: Folder for what the trainer writes.
        on_samples: Receives the rows of the `policy` contract, a batch at a time.
        watched: Rows as those of `prompts`, that the policy is not trained on: it is read on them
            on the way, and the best that was read is kept. None of them: it is not read.
        judge: Q of other conversations, a second opinion at every reading.
        logged: Suggestions of the log with their returns, for a critic that begins with these
            (`critic_warmup`).
        checkpoint: Where to save, and to go on from what was saved there.
        deepspeed: DeepSpeed's configuration; None: without it.
    """

    _tag_names = ("iterppo", "ppo")
    _buffered_inputs: Any
    beta: float

    def __init__(
        self,
        *,
        policy: Policy,
        reward: Reward,
        prompts: Sequence[dict[str, Any]],
        config: PPOConfig,
        work: Path,
        on_samples: Callable[[list[dict[str, Any]]], None],
        watched: Sequence[dict[str, Any]] = (),
        judge: Reward | None = None,
        logged: Sequence[LoggedSuggestion] = (),
        checkpoint: PPOCheckpoint | None = None,
        deepspeed: Path | None = None,
    ) -> None:
        self.config = config
        self.renderer = policy.renderer
        self.reward = reward
        self.on_samples = on_samples
        self.checkpoint = checkpoint
        self._policy = policy
        self._first_model: Any = None
        if watched and config.watch_updates and not config.kl_coefficient and not config.lora_rank:
            self._first_model = copy.deepcopy(policy.model).eval()
        self.critic = Critic(policy.model, separate=config.critic == "separate" and self.has_critic)
        self.largest_first_log_ratio = 0.0
        self.kl = (
            AdaptiveKL(config.kl_coefficient, target=config.kl_target, horizon=config.kl_horizon)
            if config.kl_target
            else FixedKL(config.kl_coefficient)
        )
        self.advantage_scale = 0.0
        """Of the last update, in units of Q. The next one depends on it: part of a checkpoint."""
        self._scores_B = torch.empty(0)
        self._passes = []
        num_prompts = config.completions_per_update // config.completions_per_prompt
        rows = [{"prompt_id": row["prompt_id"], "prompt": row["prompt"]} for row in prompts]
        self._problems = rows
        self._prompts_per_update = num_prompts
        repeats = -(-num_prompts // len(rows))
        arguments = trainer_arguments(
            config, policy, work, processes=team().size, deepspeed=deepspeed
        )
        with models_built_whole(arguments):
            super().__init__(
                model=policy.model,
                reward_funcs=self._score,
                args=arguments,
                train_dataset=Dataset.from_list(rows * repeats),
                processing_class=policy.renderer.tokenizer,
                peft_config=adapters(config, but=rf"{HEAD}|{BACKBONE}\..*"),
            )
        for own in (HEAD, BACKBONE) if self.critic.separate else (HEAD,):
            getattr(policy.model, own).requires_grad_(True)  # which adapters freeze
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        found = checkpoint.load() if checkpoint else None
        if found is not None:
            restore_parameters(found[0].tensors, self.trained)
            on_samples(found[1])
        elif config.critic_samples and self.has_critic:
            self._begin_critic(rows, logged)
        models = [policy.model]
        if self.ref_model is not None:
            models.append(self.accelerator.unwrap_model(self.ref_model))
        for model in models:
            without_dropout(model)
            with_positions_from_the_mask(model)
        self.remove_callback(PrinterCallback)
        if team().leads:
            self.add_callback(Report(config))
        saved = found[0] if found else None
        per_update = config.epochs * config.minibatches
        self.watching: Watching | None = None
        if watched and config.watch_updates:
            states = [row["prompt"] for row in watched]
            self.watching = Watching(
                Watch(policy, states, reward=reward, judge=judge, seed=config.seed),
                limits_of(config),
                every=config.watch_updates,
                per_update=per_update,
                best_of=config.best_of,
                reference=self._reference,
                weights=lambda: whole_weights(self.critic.model),
            )
            if saved is not None:
                self.watching.take(saved.notes["trainer"]["watching"], saved.tensors)
            self.add_callback(self.watching)
        if checkpoint is not None:
            self.add_callback(Resume(self, checkpoint, saved, per_update=per_update))

    def _begin_critic(
        self, rows: Sequence[dict[str, Any]], logged: Sequence[LoggedSuggestion]
    ) -> None:
        """The value head as it is before the first update."""
        number, seed = self.config.critic_samples, self.config.seed
        policy = self._policy
        policy.model.eval()
        examples: list[Valued]
        if self.config.critic_warmup == "returns":
            examples = critic_warmup.logged(policy, logged, number=number, seed=seed)
        else:
            of_each = self.num_generations if self.config.baseline == "others" else 1
            examples = critic_warmup.drawn(
                policy, self.reward, rows, number=number, seed=seed, per_prompt=of_each
            )
        if examples:
            self.critic.fit_head(examples)
        policy.model.train()

    # --- sampling

    def _score(self, prompts: list[Any], completions: list[Any], **_: Any) -> list[float]:
        return self.reward(
            prompts, [completion[0]["content"].strip() for completion in completions]
        )

    def _calculate_rewards(
        self, inputs: Any, prompts: Any, completions: Any, completion_ids_list: Any
    ) -> torch.Tensor:
        scores: torch.Tensor = super()._calculate_rewards(
            inputs, prompts, completions, completion_ids_list
        )
        self._scores_B = scores[:, 0]
        self._texts = everyones([completion[0]["content"].strip() for completion in completions])
        return scores

    def _problems_of(self, update: int) -> list[dict[str, Any]]:
        """The prompts of an update, each as often as it is completed. Neighbours are of one length
        and share a microbatch, hence little padding."""
        chosen = [
            self._problems[index]
            for index in prompts_of_update(
                len(self._problems),
                per_update=self._prompts_per_update,
                update=update,
                seed=self.config.seed,
            )
        ]
        chosen.sort(key=lambda row: len(self.renderer.prompt_ids(row["prompt"])))
        return [row for row in chosen for _ in range(self.num_generations)]

    def _own_rows(self, process: int) -> list[int]:
        """The rows of an update that a process samples: every so many-th prompt, so that each has
        its share of the long ones, with all its completions."""
        prompts = range(process, self._prompts_per_update, self.accelerator.num_processes)
        return [p * self.num_generations + k for p in prompts for k in range(self.num_generations)]

    def _uniforms(self) -> torch.Tensor:
        """A number of its own for every token of the update to sample it by: what is sampled does
        not depend on the number of processes."""
        return uniforms_of_update(
            self._prompts_per_update * self.num_generations,
            self.max_completion_length,
            update=self._update,
            seed=self.config.seed,
        )[self._own_rows(self.accelerator.process_index)]

    def _gather(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The rows of all processes in every process, in the order in which one alone has them."""
        order = [row for r in range(self.accelerator.num_processes) for row in self._own_rows(r)]
        place = torch.tensor(order, device=self.accelerator.device).argsort()

        def whole(name: str, value: torch.Tensor) -> torch.Tensor:
            padding = self._tokenizer.pad_token_id if name.endswith("_ids") else 0
            padded = self.accelerator.pad_across_processes(
                value, dim=1, pad_index=padding, pad_first=name.startswith("prompt")
            )
            gathered: torch.Tensor = self.accelerator.gather(padded)
            return gathered[place]

        self._scores_B = self._scores_B[place]
        self._texts = [self._texts[row] for row in place.tolist()]
        return {
            name: whole(name, value) if value.ndim == 2 else value for name, value in batch.items()
        }

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        # TRL's own choice of prompts is a place in a stream, which a killed training would have to
        # find again.
        rows = self._problems_of(self._update)
        batch: dict[str, Any] = super()._generate_and_score_completions(
            [rows[row] for row in self._own_rows(self.accelerator.process_index)]
        )
        batch["old_per_token_logps"], batch["old_values"], _ = self._old_pass(batch)
        batch = self._gather(batch)
        mask_BT = batch["completion_mask"]
        old_logprob_BT, value_BT1 = batch["old_per_token_logps"], batch["old_values"]
        kl_BT = torch.zeros_like(old_logprob_BT)
        if "ref_per_token_logps" in batch:
            reference_BT = batch["ref_per_token_logps"]
            kl_BT = kl_estimate(old_logprob_BT, reference_BT, kind="k1") * mask_BT
        last_B = (mask_BT.cumsum(1) * mask_BT).argmax(dim=1, keepdim=True)
        last_token_B = batch["completion_ids"].gather(1, last_B).squeeze(1)
        terminated_B = torch.isin(
            last_token_B, torch.tensor(self.eos_token_ids, device=last_token_B.device)
        )
        judged = self._by_critic if self.has_critic else self._by_the_others
        advantage_BT, return_BT = judged(rows, value_BT1, kl_BT, mask_BT, terminated_B)
        self._record(rows, batch, terminated_B=terminated_B, kl_BT=kl_BT, advantage_BT=advantage_BT)
        self._metrics["train"]["kl_coefficient"].append(self.kl.coefficient)
        if self.has_critic:
            self._note_critic(value_BT1[:, :-1], return_BT, mask_BT)
        batch["advantages"] = self._scaled(advantage_BT, mask_BT)
        batch["old_values"] = value_BT1[:, :-1].contiguous()
        batch["returns"] = return_BT
        self.kl.update(kl_BT.sum(1).mean().item(), completions=len(kl_BT))
        # The order of the minibatches, which TRL now draws, is one for all processes.
        seed_sampling(self.config.seed, call=self._update)
        return batch

    def _by_critic(
        self,
        rows: list[dict[str, Any]],
        value_BT1: torch.Tensor,
        kl_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        terminated_B: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Advantages and returns of tokens."""
        score_B = self._scores_B
        if self.config.baseline == "others":
            score_B = less_the_others(score_B, terminated_B, per_prompt=self.num_generations)
        reward_BT = token_rewards(
            score_B,
            kl_BT,
            mask_BT,
            terminated_B=terminated_B,
            kl_coefficient=self._kl_in_reward,
        )
        return generalised_advantages(
            reward_BT,
            value_BT1,
            mask_BT,
            terminated_B=terminated_B,
            gamma=self.config.gamma,
            lambda_=self.config.lambda_,
        )

    def _by_the_others(
        self,
        rows: list[dict[str, Any]],
        value_BT1: torch.Tensor,
        kl_BT: torch.Tensor,
        mask_BT: torch.Tensor,
        terminated_B: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The completion's advantage on each of its tokens; the values are their own targets, since
        there is no critic to learn.

        There is no estimate that could stand for the rest of a completion that was cut off. Where
        it is deployed it is an abstention, so it is worth Q of that.
        """
        cut = (~terminated_B).nonzero().flatten().tolist()
        worth_B = self._scores_B.clone()
        if cut:
            silence = self.reward([rows[b]["prompt"] for b in cut], [""] * len(cut))
            worth_B[cut] = torch.tensor(silence, dtype=worth_B.dtype, device=worth_B.device)
        worth_B = worth_B - self._kl_in_reward * kl_BT.sum(dim=1)
        of_groups = {"grpo": group_relative_advantages, "rloo": leave_one_out_advantages}
        advantage_B = of_groups[self.config.algorithm](worth_B, per_prompt=self.num_generations)
        return advantage_B.unsqueeze(1) * mask_BT, value_BT1[:, :-1] * mask_BT

    @property
    def has_critic(self) -> bool:
        """Whether values are learned."""
        return self.config.algorithm == "ppo"

    @property
    def _kl_in_reward(self) -> float:
        return self.kl.coefficient if self.config.kl_in == "reward" else 0.0

    def _scaled(self, advantage_BT: torch.Tensor, mask_BT: torch.Tensor) -> torch.Tensor:
        if not (self.config.whiten_advantages and self.has_critic):
            return advantage_BT
        advantage_BT, self.advantage_scale = whiten(
            advantage_BT,
            mask_BT,
            least_scale=max(LEAST_ADVANTAGE_SCALE, ADVANTAGE_SCALE_KEPT * self.advantage_scale),
        )
        self._metrics["train"]["advantage_scale"].append(self.advantage_scale)
        return advantage_BT

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """TRL's, with the completions of one prompt in one microbatch, which reads it once for all
        of them, rows of one length as neighbours, so that there is little padding, and dealt to the
        processes."""
        fresh = self._buffered_inputs
        inputs = super()._prepare_inputs(generation_batch)
        if self._buffered_inputs is not fresh:
            self._buffered_inputs = by_prompt(
                self._buffered_inputs,
                per_minibatch=self.args.gradient_accumulation_steps,
                process=self.accelerator.process_index,
                processes=self.accelerator.num_processes,
            )
            inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]
        return inputs

    # --- learning

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> torch.Tensor:
        self._passes = []
        # TRL's β stands for "keep a reference model", not for a term of the loss: where the KL is
        # paid in the loss, it is by an estimate of ours (`iterppo.rl.kl` says why).
        beta, self.beta = self.beta, 0.0
        try:
            policy_loss: torch.Tensor = super()._compute_loss(model, inputs)
        finally:
            self.beta = beta
        logprob_BT, value_BT1, entropy_BT = self._passes.pop()
        mask_BT = inputs["completion_mask"]
        if (
            self._step < self.args.gradient_accumulation_steps
            or self._step % self._steps_per_update == 0
        ):
            self._assert_ratio_is_one(logprob_BT, inputs["old_per_token_logps"], mask_BT)
        # Tokens of an average minibatch of this update, as in TRL's own ("dapo") normalisation: the
        # gradient does not depend on how a minibatch is divided into microbatches.
        num_tokens = inputs["num_items_in_batch"].clamp(min=1) / self.accelerator.num_processes
        num_tokens = (
            num_tokens * self.args.gradient_accumulation_steps / self.args.steps_per_generation
        )
        loss = policy_loss
        if self.config.kl_in == "loss" and "ref_per_token_logps" in inputs:
            k2_BT = kl_estimate(logprob_BT, inputs["ref_per_token_logps"], kind="k2")
            loss = loss + self.kl.coefficient * (k2_BT * mask_BT).sum() / num_tokens
        critic_loss = (
            value_loss(
                value_BT1[:, :-1],
                inputs["old_values"],
                inputs["returns"],
                mask_BT,
                clip=self.config.value_clip,
            )
            / num_tokens
        )
        if self.has_critic:
            self._metrics["train"]["value_loss"].append(
                self.accelerator.reduce(critic_loss.detach(), "mean").item()
                * self.args.gradient_accumulation_steps
            )
        # Without a critic the head stays as it is, at a gradient of zero, which several processes
        # can agree on.
        loss = loss + (self.config.value_coefficient if self.has_critic else 0.0) * critic_loss
        if self.config.entropy_coefficient and entropy_BT is not None:
            # TRL's own is a mean over each microbatch: its gradient depends on how they are cut.
            bonus = (entropy_BT * mask_BT).sum() / num_tokens
            loss = loss - self.config.entropy_coefficient * bonus
        return loss

    def _assert_ratio_is_one(
        self, new_BT: torch.Tensor, old_BT: torch.Tensor, mask_BT: torch.Tensor
    ) -> None:
        own = ((new_BT - old_BT).abs() * mask_BT).max()
        difference = self.accelerator.gather(own.reshape(1)).max().item()
        if new_BT.isnan().any():
            raise DivergenceError("the policy's probabilities are not numbers.")
        self.largest_first_log_ratio = max(self.largest_first_log_ratio, difference)
        tolerance = RATIO_TOLERANCE_BF16 if self.config.bf16 else RATIO_TOLERANCE
        if not difference <= tolerance:
            raise RuntimeError(
                f"π_new/π_old is exp(±{difference:.3g}) before any update: sampling and training "
                "disagree "
                "(dropout, padding or temperature)"
            )

    def finish(self) -> dict[str, torch.Tensor]:
        """After the training: the weights of the plain model and of the value head, adapters
        merged, whole in every process; to be called by all of them. Where the policy was watched,
        the best that was read."""
        weights = self.watching.best_weights if self.watching else whole_weights(self.critic.model)
        unset_hf_deepspeed_config()  # models that are built from now on are nobody's part
        return weights

    # --- what a checkpoint keeps besides

    def saved_notes(self) -> dict[str, Any]:
        """Numbers that are in no tensor."""
        return {
            "largest_first_log_ratio": self.largest_first_log_ratio,
            "advantage_scale": self.advantage_scale,
            "kl_coefficient": self.kl.coefficient,
            "watching": self.watching.saved_notes() if self.watching else None,
        }

    def saved_tensors(self) -> dict[str, torch.Tensor]:
        """Tensors besides those of the training itself."""
        return self.watching.saved_tensors() if self.watching else {}

    def take_notes(self, notes: dict[str, Any]) -> None:
        """Take them back."""
        self.largest_first_log_ratio = notes["largest_first_log_ratio"]
        self.advantage_scale = notes["advantage_scale"]
        self.kl.coefficient = notes["kl_coefficient"]

    @contextlib.contextmanager
    def _reference(self) -> Iterator[Any]:
        """π_ref, the policy before its first update."""
        if self.ref_model is not None:
            yield self.accelerator.unwrap_model(self.ref_model)
        elif self.config.lora_rank:
            with self.accelerator.unwrap_model(self.model).disable_adapter():
                yield self._policy.model
        else:
            yield self._first_model

    # --- what is told

    @property
    def _update(self) -> int:
        """Number of the update that goes on, from 0."""
        return int(self.state.global_step // (self.config.epochs * self.config.minibatches))

    @property
    def _steps_per_update(self) -> int:
        return int(self.args.steps_per_generation * self.num_iterations)

    def _record(
        self,
        inputs: list[dict[str, Any]],
        batch: dict[str, Any],
        *,
        terminated_B: torch.Tensor,
        kl_BT: torch.Tensor,
        advantage_BT: torch.Tensor,
    ) -> None:
        mask_BT = batch["completion_mask"].bool()
        mean_advantage_B = (advantage_BT * mask_BT).sum(1) / mask_BT.sum(1)
        metrics = self._metrics["train"]
        # Before any baseline. A text that was cut off was scored as if it were finished, and is not
        # paid.
        metrics["q"].append((self._scores_B * terminated_B).mean().item())
        if "ref_per_token_logps" in batch:  # without a reference the distance is not known, not 0
            metrics["kl_per_completion"].append(kl_BT.sum(1).mean().item())
        metrics["truncated"].append(1 - terminated_B.float().mean().item())
        metrics["advantage_nonzero"].append(advantage_BT[mask_BT].ne(0).float().mean().item())
        metrics["abstained"].append(sum(not text for text in self._texts) / len(self._texts))
        metrics["distinct"].append(len(set(self._texts)) / len(self._texts))
        rows = [
            {
                "step": int(self.state.global_step),
                "prompt_id": row["prompt_id"],
                "completion": self._texts[b],
                "tokens": batch["completion_ids"][b][mask_BT[b]].tolist(),
                "truncated": not bool(terminated_B[b]),
                "q": float(self._scores_B[b]),
                "kl": float(kl_BT[b].sum()),
                "advantage": float(mean_advantage_B[b]),
            }
            for b, row in enumerate(inputs)
        ]
        self.on_samples(rows)
        if self.checkpoint is not None:
            self.checkpoint.note(rows)

    def _note_critic(
        self, value_BT: torch.Tensor, return_BT: torch.Tensor, mask_BT: torch.Tensor
    ) -> None:
        real_BT = mask_BT.bool()
        variance = return_BT[real_BT].var(correction=0)
        if variance > 0:
            unexplained = (return_BT - value_BT)[real_BT].var(correction=0)
            self._metrics["train"]["critic_explained_variance"].append(
                1 - (unexplained / variance).item()
            )


__all__ = ["PPOTrainer", "Reward", "trainer_arguments"]
