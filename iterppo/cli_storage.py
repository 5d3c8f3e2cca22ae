"""The commands that copy artifacts to shared storage and back. Light imports only."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from iterppo.cli_options import Json, Quiet, Verbose
from iterppo.progress import loudness

if TYPE_CHECKING:
    from iterppo.artifact.storage import Copied, Watch

Url = Annotated[
    str, typer.Argument(metavar="URL", help="s3://…, gs://…, file://… or an absolute path.")
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        help="Copy an artifact, a round or a run to shared storage. Each artifact is checked "
        "first, and its manifest goes last: what has a manifest there is whole. What is there "
        "already, with the same content, stays."
    )(push)
    app.command(
        help="Copy an artifact, a round or a run from shared storage. Each artifact is checked "
        "against its manifest and comes to its place when it is whole. What is here already, with "
        "the same content, stays."
    )(pull)


def push(
    source: Annotated[Path, typer.Argument(help="Artifact, round (runs/shop/003) or run.")],
    url: Url,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """From here to there."""
    from iterppo.artifact import storage
    from iterppo.artifact.file_systems import shown

    _tell(storage.push(source, url, watch=_watch("push")), shown(url), as_json)


def pull(
    url: Url,
    target: Annotated[Path, typer.Argument(help="What it becomes here.")],
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """From there to here."""
    from iterppo.artifact import storage

    _tell(storage.pull(url, target, watch=_watch("pull")), str(target), as_json)


def _watch(what: str) -> Watch:
    from iterppo.progress import progress

    return lambda copied, total: progress(copied, what, total=total, unit="files")


def _tell(copied: Copied, place: str, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"place": place} | dataclasses.asdict(copied), indent=2))
    elif loudness() != "quiet":
        typer.echo(
            f"{place}: {copied.artifacts} artifacts, {copied.were_there} of them were there; "
            f"{copied.files} files ({copied.size_bytes / 1e6:,.1f} MB) copied"
        )
