"""`iterppo export`: policy@1 -> export@1, a Hugging Face folder."""

from pathlib import Path

from iterppo.artifact import ArtifactWriter, Manifest, open_artifact
from iterppo.config import ExportConfig


def run(config: ExportConfig, *, policy: Path, prompts: Path | None, out: Path) -> Manifest:
    """Copy the model, write the card, and serve one prompt of the round from a fresh process."""
    from iterppo.lm.export import check_export, write_export
    from iterppo.lm.policy import load_renderer, load_settings, prepare_libraries

    prepare_libraries()
    source = open_artifact(policy, "policy")
    inputs = {"policy": source.record()}
    settings, renderer = load_settings(policy), load_renderer(policy)
    settings = settings.model_copy(update={"personas": config.personas})
    messages = [
        {"role": "system", "content": settings.system_prompt},
        {"role": "user", "content": "Hello"},
    ]
    if prompts is not None:
        problems = open_artifact(prompts, "prompts")
        inputs["prompts"] = problems.record()
        states = (row["prompt"] for row in problems.rows(["prompt"]))
        # Plain transformers take control tokens in a message for control tokens, we for text.
        messages = next((s for s in states if not renderer.looks_like_control(s)), messages)
    with ArtifactWriter(out, kind="export", stage="export", config=config, inputs=inputs) as writer:
        write_export(policy, writer.folder, manifest=source.manifest, settings=settings)
        writer.metrics["policy_version"] = settings.version
        if config.check:
            writer.metrics["check_prompt"] = messages[-1]["content"]
            writer.metrics["check_completion"] = check_export(writer.folder, messages)
    return writer.manifest
