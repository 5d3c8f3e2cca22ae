"""A policy step by imitation: MPO (Abdolmaleki et al., 2018) with a given price of the KL.

    E step   K suggestions of π_k in a state, and of those M draws by the weights of π*, which
             solves the step's problem (`iterppo.rl.tilting`)
    M step   maximum likelihood of what was drawn, from π_k on

PPO climbs the same objective by what the policy itself says as it changes. Here every suggestion is
π_k's, so sampling and learning never have to agree on a probability, no ratio is clipped and no
critic is needed; and of many suggestions, which are cheap, few are learned from, which is not. What
π_k hardly ever says is out of reach, in one step.

Shapes: P prompts of an update, K completions each; B completions, S positions with their prompts, T
completion tokens.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from peft import get_peft_model
from transformers import PreTrainedModel

from iterppo.config import PPOConfig
from iterppo.errors import DivergenceError
from iterppo.lm.completion_scoring import score_completions
from iterppo.lm.generation import left_pad, sample, seed_sampling
from iterppo.lm.policy import Policy
from iterppo.lm.ppo_checkpoint import PPOCheckpoint, Resume
from iterppo.lm.prompts_of_updates import prompts_of_update
from iterppo.lm.sharding import restore_parameters, whole_weights
from iterppo.lm.training import right_pad
from iterppo.lm.trl_arguments import Report
from iterppo.lm.trl_models import adapters
from iterppo.lm.watch import Reward, Watch
from iterppo.lm.watching import Watching, limits_of
from iterppo.rl.tilting import soft_advantages, systematic_draws, tilted_kl, tilted_weights


class Drawn(NamedTuple):
    """A completion to imitate."""

    prompt: list[int]
    tokens: list[int]
    draws: int


class MPOTrainer:
    """The policy step that `ppo.algorithm = "mpo"` asks for, in one process.

    Args:
        policy: Model, renderer and settings of the policy to improve; its model is trained in
            place.
        reward: From states and actions to Q.
        prompts: Rows with `prompt_id` and `prompt`.
        config: Of the stage.
        on_samples: Receives the rows of the `policy` contract, a batch at a time.
        watched: Rows as those of `prompts`, that the policy is not trained on: it is read on them
            on the way, and the best that was read is kept. None of them: it is not read.
        judge: Q of other conversations, a second opinion at every reading.
        checkpoint: Where to save, and to go on from what was saved there.

    Raises:
        ValueError: If the completions of an update are not prompts' groups, or its prompts fewer
            than the minibatches.
    """

    has_critic = False
    largest_first_log_ratio = 0.0
    """There is no ratio."""

    def __init__(
        self,
        *,
        policy: Policy,
        reward: Reward,
        prompts: Sequence[dict[str, Any]],
        config: PPOConfig,
        on_samples: Callable[[list[dict[str, Any]]], None],
        watched: Sequence[dict[str, Any]] = (),
        judge: Reward | None = None,
        checkpoint: PPOCheckpoint | None = None,
    ) -> None:
        prompts_of_an_update(config)
        self.config = config
        self._policy = policy
        self._reward = reward
        self._prompts = prompts
        self._on_samples = on_samples
        self._checkpoint = checkpoint
        model: Any = policy.model
        if torch.cuda.is_available():
            model.to("cuda")
        self._first = policy
        self._without_adapters: Callable[[], AbstractContextManager[Any]] = nullcontext
        if chosen := adapters(config):
            seed_sampling(config.seed, call=config.updates)  # a call that no update has
            adapted: Any = get_peft_model(model, chosen)
            self._without_adapters = adapted.disable_adapter
        else:
            first: Any = copy.deepcopy(model).eval()
            self._first = Policy(first, policy.renderer, policy.settings)
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.trained, lr=config.learning_rate, weight_decay=0.0)
        self._per_update = config.epochs * config.minibatches
        steps = config.updates * self._per_update
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: max(0.0, 1 - step / steps)
        )
        # What the callbacks of transformers' trainer are told, whose ours are.
        self.state = SimpleNamespace(
            global_step=0, max_steps=steps, num_input_tokens_seen=0, log_history=[]
        )
        found = checkpoint.load() if checkpoint else None
        if found is not None:
            restore_parameters(found[0].tensors, self.trained)
            on_samples(found[1])
        self._callbacks: list[Any] = [Report(config)]
        self.watching: Watching | None = None
        if watched and config.watch_updates:
            self.watching = Watching(
                Watch(
                    policy,
                    [row["prompt"] for row in watched],
                    reward=reward,
                    judge=judge,
                    seed=config.seed,
                ),
                limits_of(config),
                every=config.watch_updates,
                per_update=self._per_update,
                best_of=config.best_of,
                reference=self._reference,
                weights=lambda: whole_weights(policy.model),
            )
            if found is not None:
                self.watching.take(found[0].notes["trainer"]["watching"], found[0].tensors)
            self._callbacks.append(self.watching)
        if checkpoint is not None:
            saved = found[0] if found else None
            self._callbacks.append(Resume(self, checkpoint, saved, per_update=self._per_update))

    def train(self) -> None:
        """Every update that is left, until the last or until a limit is passed."""
        control = SimpleNamespace(should_training_stop=False)
        self._tell("on_train_begin", control)
        begun = self.state.global_step // self._per_update
        for update in range(begun, self.config.updates):
            told, drawn = self._e_step(update)
            told |= self._m_step(drawn, update, control)
            self.state.log_history.append({"step": self.state.global_step, **told})
            self._tell("on_log", control, logs=told)
            if control.should_training_stop:
                break
        self._tell("on_train_end", control)

    def finish(self) -> dict[str, torch.Tensor]:
        """The weights of the best policy that was read; unwatched, of the last one."""
        return self.watching.best_weights if self.watching else whole_weights(self._policy.model)

    # --- E step

    def _e_step(self, update: int) -> tuple[dict[str, float], list[list[Drawn]]]:
        """What is imitated in an update, prompt by prompt; and what the training's log says of
        it."""
        config, renderer = self.config, self._policy.renderer
        K, beta = config.completions_per_prompt, config.kl_coefficient
        rows = [
            self._prompts[index]
            for index in prompts_of_update(
                len(self._prompts),
                per_update=prompts_of_an_update(config),
                update=update,
                seed=config.seed,
            )
        ]
        of_each = [row for row in rows for _ in range(K)]
        states = [row["prompt"] for row in of_each]
        seed_sampling(config.seed, call=update)
        with self._autocast(), self._before() as first:
            said = sample(first, states)
        texts = [one.text or "" for one in said]
        score_B = torch.tensor(self._reward(states, texts))
        ended_B = torch.tensor([one.tokens[-1] == renderer.eos_id for one in said])
        advantage_B = soft_advantages(score_B, ended_B, per_prompt=K, kl_coefficient=beta)
        weight_PK = tilted_weights(advantage_B, per_prompt=K, kl_coefficient=beta)
        draws_PK = systematic_draws(weight_PK, config.imitated_per_prompt, torch.rand(len(rows)))
        drawn = []
        for p, draws_K in enumerate(draws_PK.tolist()):
            prompt = renderer.prompt_ids(rows[p]["prompt"])
            of_prompt = zip(said[p * K : (p + 1) * K], draws_K, strict=True)
            drawn.append([Drawn(prompt, one.tokens, draws) for one, draws in of_prompt if draws])
        drawn = [each for each in drawn if each]
        samples = [
            {
                "step": int(self.state.global_step),
                "prompt_id": row["prompt_id"],
                "completion": texts[b],
                "tokens": said[b].tokens,
                "truncated": not bool(ended_B[b]),
                "q": float(score_B[b]),
                "kl": 0.0,  # it is π_k's own
                "advantage": float(advantage_B[b]) if ended_B[b] else 0.0,
            }
            for b, row in enumerate(of_each)
        ]
        self._on_samples(samples)
        if self._checkpoint is not None:
            self._checkpoint.note(samples)
        told = {
            "q": float((score_B * ended_B).mean()),
            "truncated": 1 - float(ended_B.float().mean()),
            "abstained": sum(not text for text in texts) / len(texts),
            "distinct": len(set(texts)) / len(texts),
        }
        if drawn:
            draws_B = draws_PK.flatten()
            kl_P = tilted_kl(weight_PK, ended_B.view(-1, K))
            told["q_imitated"] = float((score_B * draws_B).sum() / draws_B.sum())
            told["kl_imitated"] = float(kl_P[draws_PK.sum(dim=1) > 0].mean())
        return told, drawn

    # --- M step

    def _m_step(
        self, drawn: Sequence[Sequence[Drawn]], update: int, control: Any
    ) -> dict[str, float]:
        """One step for each minibatch of prompts; one without anything to imitate changes
        nothing."""
        losses, entropies = [], []
        for epoch in range(self.config.epochs):
            order = torch.randperm(
                len(drawn), generator=_generator(self.config.seed, update, epoch)
            ).tolist()
            for part in range(self.config.minibatches):
                prompts = order[part :: self.config.minibatches]
                chosen = [one for n in prompts for one in drawn[n]]
                self.optimizer.zero_grad(set_to_none=True)
                if chosen:
                    loss, entropy = self._gradient(chosen)
                    if not math.isfinite(loss):
                        raise DivergenceError(f"the loss of update {update + 1} is {loss}.")
                    losses.append(loss)
                    entropies.append(entropy)
                torch.nn.utils.clip_grad_norm_(self.trained, self.config.max_gradient_norm)
                self.optimizer.step()
                self.lr_scheduler.step()
                self.state.global_step += 1
                self._tell("on_step_end", control)
        if not losses:
            return {}
        return {
            "loss": sum(losses) / len(losses),
            "entropy": sum(entropies) / len(entropies),
            "learning_rate": float(self.lr_scheduler.get_last_lr()[0]),
        }

    def _gradient(self, chosen: list[Drawn]) -> tuple[float, float]:
        """Of the loss, which is returned, in nats per imitated token; and the policy's entropy
        there."""
        model: Any = self._policy.model
        model.eval()  # no dropout
        chosen.sort(key=lambda one: len(one.prompt))  # stable: a prompt is read once
        number = sum(one.draws * len(one.tokens) for one in chosen)
        loss = entropy = 0.0
        for start in range(0, len(chosen), self.config.microbatch_size):
            part = chosen[start : start + self.config.microbatch_size]
            ids_BS, seen_BS, num_tokens = _laid_out(part, self._policy)
            draws_B1 = torch.tensor([[one.draws] for one in part], device=model.device)
            with self._autocast():
                found = score_completions(
                    model,
                    None,
                    ids_BS,
                    seen_BS,
                    num_tokens,
                    temperature=self._policy.settings.temperature,
                    entropy=True,
                )
            part_loss = -(draws_B1 * found.logprob_BT).sum() / number
            torch.autograd.backward(part_loss)
            loss += float(part_loss.detach())
            assert found.entropy_BT is not None
            entropy += float((draws_B1 * found.entropy_BT).sum()) / number
        return loss, entropy

    def _autocast(self) -> AbstractContextManager[Any]:
        kind = self._policy.model.device.type
        return torch.autocast(kind, torch.bfloat16) if self.config.bf16 else nullcontext()

    @contextmanager
    def _before(self) -> Iterator[Policy]:
        """π_k: a copy, or the policy without its adapters."""
        with self._without_adapters():
            yield self._first

    @contextmanager
    def _reference(self) -> Iterator[PreTrainedModel]:
        with self._before() as first:
            yield first.model

    def _tell(self, event: str, control: Any, **told: Any) -> None:
        arguments = SimpleNamespace(gradient_accumulation_steps=1)
        for callback in self._callbacks:
            getattr(callback, event)(arguments, self.state, control, **told)

    # --- what a checkpoint keeps besides

    def saved_notes(self) -> dict[str, Any]:
        """Numbers that are in no tensor."""
        return {"watching": self.watching.saved_notes() if self.watching else None}

    def saved_tensors(self) -> dict[str, torch.Tensor]:
        """Tensors besides those of the training itself."""
        return self.watching.saved_tensors() if self.watching else {}

    def take_notes(self, notes: dict[str, Any]) -> None:
        """Nothing: the readings were taken back before."""


def prompts_of_an_update(config: PPOConfig) -> int:
    """P.

    Raises:
        ValueError: If it is no whole number, or too small for the minibatches.
    """
    number, rest = divmod(config.completions_per_update, config.completions_per_prompt)
    if rest:
        raise ValueError(
            f"completions_per_update ({config.completions_per_update}) is no multiple of "
            f"completions_per_prompt ({config.completions_per_prompt})"
        )
    if number < config.minibatches:
        raise ValueError(
            f"{number} prompts of an update are fewer than {config.minibatches} minibatches"
        )
    return number


def _laid_out(chosen: Sequence[Drawn], policy: Policy) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Prompts padded on the left, completions on the right; what is seen of that; T."""
    device = policy.model.device
    prompt_BS, seen_BS = left_pad(
        [one.prompt for one in chosen],
        pad_id=policy.renderer.tokenizer.pad_token_id,
        device=device,
    )
    tokens = [one.tokens for one in chosen]
    token_BT = right_pad(tokens, value=policy.renderer.tokenizer.pad_token_id)
    written_BT = right_pad([[1] * len(each) for each in tokens], value=0)
    ids_BS = torch.cat([prompt_BS, token_BT.to(device)], dim=1)
    return ids_BS, torch.cat([seen_BS, written_BT.to(device)], dim=1), token_BT.shape[1]


def _generator(seed: int, update: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed((seed * 1_000_003 + update) * 1_009 + epoch)


__all__ = ["MPOTrainer", "prompts_of_an_update"]
