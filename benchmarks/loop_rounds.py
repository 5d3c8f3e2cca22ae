"""A seed's folder of `benchmarks.loop`, and the stages that fill it.

    SEED/scripted/            log, trajectories of the script
    SEED/start/policy         π_0, cloned from it
    SEED/METHOD/script        trajectories of the script again, with the method's returns
    SEED/METHOD/000 …         of each round: log and trajectories of π_k; what the method makes of
                              them and of those before; policy, which is π_{k+1}

An artifact that is there is whole, and is not made again: a run that was killed goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from iterppo.artifact import ArtifactWriter, open_artifact, read_manifest
from iterppo.config import StageConfig
from iterppo.config_loading import load_config
from iterppo.environments.episodes import Assistant, Suggestion, TurnSoFar, hold_conversations
from iterppo.environments.loader import load_environment
from iterppo.lm.generation import sample, seed_sampling
from iterppo.lm.policy import MODEL, Policy, load_policy, save_policy
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import Message, decisions
from iterppo.logs.sources import LOG_FILE, LogFile
from iterppo.pipeline import STAGES, sections

CONFIG = Path(__file__).resolve().parent / "loop.toml"
TOOK = ".seconds"
"""Suffix of a file that holds a number of seconds."""
_Config = TypeVar("_Config", bound=StageConfig)


@dataclass(frozen=True)
class Settings:
    """What all methods of a run share."""

    conversations: int
    """Of every policy."""
    seed: int
    env: str = "shop"
    quick: bool = False

    def of(self, stage: str, **changes: Any) -> Any:
        """The configuration of a stage."""
        quick = {
            "init": {"max_steps": 300},
            "fit-q": {"max_steps": 160},
            "ppo": {"updates": 8},
        }
        changes = (quick.get(stage, {}) if self.quick else {}) | changes
        return load_config(
            stage,
            STAGES[stage].config,
            file=CONFIG,
            settings=[f"seed={self.seed}", *((stage, key, v) for key, v in changes.items())],
            sections=sections(),
        )


@dataclass(frozen=True)
class Deployed:
    """What answers customers in a round: a policy, or the best of N of its suggestions."""

    policy: Path
    q: Path | None = None
    best_of: int = 1


def made(out: Path, make: Callable[[], object]) -> Path:
    """The artifact, which is made if it is not there; a file beside it tells how long that took."""
    if not (out / "manifest.json").exists():
        out.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        make()
        out.with_suffix(TOOK).write_text(f"{time.perf_counter() - started:.3f}", encoding="utf-8")
    return out


def seconds(folder: Path) -> float:
    """What was spent on all that was made below a folder, in whatever run of the benchmark."""
    return sum(float(file.read_text(encoding="utf-8")) for file in folder.rglob(f"*{TOOK}"))


def start(folder: Path, settings: Settings) -> Deployed:
    """π_0, a clone of the script."""
    scripted = folder / "scripted"
    made(
        scripted / "log",
        lambda: STAGES["rollout"].run(
            settings.of("rollout", conversations=settings.conversations, env=settings.env),
            policy=None,
            out=scripted / "log",
            scripted=True,
        ),
    )
    read(scripted, settings)
    policy = folder / "start" / "policy"
    made(
        policy,
        lambda: STAGES["init"].run(
            settings.of("init"), trajectories=scripted / "trajectories", out=policy
        ),
    )
    return Deployed(policy)


def collect(round_folder: Path, deployed: Deployed, settings: Settings, *, k: int) -> Path:
    """Conversations of what is deployed, as trajectories. Customers of round k are its own."""
    made(
        round_folder / "log",
        lambda: _hold(
            round_folder / "log", deployed, settings, seed=1000 * (k + 1) + settings.seed
        ),
    )
    return read(round_folder, settings)


def read(round_folder: Path, settings: Settings) -> Path:
    """The log of a round, as trajectories."""
    log = str(round_folder / "log" / LOG_FILE)
    return made(
        round_folder / "trajectories",
        lambda: STAGES["ingest"].run(
            settings.of("ingest"),
            logs=[LogFile(log, log)],
            out=round_folder / "trajectories",
            rejects=round_folder / "rejects",
        ),
    )


def success(round_folder: Path) -> tuple[int, int]:
    """Conversations with the outcome, and all of them."""
    counts = read_manifest(round_folder / "log").counts
    return counts["outcomes"], counts["conversations"]


def _hold(out: Path, deployed: Deployed, settings: Settings, *, seed: int) -> None:
    """What `iterppo rollout` does, for assistants that are more than a policy as well."""
    config = settings.of("rollout", conversations=settings.conversations, env=settings.env)
    conversations = hold_conversations(
        load_environment(settings.env),
        PolicyAssistant(deployed, seed=seed),
        name=settings.env,
        number=settings.conversations,
        parallel=config.parallel,
        max_turns=config.max_turns,
        seed=seed,
    )
    inputs = {"policy": open_artifact(deployed.policy).record()}
    with (
        ArtifactWriter(out, kind="log", stage="rollout", config=config, inputs=inputs) as writer,
        (writer.folder / LOG_FILE).open("w", encoding="utf-8") as log,
    ):
        for conversation in conversations:
            log.write(json.dumps(conversation, ensure_ascii=False) + "\n")
            writer.count("conversations")
            writer.count("outcomes", conversation["outcome"])


def save(policy: Policy, out: Path, *, before: Path, config: StageConfig) -> None:
    """A policy that no stage made, as an artifact."""
    inputs = {"policy": open_artifact(before).record()}
    with ArtifactWriter(out, kind="policy", stage="init", config=config, inputs=inputs) as writer:
        saved = save_policy(
            writer.folder / MODEL,
            model=policy.model,
            renderer=policy.renderer,
            settings=policy.settings.model_dump(exclude={"version"}),
        )
        writer.metrics["policy_version"] = saved.version


class PolicyAssistant(Assistant):
    """A policy, or the best of N of its suggestions by Q, as `hold_conversations` asks it."""

    def __init__(self, deployed: Deployed, *, seed: int) -> None:
        self._policy: Policy = load_policy(deployed.policy)
        self._policy.model.eval()
        self._q = QFunction.load(deployed.q / "model") if deployed.q else None
        self._best_of = deployed.best_of
        self._seed = seed
        self._calls = 0
        self.version = self._policy.settings.version
        if deployed.q:
            digest = read_manifest(deployed.q).digest
            self.version += f"-best-of-{deployed.best_of}-{digest[:12]}"

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        """A suggestion for each."""
        settings = self._policy.settings
        states: list[list[Message]] = []
        for turns in conversations:
            *_, last = decisions(turns, system_prompt=settings.system_prompt)
            fitted = self._policy.renderer.fit(last.state, max_tokens=settings.max_prompt_tokens)
            assert fitted is not None, "messages of the environment fit the context"
            states.append(fitted[0])
        seed_sampling(self._seed, call=self._calls)
        self._calls += 1
        if self._q is None:
            return [Suggestion(one.text, one.logprob) for one in sample(self._policy, states)]
        several = [state for state in states for _ in range(self._best_of)]
        drawn = sample(self._policy, several)
        worth = self._q(several, [one.text or "" for one in drawn])
        groups = range(0, len(several), self._best_of)
        best = [max(range(at, at + self._best_of), key=worth.__getitem__) for at in groups]
        # How likely the best of N is, is not known.
        return [Suggestion(drawn[at].text, None) for at in best]
