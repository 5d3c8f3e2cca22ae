"""What TRL and transformers are told, for a stage configuration, and what they tell back."""

from __future__ import annotations

import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback
from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    get_available_reporting_integrations,
)
from trl import GRPOConfig

from iterppo.config import PPOConfig
from iterppo.lm.policy import Policy
from iterppo.progress import Bar, duration, open_bar, pause_s, say


def trainer_arguments(
    config: PPOConfig,
    policy: Policy,
    work: Path,
    *,
    processes: int = 1,
    deepspeed: Path | None = None,
) -> GRPOConfig:
    """TRL's arguments for a stage configuration.

    Args:
        config: Of the stage; its batch sizes are those of all processes together.
        policy: What is trained.
        work: Folder for what the trainer writes.
        processes: How many share every minibatch.
        deepspeed: DeepSpeed's configuration; None: without it.

    Raises:
        ValueError: If the completions of an update do not divide into minibatches, microbatches and
        prompts, or those into processes; if a KL is aimed at and none is paid; or if vLLM is wanted
        and cannot be had.
    """
    share, microbatch = shares(config, processes=processes)
    accumulation = share // microbatch
    return GRPOConfig(
        output_dir=str(work),
        per_device_train_batch_size=microbatch,
        gradient_accumulation_steps=accumulation,
        steps_per_generation=accumulation * config.minibatches,
        num_iterations=config.epochs,
        num_generations=config.completions_per_prompt,
        max_steps=config.updates * config.epochs * config.minibatches,
        max_completion_length=policy.settings.max_new_tokens,
        temperature=policy.settings.temperature,
        top_p=1.0,  # sampling must be π itself, or the ratio and the KL are those of another policy
        top_k=0,
        beta=config.kl_coefficient,
        epsilon=config.clip,
        loss_type="dapo",
        scale_rewards="none",
        learning_rate=config.learning_rate,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        max_grad_norm=config.max_gradient_norm,
        disable_dropout=True,
        gradient_checkpointing=False,
        bf16=config.bf16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        logging_steps=config.epochs * config.minibatches,
        save_strategy="no",
        report_to=_trackers(config),
        use_vllm=config.vllm,
        vllm_mode="colocate",
        disable_tqdm=True,
        seed=config.seed,
        ddp_find_unused_parameters=False,
        deepspeed=None if deepspeed is None else str(deepspeed),
    )


def shares(config: PPOConfig, *, processes: int) -> tuple[int, int]:
    """Completions of a minibatch, and of a microbatch, that fall to each process.

    Raises:
        ValueError: As `trainer_arguments`.
    """
    minibatch, rest = divmod(config.completions_per_update, config.minibatches)
    share, rest_of_processes = divmod(minibatch, processes)
    microbatch = min(config.microbatch_size, share) or 1
    if (
        rest
        or minibatch % config.microbatch_size
        or config.completions_per_update % config.completions_per_prompt
    ):
        raise ValueError(
            f"completions_per_update = {config.completions_per_update} must be a multiple of "
            "minibatches = "
            f"{config.minibatches}, of microbatch_size = {config.microbatch_size} times it, and of "
            "completions_per_prompt = "
            f"{config.completions_per_prompt}"
        )
    if rest_of_processes or share % microbatch:
        raise ValueError(
            f"a minibatch of {minibatch} completions does not divide into {processes} processes "
            f"with microbatches of {microbatch}"
        )
    if config.completions_per_update // config.completions_per_prompt % processes:
        raise ValueError(
            f"the prompts of an update, {config.completions_per_update} / "
            f"{config.completions_per_prompt}, do not divide into {processes} processes; raise "
            "completions_per_update or lower completions_per_prompt"
        )
    if config.kl_target and not config.kl_coefficient:
        raise ValueError("kl_target needs a kl_coefficient above 0 to begin with")
    if config.vllm:
        _check_vllm()
    return share, microbatch


def _check_vllm() -> None:
    if find_spec("vllm") is None:
        raise ValueError(
            "vllm = true needs vLLM, which is not installed. Run: pip install 'trl[vllm]', or set "
            "ppo.vllm = false"
        )
    if not torch.cuda.is_available():
        raise ValueError("vllm = true needs a GPU, and there is none. Set ppo.vllm = false")


def _trackers(config: PPOConfig) -> list[str]:
    return [name.strip() for name in config.report_to.split(",") if name.strip()]


def check_trackers(config: PPOConfig) -> None:
    """To be called before anything is loaded: transformers notices when the training begins.

    Raises:
        ValueError: If a tracker of `report_to` is not one of transformers', or cannot be had here.
    """
    for name in set(_trackers(config)) - {"all", "none", *get_available_reporting_integrations()}:
        if name not in INTEGRATION_TO_CALLBACK:
            known = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
            raise ValueError(f"report_to: {name!r} is no tracker. Known to transformers: {known}")
        try:
            INTEGRATION_TO_CALLBACK[name]()
        except (RuntimeError, ImportError) as error:
            raise ValueError(
                f"report_to: {name} cannot be had: {_lacking(str(error))}, or leave it away"
            ) from None


def _lacking(said: str) -> str:
    """What transformers says of a tracker's library, with the command that mends it."""
    named = re.search(r"pip install ([\w-]+)", said) or re.search(r"requires ([\w-]+) to be", said)
    if named is None:
        return said.strip().rstrip(".")
    return f"{named[1]} is not installed. Run: pip install {named[1]}"


class Report(TrainerCallback):
    """On a terminal a bar; elsewhere a line now and then on standard error."""

    def __init__(self, config: PPOConfig) -> None:
        self._per_update = config.epochs * config.minibatches
        self._updates = config.updates
        self._said = self._begun_s = 0.0
        self._begun_at = self._shown = 0
        self._bar: Bar | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._begun_s, self._begun_at = time.monotonic(), state.global_step
        self._shown = self._begun_at // self._per_update
        self._bar = open_bar("ppo", total=self._updates - self._shown, unit="updates")

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if not logs or "q" not in logs:
            return
        done, now = state.global_step // self._per_update, time.monotonic()
        known = {"Q": "q", "KL": "kl_per_completion", "entropy": "entropy"}
        told = ", ".join(f"{n} {logs[key]:.3f}" for n, key in known.items() if key in logs)
        if self._bar is not None:
            self._bar.advance(done - self._shown, note=told)
            self._shown = done
        elif now - self._said > pause_s(now - self._begun_s):
            self._said = now
            first = self._begun_at // self._per_update
            left_s = (self._updates - done) * (now - self._begun_s) / max(1, done - first)
            say(f"ppo: update {done} of {self._updates}, {told}; {duration(left_s)} left")
