"""`iterppo prompts`: trajectories@1, policy@1 -> prompts@1."""

from pathlib import Path

from iterppo.artifact import ArtifactWriter, Manifest, open_artifact
from iterppo.config import PromptsConfig
from iterppo.logs.splits import unit_hash


def run(config: PromptsConfig, *, trajectories: Path, policy: Path, out: Path) -> Manifest:
    """Every state of the log, as the policy's prompt."""
    from iterppo.lm.policy import load_renderer, load_settings, quiet_libraries
    from iterppo.lm.rendering import decisions

    quiet_libraries()
    source, behaviour = open_artifact(trajectories, "trajectories"), open_artifact(policy)
    settings, renderer = load_settings(policy), load_renderer(policy)
    share = 1.0
    if config.max_prompts:
        share = min(1.0, config.max_prompts / max(1, source.manifest.rows))
    inputs = {"trajectories": source.record(), "policy": behaviour.record()}
    with ArtifactWriter(
        out, kind="prompts", stage="prompts", config=config, inputs=inputs
    ) as writer:
        for turns in source.conversations():
            for decision in decisions(turns, system_prompt=settings.system_prompt):
                row = decision.row
                prompt_id = f"{row['conversation_id']}/{row['turn']}"
                writer.count("states")
                fitted = renderer.fit(decision.state, max_tokens=settings.max_prompt_tokens)
                if fitted is None:
                    writer.count("states_too_long")
                    continue
                if unit_hash(prompt_id, seed=config.seed) >= share:
                    writer.count("states_not_sampled")
                    continue
                messages, num_cut = fitted
                writer.write(
                    [
                        {
                            "prompt_id": prompt_id,
                            "conversation_id": row["conversation_id"],
                            "turn": row["turn"],
                            "prompt": messages,
                            "n_tokens": len(renderer.prompt_ids(messages)),
                            "num_cut_messages": num_cut,
                            "split": row["split"],
                        }
                    ]
                )
                writer.count("prompts")
                writer.count(f"prompts_{row['split']}")
                writer.count("prompts_cut", int(num_cut > 0))
    return writer.manifest
