"""The commands that look at what is there, and make nothing. Light imports only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from iterppo.cli_options import Json
from iterppo.errors import ArtifactError, GateError


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        help="Tell whether Q still changes from round to round: Algorithm 1's `until`. Both Q "
        "score the same held-out turns; exit status 0 where the 95 % interval (by conversation) of "
        "the root mean square of the change lies within the tolerance, 1 where not. The root mean "
        "square decides, not the max-norm beside it: a maximum over sampled turns only grows with "
        "their number."
    )(converged)
    app.command(
        help="Show an artifact, a round, a checkpoint or a file: kind, lineage, counts, columns "
        "with their meaning and statistics, first rows as conversations. A half-written artifact "
        "is shown and said to be one; exit status 4 where an artifact is not what its manifest "
        "says."
    )(inspect)
    app.command(
        help="Tell what is fresh, stale, half-written or missing in a run, per round and stage. "
        "Fresh is what its stage would call up to date, with the settings it was made with: the "
        "configuration of today is not considered. Exit status 0, whatever the state: a run that "
        "is stale is no error."
    )(status)
    app.command(help="Print the published contract of an artifact kind.")(schema)


def converged(
    previous: Annotated[
        Path, typer.Argument(metavar="Q_PREVIOUS", help="Q artifact of the round before.")
    ],
    this: Annotated[Path, typer.Argument(metavar="Q_THIS", help="Q artifact of this round.")],
    probe: Annotated[
        Path | None,
        typer.Option(
            "--probe",
            help="Trajectories artifact whose held-out turns are scored; else the one that "
            "Q_PREVIOUS was fitted on.",
        ),
    ] = None,
    turns: Annotated[
        int,
        typer.Option(
            "--turns", min=1, help="Most turns to score, chosen by a hash of the conversation."
        ),
    ] = 2000,
    tolerance: Annotated[
        float,
        typer.Option(
            "--tolerance", min=0, help="Largest change that counts as none, in discounted outcomes."
        ),
    ] = 0.02,
    as_json: Json = False,
) -> None:
    """Compare two Q-functions, and say no where they differ.

    The upper end of the RMSE's interval decides, since a maximum over sampled pairs only grows with
    their number: with more turns no pair of Q-functions would ever pass.
    """
    from iterppo.artifact import open_artifact
    from iterppo.logs.probe import probe_artifact, probe_turns

    before, after = open_artifact(previous, "q"), open_artifact(this, "q")
    source = probe_artifact(before.manifest, q_path=previous, named=probe)
    conversations = probe_turns(source, turns=turns)

    from iterppo.lm.q_change import q_change
    from iterppo.report.convergence import convergence_text, decision_text
    from iterppo.statistics.convergence import convergence

    scored = q_change(before, after, conversations)
    found = convergence(scored.conversation_ids, scored.previous, scored.this, tolerance=tolerance)
    result = {
        "previous": str(previous),
        "this": str(this),
        "probe": str(source.path),
        **found.told(),
        "num_turns_only_previous": scored.num_only_previous,
        "num_turns_only_this": scored.num_only_this,
        "num_turns_neither": scored.num_neither,
    }
    typer.echo(json.dumps(result, indent=2) if as_json else convergence_text(result))
    if not found.converged:
        raise GateError(f"{this}: {decision_text(result)} (RMSE). Go on with another round.")


def inspect(
    path: Annotated[
        Path,
        typer.Argument(
            help="Artifact, round or run folder, Hugging Face folder, or a file: Parquet, JSON, "
            "safetensors, log."
        ),
    ],
    rows: Annotated[int, typer.Option("--rows", min=0, help="Rows to show.")] = 3,
    conversation: Annotated[
        str | None,
        typer.Option("--conversation", metavar="ID", help="Show this conversation, whole."),
    ] = None,
    statistics: Annotated[
        bool,
        typer.Option(
            "--statistics/--no-statistics", help="Statistics of the columns: reads every row."
        ),
    ] = True,
    as_json: Json = False,
) -> None:
    """Look at whatever lies at a path."""
    from iterppo.report.artifact_content import Wish
    from iterppo.report.inspection import inspect as inspected

    found = inspected(path, Wish(rows, conversation, statistics and conversation is None))
    typer.echo(found.json() if as_json else found.text(whole=conversation is not None))
    if found.damage is not None:
        raise ArtifactError(found.damage)


def status(
    run: Annotated[Path, typer.Argument(help="Run, as runs/shop, or one round of it.")],
    as_json: Json = False,
) -> None:
    """A table of rounds and stages."""
    from iterppo.freshness import run_freshness, worst
    from iterppo.report.status import status_json, status_text

    rounds = {
        name: {stage: (worst(found), found) for stage, found in stages.items()}
        for name, stages in run_freshness(run).items()
    }
    typer.echo(status_json(str(run), rounds) if as_json else status_text(str(run), rounds))


def schema(
    kind: Annotated[
        str | None, typer.Argument(help="Kind, as trajectories; none: list the kinds.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print a contract."""
    from iterppo.report.schemas import kinds_json, kinds_text, schema_json, schema_text

    if kind is None:
        typer.echo(kinds_json() if as_json else kinds_text())
    else:
        typer.echo(schema_json(kind) if as_json else schema_text(kind))
