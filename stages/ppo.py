"""`iterppo ppo`: prompts@1, q@1, policy@1 -> policy@1, the improved policy."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from iterppo.artifact import Artifact, ArtifactWriter, Manifest, fingerprint, open_artifact
from iterppo.config import PPOConfig
from iterppo.contracts.trajectories import action
from iterppo.errors import DataError, DivergenceError, UsageError
from iterppo.logs.splits import unit_hash
from iterppo.progress import say

if TYPE_CHECKING:
    from torch import Tensor

    from iterppo.lm.critic_warmup import LoggedSuggestion
    from iterppo.lm.mpo import MPOTrainer
    from iterppo.lm.ppo import PPOTrainer


def run(
    config: PPOConfig,
    *,
    prompts: Path,
    q: Path,
    policy: Path,
    out: Path,
    judge: Path | None = None,
    trajectories: Path | None = None,
    deepspeed: Path | None = None,
) -> Manifest | None:
    """Train on the prompts of the training conversations, with Q̂ as the reward; write the policy
    and its samples.

    The policy is read on prompts of held-out conversations on the way. The best that was read is
    the one that is written; `judge`, Q̂ of other conversations, is a second opinion about it.

    A run that is killed leaves a checkpoint beside `out`, from which the same command goes on. Of
    several processes that train together, the first one writes; the others return None.
    """
    from iterppo.lm import policy as policies
    from iterppo.lm.mpo import MPOTrainer, prompts_of_an_update
    from iterppo.lm.ppo import PPOTrainer
    from iterppo.lm.ppo_checkpoint import PPOCheckpoint
    from iterppo.lm.q_function import QFunction
    from iterppo.lm.team import join, leave
    from iterppo.lm.training_plan import training_plan
    from iterppo.lm.trl_arguments import check_trackers, shares

    policies.prepare_libraries()
    team = join(deepspeed)
    imitates = config.algorithm == "mpo"
    try:
        check_trackers(config)
        prompts_of_an_update(config) if imitates else shares(config, processes=team.size)
    except ValueError as error:
        raise UsageError(f"ppo: {error}.") from None
    problems, fitted, behaviour = (
        open_artifact(prompts, "prompts"),
        open_artifact(q, "q"),
        open_artifact(policy),
    )
    inputs = {"prompts": problems.record(), "q": fitted.record(), "policy": behaviour.record()}
    second = None if judge is None else open_artifact(judge, "q")
    if second is not None:
        _refuse_the_same_conversations(fitted, second)
        inputs["judge"] = second.record()
    suggestions = []
    if config.critic_warmup == "returns":
        log = _log(trajectories)
        inputs["trajectories"] = log.record()
        suggestions = _logged(problems, fitted, log)
    rows, watched = _divided(problems, config)
    if not rows:
        raise DataError(
            f"{prompts}: no prompt of a training conversation. Ingest more conversations."
        )
    if config.watch_updates and not watched and team.leads:
        say(
            f"ppo: {prompts} has no prompt of a held-out conversation, so the policy is not "
            "watched: no limit stops the training, and the last update is kept. For such prompts, "
            "raise ingest.heldout."
        )
    loaded = policies.load_policy(policy)
    reward = QFunction.load(fitted.path / "model")
    if config.kappa and reward.settings.members == 1:
        raise UsageError(
            f"ppo: kappa = {config.kappa} needs the spread of an ensemble, and {q} has one member. "
            "Fit it with fit-q.members of 2 or more."
        )
    reward.kappa = config.kappa
    if team.leads:
        for line in training_plan(config, loaded, q_model=reward.model):
            say(line)
    reward.use_accelerator()
    second_opinion = None if second is None else QFunction.load(second.path / "model")
    if second_opinion is not None:
        second_opinion.use_accelerator()
    checkpoint = PPOCheckpoint(
        out.parent / f".{out.name}.checkpoint",
        key=fingerprint("ppo", config.model_dump(mode="json", by_alias=True), inputs),
        every=config.checkpoint_updates,
    )
    writing: AbstractContextManager[ArtifactWriter | None] = nullcontext()
    if team.leads:
        writing = ArtifactWriter(out, kind="policy", stage="ppo", config=config, inputs=inputs)
    with writing as writer, TemporaryDirectory(prefix="iterppo-ppo-") as work:
        given: dict[str, Any] = {
            "policy": loaded,
            "reward": reward,
            "prompts": rows,
            "config": config,
            "on_samples": writer.write if writer is not None else lambda _: None,
            "watched": watched,
            "judge": second_opinion,
            "checkpoint": checkpoint,
        }
        trainer: MPOTrainer | PPOTrainer
        if imitates:
            trainer = MPOTrainer(**given)
        else:
            trainer = PPOTrainer(**given, work=Path(work), logged=suggestions, deepspeed=deepspeed)
        try:
            weights = _trained(trainer)
        except DivergenceError:
            if team.leads:  # from it the same command would go on to the same end
                checkpoint.remove()
            raise
        leave()
        if writer is None:
            return None
        _write(writer, trainer, weights, policy)
        writer.counts.update(prompts=len(rows), prompts_watched=len(watched))
        if not config.kappa:  # which is taken off Q, so that it may be less than any return
            ends = {
                name: fitted.manifest.metrics.get(name) for name in ("return_min", "return_max")
            }
            writer.metrics.update({n: float(end) for n, end in ends.items() if end is not None})
    checkpoint.remove()
    return writer.manifest


def _refuse_the_same_conversations(q: Artifact, judge: Artifact) -> None:
    """A second opinion is one of other conversations."""
    logs, parts = (
        [
            {i.digest for i in each.manifest.inputs.values() if i.kind == "trajectories"}
            for each in (q, judge)
        ],
        [each.manifest.config.get("part", "all") for each in (q, judge)],
    )
    if logs[0] & logs[1] and set(parts) != {"first-half", "second-half"}:
        raise UsageError(
            f"ppo: {judge.path} was fitted on conversations that {q.path} was fitted on, and is no "
            f"second opinion (fit-q.part: {parts[1]} and {parts[0]}). Fit them on the two halves "
            "(make round JUDGE=yes), name another --judge, or remove it."
        )


def _divided(
    problems: Artifact, config: PPOConfig
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Prompts to train on, and so many held-out ones to watch, chosen by a hash."""
    rows = list(problems.rows(["prompt_id", "prompt", "split"]))
    heldout = [row for row in rows if row["split"] == "heldout"]
    heldout.sort(key=lambda row: unit_hash(row["prompt_id"], seed=config.seed))
    train = [row for row in rows if row["split"] == "train"]
    return train, heldout[: config.watched_prompts if config.watch_updates else 0]


def _log(trajectories: Path | None) -> Artifact:
    if trajectories is None:
        raise UsageError(
            'ppo: critic_warmup = "returns" needs the suggestions of the log. Name --trajectories, '
            'or leave it at "q".'
        )
    return open_artifact(trajectories, "trajectories")


def _logged(problems: Artifact, fitted: Artifact, log: Artifact) -> list[LoggedSuggestion]:
    """Suggestions in the training prompts' states, with the returns that Q was fitted on."""
    from iterppo.lm.critic_warmup import LoggedSuggestion

    place = ("conversation_id", "turn")
    known = {
        tuple(row[name] for name in place): (row["return"], row["weight"])
        for row in fitted.rows([*place, "return", "weight", "split"])
        if row["return"] is not None and row["split"] == "train"
    }
    said = {
        key: action(row)
        for row in log.rows([*place, "suggestion", "sent", "adoption"])
        if (key := tuple(row[name] for name in place)) in known
    }
    found = [
        LoggedSuggestion(row["prompt"], text, *known[key])
        for row in problems.rows([*place, "prompt"])
        if (text := said.get(key := tuple(row[name] for name in place))) is not None
    ]
    if not found:
        raise DataError(
            f"{log.path}: no turn of it has a prompt in {problems.path} and a return in "
            f"{fitted.path}. Name artifacts of one round."
        )
    return found


def _trained(trainer: MPOTrainer | PPOTrainer) -> dict[str, Tensor]:
    """Weights of the policy that is kept, after the training."""
    config = trainer.config
    try:
        trainer.train()
        weights = trainer.finish()
        if not all(weight.isfinite().all() for weight in weights.values()):
            raise DivergenceError("weights that are not finite")
    except DivergenceError:
        update = -(-trainer.state.global_step // (config.epochs * config.minibatches))
        if not update:  # it was like that before
            raise
        raise DivergenceError(
            f"ppo: the training diverged: behind update {update} of {config.updates} the policy's "
            f"probabilities are not numbers. Lower ppo.learning_rate, {config.learning_rate:g}."
        ) from None
    return weights


def _write(
    writer: ArtifactWriter,
    trainer: MPOTrainer | PPOTrainer,
    weights: dict[str, Tensor],
    behaviour: Path,
) -> None:
    """The improved policy, its critic and its curves."""
    from iterppo.lm import policy as policies
    from iterppo.lm.critic import critic_of
    from iterppo.lm.training_log import write_training_log

    if trainer.has_critic:
        critic = critic_of(weights)
        (writer.folder / "critic.safetensors").write_bytes(policies.tensors_as_bytes(critic))
    improved = policies.with_weights(policies.load_policy(behaviour), weights)
    saved = policies.save_policy(
        writer.folder / policies.MODEL,
        model=improved.model,
        renderer=improved.renderer,
        settings=improved.settings.model_dump(exclude={"version", "personas"}),
    )
    curves = write_training_log(writer.folder / "training_log.parquet", trainer.state.log_history)
    steps = trainer.state.global_step
    writer.counts.update(
        optimiser_steps=steps, updates=steps // (trainer.config.epochs * trainer.config.minibatches)
    )
    writer.metrics.update(
        policy_version=saved.version,
        behaviour_version=improved.settings.version,
        q_first=curves["q"][0],
        q_last=curves["q"][-1],
        largest_first_log_ratio=trainer.largest_first_log_ratio,
    )
    if "entropy" in curves:  # it is not where every completion was cut off
        writer.metrics.update(
            entropy_first=curves["entropy"][0], entropy_last=curves["entropy"][-1]
        )
    if "kl_per_completion" in curves:
        writer.metrics["kl_last"] = curves["kl_per_completion"][-1]
    if trainer.watching is not None:
        writer.write_json("watch.json", trainer.watching.saved_notes())
        writer.metrics.update(trainer.watching.summary())
        say(f"ppo: {trainer.watching.sentence()}")
