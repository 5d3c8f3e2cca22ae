"""One of several processes that train the tiny policy together; the tests compare them with one.

python -m torch.distributed.run --nproc-per-node 2 tests/lm/team_worker.py JOBS.json
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState
from safetensors.torch import save_file

from iterppo.config import PPOConfig
from iterppo.lm import policy as policies
from iterppo.lm.ppo import PPOTrainer
from iterppo.lm.ppo_checkpoint import PPOCheckpoint
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
    stop_behind: int | None = None,
    checkpoint: str | None = None,
    watched: bool = False,
    **settings: Any,
) -> None:
    """Train; write the whole model and the samples of all.

    Args:
        policy: Folder of the policy.
        prompts: Rows with `prompt_id` and `prompt`.
        out: Path of the result, without a suffix.
        deepspeed: DeepSpeed's configuration.
        stop_behind: Stop behind so many updates, as if killed.
        checkpoint: Where to save every update, and to go on from.
        watched: Read the policy on the way, and keep the best.
        settings: Of the stage.
    """
    AcceleratorState._reset_state(reset_partial_state=True)
    place = None if deepspeed is None else Path(deepspeed)
    team = join(place)
    usual = {
        "updates": 3,
        "completions_per_update": 16,
        "minibatches": 2,
        "microbatch_size": 4,
        "epochs": 1,
        "learning_rate": 2e-3,
        "critic_samples": 16,
        "kl_coefficient": 0.1,
    }
    samples: list[dict[str, Any]] = []
    trainer = PPOTrainer(
        policy=policies.load_policy(policy),
        reward=yes_and_brevity,
        prompts=prompts,
        watched=prompts if watched else (),
        config=PPOConfig.model_validate({**usual, **settings}),
        work=out.parent / "work",
        on_samples=samples.extend,
        checkpoint=PPOCheckpoint(Path(checkpoint), key="a", every=1) if checkpoint else None,
        deepspeed=place,
    )
    if stop_behind is not None:
        generate = trainer._generate_and_score_completions

        def until_stopped(inputs: Any) -> Any:
            if trainer._update == stop_behind:
                trainer.control.should_training_stop = True
            return generate(inputs)

        trainer._generate_and_score_completions = until_stopped  # type: ignore[method-assign]
    trainer.train()
    weights = trainer.finish()
    if team.leads:
        save_file(
            {name: value.contiguous() for name, value in weights.items()},
            out.with_suffix(".safetensors"),
        )
        out.with_suffix(".json").write_text(json.dumps(samples), encoding="utf-8")


def main() -> None:
    """Do the jobs of a file, one after the other."""
    policies.prepare_libraries()
    torch.set_num_threads(1)
    jobs = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    for job in jobs:
        train(Path(job.pop("policy")), job.pop("prompts"), Path(job.pop("out")), **job)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
