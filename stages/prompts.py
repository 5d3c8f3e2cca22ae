"""`iterppo prompts`: trajectories@2, policy@1 -> prompts@1."""

from __future__ import annotations

import functools
import heapq
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.artifact import Artifact, ArtifactWriter, Manifest, PartWriter, Stretch, open_artifact
from iterppo.config import PromptsConfig
from iterppo.engines import EngineName, open_engine
from iterppo.logs.splits import unit_hash
from iterppo.progress import progress

if TYPE_CHECKING:
    from iterppo.lm.policy import PolicySettings
    from iterppo.lm.rendering import Renderer

STATES_PER_PROCESS = 200_000
"""Fewer are done before another process has begun."""


def run(
    config: PromptsConfig,
    *,
    trajectories: Path,
    policy: Path,
    out: Path,
    workers: int = 0,
    engine: EngineName = "local",
) -> Manifest:
    """Every state of the log, as the policy's prompt. `workers` and `engine` are those of
    `open_engine`."""
    source, behaviour = open_artifact(trajectories, "trajectories"), open_artifact(policy)
    _load(policy, behaviour.manifest.digest)  # a policy that cannot be used is refused at once
    num_states = source.manifest.rows
    below = _limit(source, config)
    inputs = {"trajectories": source.record(), "policy": behaviour.record()}
    with (
        ArtifactWriter(
            out, kind="prompts", stage="prompts", config=config, inputs=inputs
        ) as writer,
        open_engine(engine, workers=workers, enough=1 + num_states // STATES_PER_PROCESS) as pool,
    ):
        tasks = [(stretch, writer.next_part()) for stretch in source.stretches()]
        write = functools.partial(_write, config, below, policy, behaviour.manifest.digest)
        written = pool.map_in_order(write, tasks)
        for rows, counts in progress(written, "prompts", total=len(tasks), unit="parts"):
            writer.adopt(rows)
            for name, number in counts.items():
                writer.count(name, number)
    return writer.manifest


def _limit(source: Artifact, config: PromptsConfig) -> float:
    """The hash below which those lie that are kept: the smallest, so many."""
    if not 0 < config.max_prompts < source.manifest.rows:
        return 1.0
    hashes = (
        unit_hash(_prompt_id(row), seed=config.seed)
        for row in source.rows(["conversation_id", "turn"])
    )
    return heapq.nsmallest(config.max_prompts + 1, hashes)[-1]


def _prompt_id(row: Mapping[str, Any]) -> str:
    return f"{row['conversation_id']}/{row['turn']}"


@functools.lru_cache(maxsize=1)
def _load(policy: Path, digest: str) -> tuple[PolicySettings, Renderer]:
    """Settings and tokenizer, once a process."""
    from iterppo.lm.policy import load_renderer, load_settings, prepare_libraries

    prepare_libraries()
    return load_settings(policy), load_renderer(policy)


def _write(
    config: PromptsConfig, below: float, policy: Path, digest: str, task: tuple[Stretch, Path]
) -> tuple[int, Counter[str]]:
    """A stretch becomes a part."""
    stretch, path = task
    settings, renderer = _load(policy, digest)
    counts = Counter[str]()
    with PartWriter(path, "prompts") as part:
        part.write_rows(_prompts(config, below, settings, renderer, stretch, counts))
    return part.rows, counts


def _prompts(
    config: PromptsConfig,
    below: float,
    settings: PolicySettings,
    renderer: Renderer,
    stretch: Stretch,
    counts: Counter[str],
) -> Iterator[dict[str, Any]]:
    """Rows of prompts@1, and what became of the states."""
    from iterppo.lm.rendering import decisions

    for turns in stretch.conversations():
        for decision in decisions(turns, system_prompt=settings.system_prompt):
            row = decision.row
            prompt_id = _prompt_id(row)
            counts["states"] += 1
            fitted = renderer.fit(decision.state, max_tokens=settings.max_prompt_tokens)
            if fitted is None:
                counts["states_too_long"] += 1
                continue
            if unit_hash(prompt_id, seed=config.seed) >= below:
                counts["states_not_sampled"] += 1
                continue
            messages, num_cut = fitted
            counts["prompts"] += 1
            counts[f"prompts_{row['split']}"] += 1
            counts["prompts_cut"] += int(num_cut > 0)
            yield {
                "prompt_id": prompt_id,
                "conversation_id": row["conversation_id"],
                "turn": row["turn"],
                "prompt": messages,
                "n_tokens": len(renderer.prompt_ids(messages)),
                "num_cut_messages": num_cut,
                "split": row["split"],
            }
