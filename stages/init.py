"""`iterppo init`: a model, or trajectories@1 -> policy@1, the first policy π_0."""

from pathlib import Path

from iterppo.artifact import ArtifactWriter, Manifest, file_records, open_artifact
from iterppo.config import InitConfig
from iterppo.errors import DataError, UsageError


def run(config: InitConfig, *, trajectories: Path | None, out: Path) -> Manifest:
    """Wrap an existing model with its prompt, or train a small one from scratch on the log by
    behaviour cloning."""
    source = open_artifact(trajectories, "trajectories") if trajectories else None
    inputs = {"trajectories": source.record()} if source else {}
    if Path(config.model).is_dir():
        inputs |= file_records(
            "model", sorted(p for p in Path(config.model).iterdir() if p.is_file())
        )

    from iterppo.lm import policy as policies
    from iterppo.lm.rendering import Renderer

    policies.prepare_libraries()
    settings = config.model_dump(
        include={"system_prompt", "max_prompt_tokens", "max_new_tokens", "temperature"}
    )
    with ArtifactWriter(out, kind="policy", stage="init", config=config, inputs=inputs) as writer:
        if config.model != "scratch":
            model = policies.load_model(config.model)
            _check_context(config, policies.context_tokens(model))
            renderer = Renderer(policies.load_tokenizer(config.model))
        else:
            from iterppo.lm.first_policy import first_policy

            assert source is not None, "execution asks for trajectories"
            made = first_policy(source, config)
            if made is None:
                raise DataError(
                    f"{trajectories}: no training conversation has an action to learn from."
                )
            model, renderer = made.model, made.renderer
            writer.counts.update(made.counts)
            writer.metrics.update(made.metrics)
        saved = policies.save_policy(
            writer.folder / policies.MODEL, model=model, renderer=renderer, settings=settings
        )
        writer.metrics["policy_version"] = saved.version
        writer.metrics["parameters"] = model.num_parameters()
    return writer.manifest


def _check_context(config: InitConfig, limit: int | None) -> None:
    needed = config.max_prompt_tokens + config.max_new_tokens
    if limit is not None and needed > limit:
        raise UsageError(
            f"{config.model}: its context is {limit} tokens, init.max_prompt_tokens + "
            f"init.max_new_tokens ask for {needed}. Lower one of them."
        )
