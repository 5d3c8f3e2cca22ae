"""What the command of a stage does: runs it and says what it made. Light imports only; a stage is
imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from iterppo.launch import Processes, is_told_elsewhere
from iterppo.progress import loudness

if TYPE_CHECKING:
    from iterppo.artifact import Manifest

Setting = str | tuple[str, str, Any]
"""`section.key=value` as it was typed, or the three of them."""


def run_stage(
    stage: str,
    *,
    inputs: dict[str, Path | None],
    out: dict[str, Path | None],
    round_folder: Path | None,
    config: Path | None,
    settings: list[Setting] | list[str] | None,
    force: bool,
    as_json: bool,
    processes: Processes | None = None,
    **extra: Any,
) -> tuple[Manifest, Path] | None:
    """Run a stage and say what it made; its manifest and place, None where another process says
    so."""
    from iterppo.execution import execute

    manifest, path, done = execute(
        stage,
        inputs=inputs,
        outputs=out,
        round_folder=round_folder,
        config_file=config,
        settings=settings or [],
        force=force,
        extra=extra,
        processes=processes,
    )
    if manifest is None or is_told_elsewhere():
        return None
    if as_json:
        typer.echo(manifest.model_dump_json(indent=2))
        return manifest, path
    if loudness() == "quiet":
        return manifest, path
    from iterppo.report.stage_summary import three_lines

    if not done:
        typer.echo(f"{path}: up to date")
    else:
        typer.echo(three_lines(path, manifest, round_folder=round_folder))
    return manifest, path
