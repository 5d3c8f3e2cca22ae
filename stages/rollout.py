"""`iterppo rollout`: policy@1 × environment -> log@1, a file that `iterppo ingest` reads."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from iterppo.artifact import ArtifactWriter, Manifest, file_records, open_artifact
from iterppo.config import RolloutConfig
from iterppo.environments.episodes import Suggestion, TurnSoFar, hold_conversations
from iterppo.environments.loader import load_environment, source_files
from iterppo.environments.plain import is_text, summary
from iterppo.environments.styles import styled
from iterppo.errors import IterPPOError, UsageError
from iterppo.logs.sources import LOG_FILE
from iterppo.logs.splits import unit_hash
from iterppo.personas import Persona, Style, prompts_of
from iterppo.progress import progress
from iterppo.statistics.intervals import wilson_interval


def run(
    config: RolloutConfig, *, policy: Path | None, out: Path, scripted: bool = False
) -> Manifest:
    """Hold conversations; `scripted` takes the environment's own assistant in place of a policy."""
    factory = load_environment(config.env)
    source = open_artifact(policy) if policy else None
    inputs = {"policy": source.record()} if source else {}
    inputs |= file_records("environment", source_files(config.env))
    occasion = _occasion(source.manifest) if source else ""
    assistant: _Scripted | _Model
    if scripted:
        assistant = _Scripted(factory, config)
    else:
        assert policy is not None, "execution asks for a policy"
        assistant = _Model(policy, config, occasion)
    with ArtifactWriter(out, kind="log", stage="rollout", config=config, inputs=inputs) as writer:
        conversations = hold_conversations(
            factory,
            assistant,
            name=config.env,
            number=config.conversations,
            parallel=config.parallel,
            max_turns=config.max_turns,
            seed=config.seed,
            personas=assistant.personas,
            occasion=occasion,
        )
        with (writer.folder / LOG_FILE).open("w", encoding="utf-8") as log:
            for conversation in progress(
                conversations, "rollout", total=config.conversations, unit="conversations"
            ):
                log.write(json.dumps(conversation, ensure_ascii=False) + "\n")
                writer.count("conversations")
                writer.count("outcomes", conversation["outcome"])
                writer.count("unfinished", int(conversation["unfinished"]))
                if assistant.personas:
                    writer.count(f"persona {conversation['persona'] or '(none)'}")
                for message in conversation["messages"]:
                    if message["role"] == "business":
                        writer.count("turns")
                        writer.count(str(message["adoption"] or "adoption unknown"))
        outcomes, held = writer.counts["outcomes"], writer.counts["conversations"]
        low, high = wilson_interval(outcomes, held)
        writer.metrics.update(
            policy_version=assistant.version,
            outcome_rate=outcomes / held,
            outcome_rate_low=low,
            outcome_rate_high=high,
        )
    return writer.manifest


def _occasion(policy: Manifest) -> str:
    """By the artifact, not by what is in it: a policy step that finds nothing better keeps the
    policy, whose next log is to be another one. An export stands for what it was exported from."""
    made = policy.inputs["policy"] if policy.kind == "export" else policy
    return made.digest[:12]


class _Scripted:
    """The environment's own assistant."""

    def __init__(self, factory: Any, config: RolloutConfig) -> None:
        self.version = f"scripted-{config.script}" if config.script else "scripted"
        make = getattr(factory(), "scripted_assistant", None)
        if make is None:
            raise UsageError(
                f"rollout: the environment {config.env} has no scripted assistant. Name a --policy."
            )
        self._place = f"environment {config.env!r}: its scripted assistant"
        self._assistant = self._call(make, config.seed, *([config.script] if config.script else []))
        self.personas = [] if isinstance(config.personas, str) else config.personas
        self._styles: dict[str | None, Style] = {p.name: p.style for p in self.personas}

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        return [
            Suggestion(
                styled(
                    self._styles.get(turns[-1].get("persona"), "as it comes"),
                    partial(self._suggest, turns[-1]["customer"] or "", len(turns)),
                ),
                None,
            )
            for turns in conversations
        ]

    def _suggest(self, customer: str, turn: int) -> str | None:
        text = self._call(lambda: self._assistant.suggest(customer, turn))
        if text is None or is_text(text):
            return text
        raise UsageError(f"{self._place} suggested {text!r}; suggest a text, or None to abstain")

    def _call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return function(*arguments)
        except IterPPOError:
            raise
        except Exception as error:
            raise UsageError(f"{self._place} failed ({summary(error)})") from error


class _Model:
    """A policy as an assistant."""

    def __init__(self, artifact: Path, config: RolloutConfig, occasion: str = "") -> None:
        from iterppo.lm.policy import load_policy, prepare_libraries, use_accelerator

        prepare_libraries()
        self._policy = load_policy(artifact)
        use_accelerator(self._policy)
        own = self._policy.settings
        self.version = own.version
        # Of its own: `actions` and `fit-q` ask the same policy in the same states, and what they
        # draw is not to be what the log holds already.
        purpose = f"rollout/{own.version}/{occasion}"
        self._seed = int(unit_hash(purpose, seed=config.seed) * 2**32)
        self._calls = 0
        self.personas: list[Persona] = []
        if config.personas != "none":
            self.personas = own.personas if config.personas == "policy" else config.personas
        self._prompts = prompts_of(self.personas)
        self._scales: dict[str | None, float] = {
            persona.name: persona.temperature_scale for persona in self.personas
        }

    def __call__(self, conversations: Sequence[Sequence[TurnSoFar]]) -> list[Suggestion]:
        from iterppo.lm.generation import Sampled, sample, seed_sampling
        from iterppo.lm.rendering import Message, decisions

        settings = self._policy.settings
        states: dict[float, list[tuple[int, list[Message]]]] = {}
        for number, turns in enumerate(conversations):
            *_, last = decisions(
                turns, system_prompt=settings.system_prompt, personas=self._prompts
            )
            fitted = self._policy.renderer.fit(last.state, max_tokens=settings.max_prompt_tokens)
            if fitted:
                scale = self._scales.get(turns[-1].get("persona"), 1.0)
                states.setdefault(scale, []).append((number, fitted[0]))
        # Seeded call by call, so that what was generated elsewhere in the process changes nothing.
        seed_sampling(self._seed, call=self._calls)
        self._calls += 1
        drawn: dict[int, Sampled] = {}
        for scale, asked in sorted(states.items()):
            warm = settings.model_copy(update={"temperature": settings.temperature * scale})
            policy = replace(self._policy, settings=warm)
            found = sample(policy, [state for _, state in asked])
            drawn |= zip((number for number, _ in asked), found, strict=True)
        # A state that does not fit its context is one that the policy cannot see: it abstains.
        answers = [drawn.get(number) for number in range(len(conversations))]
        return [
            Suggestion(None, None) if a is None else Suggestion(a.text, a.logprob) for a in answers
        ]
