"""Multi-turn PPO and RLOO in the environment itself, as what `benchmarks.loop` is held against.

What a simulator allows and a deployment does not: an update after every few conversations. Of each
round it spends as many conversations as the others see, in batches of its own policy as it is by
then, with the outcome as the only reward. The step is that of `benchmarks.itpo_online`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from benchmarks.itpo_credit import Estimator, credit
from benchmarks.itpo_dialogues import hold_by_model
from benchmarks.itpo_online import Learner
from benchmarks.itpo_settings import Settings as OnlineSettings
from benchmarks.loop_rounds import Deployed, Settings, made, save
from iterppo.environments.loader import load_environment
from iterppo.lm import policy as policies
from iterppo.lm.policy import Policy

ONLINE = OnlineSettings()
MAX_TOKENS = 4096
"""Of a conversation. A policy that has learned to say much writes longer ones than any log had; its
positions are rotary, so that it can read them."""


def online(estimator: Estimator) -> Any:
    """A round's worth of updates, each on `num_prompts` × `per_prompt` conversations."""

    def improve(rounds: list[Path], deployed: Deployed, settings: Settings) -> Deployed:
        out = rounds[-1] / "policy"
        made(out, lambda: _train(deployed.policy, out, estimator, settings, k=len(rounds) - 2))
        return Deployed(out)

    return improve


def _train(before: Path, out: Path, estimator: Estimator, settings: Settings, *, k: int) -> None:
    policies.prepare_libraries()
    loaded = policies.load_policy(before)
    first = Policy(copy.deepcopy(loaded.model).eval(), loaded.renderer, loaded.settings)
    learner = Learner(
        loaded, first, ONLINE, with_critic=estimator == "ppo", seed=settings.seed + 1000 * k
    )
    rollout = settings.of("rollout", env=settings.env)
    for update in range(settings.conversations // (ONLINE.num_prompts * ONLINE.per_prompt)):
        dialogues = hold_by_model(
            load_environment(settings.env),
            loaded,
            num_prompts=ONLINE.num_prompts,
            per_prompt=ONLINE.per_prompt,
            max_turns=rollout.max_turns,
            seed=(settings.seed * 100 + k) * 1_000_003 + update,
            max_tokens=MAX_TOKENS,
        )
        paid = credit("outcome", dialogues, implicit=None, values=None)
        learner.step(dialogues, paid, estimator)
    save(loaded, out, before=before, config=settings.of("init"))
