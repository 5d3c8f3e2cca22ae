"""`iterppo ppo`: prompts@1, q@1, policy@1 -> policy@1, the improved policy."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from iterppo.artifact import ArtifactWriter, Manifest, fingerprint, open_artifact
from iterppo.config import PPOConfig
from iterppo.errors import DataError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

    from iterppo.lm.ppo import PPOTrainer


def run(
    config: PPOConfig,
    *,
    prompts: Path,
    q: Path,
    policy: Path,
    out: Path,
    deepspeed: Path | None = None,
) -> Manifest | None:
    """Train on the prompts of the training conversations, with Q̂ as the reward; write the policy
    and its samples.

    A run that is killed leaves a checkpoint beside `out`, from which the same command goes on. Of
    several processes that train together, the first one writes; the others return None.
    """
    from iterppo.lm import policy as policies
    from iterppo.lm.ppo import PPOTrainer
    from iterppo.lm.ppo_checkpoint import PPOCheckpoint
    from iterppo.lm.q_function import QFunction
    from iterppo.lm.team import join, leave

    policies.prepare_libraries()
    team = join(deepspeed)
    problems, fitted, behaviour = (
        open_artifact(prompts, "prompts"),
        open_artifact(q, "q"),
        open_artifact(policy),
    )
    inputs = {"prompts": problems.record(), "q": fitted.record(), "policy": behaviour.record()}
    rows = [
        row for row in problems.rows(["prompt_id", "prompt", "split"]) if row["split"] == "train"
    ]
    if not rows:
        raise DataError(
            f"{prompts}: no prompt of a training conversation. Ingest more conversations."
        )
    loaded = policies.load_policy(policy)
    reward = QFunction.load(fitted.path / "model")
    if config.kappa and reward.settings.members == 1:
        raise UsageError(
            f"ppo: kappa = {config.kappa} needs the spread of an ensemble, and {q} has one member. "
            "Fit it with fit-q.members of 2 or more."
        )
    reward.kappa = config.kappa
    reward.use_accelerator()
    checkpoint = PPOCheckpoint(
        out.parent / f".{out.name}.checkpoint",
        key=fingerprint("ppo", config.model_dump(mode="json", by_alias=True), inputs),
        every=config.checkpoint_updates,
    )
    writing: AbstractContextManager[ArtifactWriter | None] = nullcontext()
    if team.leads:
        writing = ArtifactWriter(out, kind="policy", stage="ppo", config=config, inputs=inputs)
    with writing as writer, TemporaryDirectory(prefix="iterppo-ppo-") as work:
        try:
            trainer = PPOTrainer(
                policy=loaded,
                reward=reward,
                prompts=rows,
                config=config,
                work=Path(work),
                on_samples=writer.write if writer is not None else lambda _: None,
                checkpoint=checkpoint,
                deepspeed=deepspeed,
            )
        except ValueError as error:
            raise UsageError(f"ppo: {error}.") from None
        trainer.train()
        weights = trainer.finish()
        leave()
        if writer is None:
            return None
        _write(writer, trainer, weights, policy)
        writer.counts.update(prompts=len(rows), updates=config.updates)
    checkpoint.remove()
    return writer.manifest


def _write(
    writer: ArtifactWriter, trainer: PPOTrainer, weights: dict[str, Tensor], behaviour: Path
) -> None:
    """The improved policy, its critic and its curves."""
    from iterppo.lm import policy as policies
    from iterppo.lm.critic import head_of
    from iterppo.lm.training_log import write_training_log

    head = head_of(weights)
    (writer.folder / "critic.safetensors").write_bytes(policies.tensors_as_bytes(head))
    improved = policies.with_weights(policies.load_policy(behaviour), weights)
    saved = policies.save_policy(
        writer.folder / policies.MODEL,
        model=improved.model,
        renderer=improved.renderer,
        settings=improved.settings.model_dump(exclude={"version"}),
    )
    curves = write_training_log(writer.folder / "training_log.parquet", trainer.state.log_history)
    writer.counts.update(optimiser_steps=trainer.state.global_step)
    writer.metrics.update(
        policy_version=saved.version,
        behaviour_version=improved.settings.version,
        q_first=curves["q"][0],
        q_last=curves["q"][-1],
        kl_last=curves["kl_per_completion"][-1],
        entropy_first=curves["entropy"][0],
        entropy_last=curves["entropy"][-1],
        largest_first_log_ratio=trainer.largest_first_log_ratio,
    )
