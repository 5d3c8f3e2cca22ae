"""One of several processes that train the tiny policy, or fit Q on it, together; the tests compare
them with one.

python -m torch.distributed.run --nproc-per-node 2 tests/lm/team_worker.py JOBS.json
"""

import json
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from iterppo.config import FitQConfig, PPOConfig
from iterppo.lm import policy as policies
from iterppo.lm import q_fitting
from iterppo.lm.checkpoint import Checkpoint
from iterppo.lm.ppo import PPOTrainer
from iterppo.lm.ppo_checkpoint import PPOCheckpoint
from iterppo.lm.q_fitting import Target, fit
from iterppo.lm.q_function import QFunction, QSettings
from iterppo.lm.rendering import Decision
from iterppo.lm.team import join


def yes_and_brevity(states: Any, actions: Any) -> list[float]:
    """A reward that differs between completions, and between states."""
    return [
        float(action == "yes") + 0.1 * len(state[-1]["content"]) / (1 + len(action))
        for state, action in zip(states, actions, strict=True)
    ]


def train(
    policy: Path,
    prompts: list[dict[str, Any]],
    out: Path,
    *,
    deepspeed: str | None = None,
    checkpoint: str | None = None,
    watched: bool = False,
    **settings: Any,
) -> None:
    """Train; write the whole model, the samples of all and how many were scored.

    Args:
        policy: Folder of the policy.
        prompts: Rows with `prompt_id` and `prompt`.
        out: Path of the result, without a suffix.
        deepspeed: DeepSpeed's configuration.
        checkpoint: Where to save every update but the last, and to go on from.
        watched: Read the policy on the way, and keep the best.
        settings: Of the stage.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    place = None if deepspeed is None else Path(deepspeed)
    team = join(place)
    usual = {
        "updates": 2,
        "completions_per_update": 16,
        "completions_per_prompt": 2,
        "baseline": "none",
        "minibatches": 2,
        "microbatch_size": 4,
        "epochs": 1,
        "learning_rate": 2e-3,
        "critic_samples": 16,
        "kl_coefficient": 0.1,
    }
    samples: list[dict[str, Any]] = []
    scored = 0

    def reward(states: Any, actions: Any) -> list[float]:
        nonlocal scored
        scored += len(actions)
        return yes_and_brevity(states, actions)

    trainer = PPOTrainer(
        policy=policies.load_policy(policy),
        reward=reward,
        prompts=prompts,
        watched=prompts if watched else (),
        config=PPOConfig.model_validate({**usual, **settings}),
        work=out.parent / "work",
        on_samples=samples.extend,
        checkpoint=PPOCheckpoint(Path(checkpoint), key="a", every=1) if checkpoint else None,
        deepspeed=place,
    )
    trainer.train()
    weights = trainer.finish()
    if team.leads:
        save_file(
            {name: value.contiguous() for name, value in weights.items()},
            out.with_suffix(".safetensors"),
        )
        told = {"samples": samples, "scored": scored * team.size}
        out.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")


def fit_q(
    policy: Path,
    prompts: list[dict[str, Any]],
    out: Path,
    *,
    deepspeed: str | None = None,
    checkpoint: str | None = None,
    **settings: Any,
) -> None:
    """Fit Q on the backbone of the policy; write the artifact's model and what it makes of the log.

    Args:
        policy: Folder of the policy.
        prompts: Rows with `prompt_id` and `prompt`: the states.
        out: Path of the result, without a suffix.
        deepspeed: DeepSpeed's configuration.
        checkpoint: Where to save behind the second step, and to go on from.
        settings: Of the stage.
    """
    place = None if deepspeed is None else Path(deepspeed)
    team = join(place)
    usual = {
        "max_steps": 3,
        "epochs": 100,
        "tokens_per_batch": 600,
        "learning_rate": 5e-3,
        "members": 2,
    }
    config = FitQConfig.model_validate({**usual, **settings})
    q = QFunction.from_policy(policy, QSettings(loss="bce", max_tokens=128, members=config.members))
    torch.manual_seed(team.rank)  # adapters start at random, and not everywhere alike
    q.prepare(config)
    targets = [
        Target(f"c{number}", segment, [float(action == "yes")], [1.0 + number % 3])
        for number in range(12)
        for row in prompts
        for action in ("yes", "no")
        for segment in q.renderer.segments([Decision({}, row["prompt"], action)], max_tokens=128)[0]
    ]

    def sweep() -> list[Target]:
        values = q.segment_values([target.segment for target in targets])
        return [
            Target(t.conversation_id, t.segment, [0.5 * v for v in found], t.weights)
            for t, found in zip(targets, values, strict=True)
        ]

    passes = 0
    own_outputs = q.own_outputs

    def counted(segments: Any) -> Any:
        nonlocal passes
        passes += torch.is_grad_enabled()
        return own_outputs(segments)

    q.own_outputs = counted  # type: ignore[method-assign]
    # Of so few steps the untrained Q is the best for some conversations, and would be kept.
    chosen = patch.object(q_fitting, "is_validation", lambda name, _: name in ("c0", "c10"))
    with chosen:
        fitted = fit(
            q,
            targets,
            config,
            sweep=None if config.method == "mc" else sweep,
            checkpoint=Checkpoint(Path(checkpoint), key="a", every=2) if checkpoint else None,
            deepspeed=place,
        )
    q.finish()
    if team.leads:
        q.save(out)
        told = {
            "losses": fitted.losses,
            "validation": fitted.validation,
            "steps": passes,
            "values": [v for (v,) in q.segment_values([target.segment for target in targets])],
        }
        out.with_suffix(".json").write_text(json.dumps(told), encoding="utf-8")


def main() -> None:
    """Do the jobs of a file, one after the other."""
    policies.prepare_libraries()
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for job in jobs:
        work = fit_q if job.pop("kind") == "q" else train
        work(Path(job.pop("policy")), job.pop("prompts"), Path(job.pop("out")), **job)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
