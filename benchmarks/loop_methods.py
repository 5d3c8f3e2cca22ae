"""What a method makes of the conversations so far: the next policy.

ppo, grpo, rloo         Iterative PPO: Q of the log, then single-turn PPO (GRPO, RLOO) on it
mpo                     the same with a step that imitates: suggestions of π_k, drawn by exp(Q/β)
cloning                 imitates the logs, all of them
filtered-cloning        imitates the conversations that ended well
single-turn-outcome     as ppo, but γ = 0: the outcome of the very next message is the reward
single-turn-accepted    as ppo, but the reward is whether the business sent the suggestion
best-of-n               π_0 for ever; of N suggestions the one that Q^π of the log likes best

In the simulator itself, which they may ask what no deployment answers:

online-ppo, online-rloo an update after every few conversations (`benchmarks/loop_online.py`)
refuel                  two ends of one conversation a pair (`benchmarks/loop_refuel.py`)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.loop_online import ONLINE, online
from benchmarks.loop_refuel import BETA, EPOCHS, LEARNING_RATE, refuel
from benchmarks.loop_rounds import Deployed, Settings, made, save
from iterppo.artifact import ArtifactWriter, open_artifact, read_manifest
from iterppo.config import InitConfig, ReturnsConfig
from iterppo.lm import policy as policies
from iterppo.lm.cloning import clone, examples_of
from iterppo.lm.rendering import decisions
from iterppo.pipeline import STAGES

Improve = Callable[[list[Path], Deployed, Settings], Deployed]
"""From the folders of the logs so far, the script's first and the newest round's last, and what was
deployed in that."""

BEST_OF = 8
CLONING_EPOCHS = 2.0
"""Of a policy that goes on from the one before; from scratch it takes more."""
CLONING_LEARNING_RATE = 1e-3


MPO = {
    "updates": 20,
    "completions_per_update": 6016,
    "imitated_per_prompt": 8,
    "minibatches": 94,
    "epochs": 1,
    "learning_rate": 1e-3,
}
"""In the place of what `loop.toml` says of a step: sixteen suggestions of π_0 in each of 7,520
states, which is all of a round's log; steps of what is imitated in four of them."""


def iterative(
    algorithm: str,
    *,
    gamma: float | None = None,
    accepted: bool = False,
    step: Mapping[str, Any] | None = None,
) -> Improve:
    """fit-q, prompts, ppo; `gamma` and `accepted` change what Q is of, `step` how ppo learns."""

    def improve(rounds: list[Path], deployed: Deployed, settings: Settings) -> Deployed:
        folder = rounds[-1]
        q = fit(rounds, deployed, settings, gamma=gamma, accepted=accepted)
        if read_manifest(q).metrics["verdict"] == "noise":
            # `iterppo ppo` refuses it. The policy stays, and more conversations of it are held.
            return deployed
        prompts = made(
            folder / "prompts",
            lambda: STAGES["prompts"].run(
                settings.of("prompts"),
                trajectories=folder / "trajectories",
                policy=deployed.policy,
                out=folder / "prompts",
            ),
        )
        out = folder / "policy"
        made(
            out,
            lambda: STAGES["ppo"].run(
                settings.of("ppo", algorithm=algorithm, **(step or {})),
                prompts=prompts,
                q=q,
                policy=deployed.policy,
                out=out,
            ),
        )
        return Deployed(out)

    return improve


def fit(
    rounds: list[Path],
    deployed: Deployed,
    settings: Settings,
    *,
    gamma: float | None = None,
    accepted: bool = False,
) -> Path:
    """Q of the newest policy, from its log and all before it: nobody throws a log away, and earlier
    policies tried what the newest one no longer says."""
    changed = {} if gamma is None else {"gamma": gamma}
    for each in rounds:
        trajectories, returns = each / "trajectories", each / "returns"
        made(
            returns,
            partial(pay_for_acceptance, trajectories, returns)
            if accepted
            else partial(
                STAGES["returns"].run,
                settings.of("returns", **changed),
                trajectories=trajectories,
                out=returns,
            ),
        )
    *earlier, newest = rounds
    return made(
        newest / "q",
        lambda: STAGES["fit-q"].run(
            settings.of("fit-q"),
            trajectories=newest / "trajectories",
            returns=newest / "returns",
            policy=deployed.policy,
            earlier=earlier,
            out=newest / "q",
        ),
    )


def pay_for_acceptance(trajectories: Path, out: Path) -> None:
    """Returns of 1 where the suggestion was sent, as it was or edited, and of 0 elsewhere."""
    source = open_artifact(trajectories, "trajectories")
    with ArtifactWriter(
        out,
        kind="returns",
        stage="returns",
        config=ReturnsConfig(gamma=0.0),
        inputs={"trajectories": source.record()},
    ) as writer:
        for rows in source.conversations():
            writer.write(
                {
                    "conversation_id": row["conversation_id"],
                    "turn": row["turn"],
                    "reward": (paid := float(row["adoption"] in ("verbatim", "edited"))),
                    "return": paid,
                    "weight": 1.0,
                    "horizon": 1,
                }
                for row in rows
            )


def cloning(*, successes_only: bool) -> Improve:
    """Maximum likelihood of the logs' suggestions, from the deployed policy on."""

    def improve(rounds: list[Path], deployed: Deployed, settings: Settings) -> Deployed:
        out = rounds[-1] / "policy"
        logs = [each / "trajectories" for each in rounds]
        made(out, lambda: imitate(logs, deployed.policy, out, settings, successes_only))
        return Deployed(out)

    return improve


def imitate(
    logs: Sequence[Path], policy: Path, out: Path, settings: Settings, successes_only: bool
) -> None:
    """Clone conversations of logs, and write the policy."""
    policies.prepare_libraries()
    loaded = policies.load_policy(policy)
    chosen = loaded.settings
    examples = []
    for turns in chain.from_iterable(
        open_artifact(log, "trajectories").conversations() for log in logs
    ):
        if turns[0]["split"] != "train":
            continue
        if successes_only and not any(turn["reward"] for turn in turns):
            continue
        examples += examples_of(
            list(decisions(turns, system_prompt=chosen.system_prompt)),
            loaded.renderer,
            max_tokens=chosen.max_prompt_tokens + chosen.max_new_tokens,
        )
    config: InitConfig = settings.of("init")
    clone(
        loaded.model,
        examples,
        pad_id=loaded.renderer.tokenizer.pad_token_id,
        context_weight=config.context_weight,
        epochs=CLONING_EPOCHS,
        max_steps=config.max_steps,
        tokens_per_batch=config.tokens_per_batch,
        learning_rate=CLONING_LEARNING_RATE,
        seed=settings.seed,
    )
    save(loaded, out, before=policy, config=config)


def best_of_n(rounds: list[Path], deployed: Deployed, settings: Settings) -> Deployed:
    """The first policy, and Q of the newest log as the judge of its suggestions."""
    return Deployed(deployed.policy, q=fit(rounds, deployed, settings), best_of=BEST_OF)


_CLONED = {"epochs": CLONING_EPOCHS, "learning_rate": CLONING_LEARNING_RATE}
CONSTANTS: dict[str, dict[str, Any]] = {
    "mpo": MPO,
    "best-of-n": {"best_of": BEST_OF},
    "cloning": _CLONED,
    "filtered-cloning": _CLONED,
    "online-ppo": asdict(ONLINE),
    "online-rloo": asdict(ONLINE),
    "refuel": {"beta": BETA, "epochs": EPOCHS, "learning_rate": LEARNING_RATE},
}
"""What a method has beside `loop.toml`."""

METHODS: dict[str, Improve] = {
    "ppo": iterative("ppo"),
    "grpo": iterative("grpo"),
    "rloo": iterative("rloo"),
    "mpo": iterative("mpo", step=MPO),
    "online-ppo": online("ppo"),
    "online-rloo": online("rloo"),
    "refuel": refuel,
    "best-of-n": best_of_n,
    "filtered-cloning": cloning(successes_only=True),
    "cloning": cloning(successes_only=False),
    "single-turn-outcome": iterative("ppo", gamma=0.0),
    "single-turn-accepted": iterative("ppo", accepted=True),
}
