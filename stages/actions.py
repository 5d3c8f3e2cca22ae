"""`iterppo actions`: trajectories@2, policy@1 -> actions@1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.artifact import ArtifactWriter, Manifest, open_artifact
from iterppo.config import ActionsConfig
from iterppo.progress import progress

if TYPE_CHECKING:
    from iterppo.lm.policy import Policy

STATES_TOGETHER = 512
"""States of one call of the sampler."""


def run(config: ActionsConfig, *, trajectories: Path, policy: Path, out: Path) -> Manifest:
    """K actions of the policy in every state that it can see."""
    from iterppo.lm.policy import load_policy, prepare_libraries, use_accelerator

    prepare_libraries()
    source, behaviour = open_artifact(trajectories, "trajectories"), open_artifact(policy)
    loaded = load_policy(policy)
    use_accelerator(loaded)
    inputs = {"trajectories": source.record(), "policy": behaviour.record()}
    with ArtifactWriter(
        out, kind="actions", stage="actions", config=config, inputs=inputs
    ) as writer:
        total = source.manifest.rows
        batch: list[tuple[dict[str, Any], Any]] = []
        states = progress(
            _states(source.conversations(), loaded), "actions", total=total, unit="states"
        )
        calls = 0
        for row, state in states:
            writer.count("states")
            if state is None:
                writer.count("states_too_long")
                continue
            batch.append((row, state))
            if len(batch) == STATES_TOGETHER:
                writer.write(_drawn(config, loaded, batch, call=calls))
                batch, calls = [], calls + 1
        if batch:
            writer.write(_drawn(config, loaded, batch, call=calls))
        writer.metrics["policy_version"] = loaded.settings.version
    return writer.manifest


def _states(
    conversations: Iterator[list[dict[str, Any]]], policy: Policy
) -> Iterator[tuple[dict[str, Any], Any]]:
    """Every turn with its state as the policy sees it; None where it is too long."""
    from iterppo.lm.rendering import decisions

    settings = policy.settings
    for turns in conversations:
        for row, decision in zip(
            turns, decisions(turns, system_prompt=settings.system_prompt), strict=True
        ):
            fitted = policy.renderer.fit(decision.state, max_tokens=settings.max_prompt_tokens)
            yield row, None if fitted is None else fitted[0]


def _drawn(
    config: ActionsConfig, policy: Policy, batch: list[tuple[dict[str, Any], Any]], *, call: int
) -> Iterator[dict[str, Any]]:
    from iterppo.lm.generation import sample, seed_sampling

    # Seeded call by call: what is drawn for a state does not depend on how many come after it.
    seed_sampling(config.seed, call=call)
    drawn = iter(sample(policy, [state for _, state in batch for _ in range(config.samples)]))
    for row, _ in batch:
        for number in range(1, config.samples + 1):
            action = next(drawn)
            yield {
                "conversation_id": row["conversation_id"],
                "turn": row["turn"],
                "sample": number,
                "action": action.text,
                "logprob": action.logprob,
                "policy_version": policy.settings.version,
                "split": row["split"],
            }
