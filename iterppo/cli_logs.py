"""The commands of the stages from a deployment, by its log, to returns. Light imports only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from iterppo.cli_options import (
    Config,
    Force,
    Json,
    Normalise,
    OnEngine,
    Out,
    Policy,
    Quiet,
    Rewards,
    Round,
    Settings,
    Trajectories,
    Verbose,
    Workers,
)
from iterppo.cli_run import Setting, run_stage
from iterppo.pipeline import STAGES


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(help=STAGES["rollout"].help)(rollout)
    app.command(help=STAGES["ingest"].help)(ingest)
    app.command(help=STAGES["init"].help)(init)
    app.command(help=STAGES["credit"].help)(credit)
    app.command(help=STAGES["returns"].help)(returns)


def rollout(
    policy: Annotated[
        str | None,
        typer.Option(
            "--policy",
            help="Policy artifact or export, or `scripted`: the environment's own assistant; "
            "`scripted:NAME` where it has several (shop, tutor: mediocre, expert, uniform).",
        ),
    ] = None,
    env: Annotated[
        str | None, typer.Option("--env", help="Environment: a name, or module:factory.")
    ] = None,
    out: Out = None,
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Stands in for a deployment."""
    kind, _, script = (policy or "").partition(":")
    scripted = kind == "scripted"
    chosen = [*(settings or []), *([f"rollout.env={json.dumps(env)}"] if env else [])]
    if scripted and script:
        chosen.append(f"rollout.script={json.dumps(script)}")
    run_stage(
        "rollout",
        inputs={"policy": None if scripted or policy is None else Path(policy)},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=chosen,
        force=force,
        as_json=as_json,
        scripted=scripted,
    )


def ingest(
    logs: Annotated[
        list[str] | None,
        typer.Argument(
            help="Files (JSON Lines, CSV, Parquet; also .gz, .zst), globs, URLs (s3://…, gs://…), "
            "log artifacts, or - for standard input."
        ),
    ] = None,
    out: Out = None,
    rejects: Annotated[
        Path | None, typer.Option("--rejects", help="Folder of the rejects artifact.")
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format", help="auto, conversations, openai, sharegpt or events. [ingest.format]"
        ),
    ] = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--mapping", help="TOML file: columns of an event log. [ingest.mapping]"),
    ] = None,
    cutoff: Annotated[
        str | None,
        typer.Option("--cutoff", metavar="TIME", help="When the log was cut. [ingest.cutoff]"),
    ] = None,
    idle: Annotated[
        str | None,
        typer.Option(
            "--idle",
            metavar="DURATION",
            help="A silence shorter than this at the cutoff: still open. [ingest.idle]",
        ),
    ] = None,
    redact: Annotated[
        bool,
        typer.Option(
            "--redact", help="Mask e-mail addresses, phone and card numbers. [ingest.redact]"
        ),
    ] = False,
    max_reject_rate: Annotated[
        float | None,
        typer.Option(
            "--max-reject-rate",
            help="Share of lines that may be rejected. [ingest.max_reject_rate]",
        ),
    ] = None,
    workers: Workers = 0,
    engine: OnEngine = "local",
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Logs to trajectories and rejects."""
    if rejects is None and out is not None and round_folder is None:
        rejects = out.parent / f"{out.name}-rejects"
    chosen: dict[str, Any] = {
        "format": format_,
        "cutoff": cutoff,
        "idle": idle,
        "redact": redact or None,
        "max_reject_rate": max_reject_rate,
    }
    given: list[Setting] = [*(settings or [])]
    if mapping is not None:
        from iterppo.logs.event_logs import load_mapping

        # First, so that one setting of the file can be set otherwise.
        given.insert(0, ("ingest", "mapping", load_mapping(mapping)))
    given += [("ingest", key, value) for key, value in chosen.items() if value is not None]
    run_stage(
        "ingest",
        inputs={},
        out={"out": out, "rejects": rejects},
        round_folder=round_folder,
        config=config,
        settings=given,
        force=force,
        as_json=as_json,
        logs=logs or [],
        workers=workers,
        engine=engine,
    )


def init(
    trajectories: Trajectories = None,
    model: Annotated[
        str | None, typer.Option("--model", help="`scratch`, a folder, or a hub id.")
    ] = None,
    out: Out = None,
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """The first policy."""
    run_stage(
        "init",
        inputs={"trajectories": trajectories},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=[*(settings or []), *([f"init.model={json.dumps(model)}"] if model else [])],
        force=force,
        as_json=as_json,
    )


def credit(
    trajectories: Trajectories = None,
    policy: Policy = None,
    normalise: Annotated[
        Normalise | None,
        typer.Option("--normalise", help="How sums become rewards. [credit.normalise]"),
    ] = None,
    out: Out = None,
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Trajectories and policy to credit."""
    run_stage(
        "credit",
        inputs={"trajectories": trajectories, "policy": policy},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=[*(settings or []), *([f"credit.normalise={normalise}"] if normalise else [])],
        force=force,
        as_json=as_json,
    )


def returns(
    trajectories: Trajectories = None,
    rewards: Annotated[
        Rewards | None,
        typer.Option("--rewards", help="What returns are sums of. [returns.rewards]"),
    ] = None,
    credit: Annotated[
        Path | None, typer.Option("--credit", help="Credit artifact (--rewards credit).")
    ] = None,
    out: Out = None,
    workers: Workers = 0,
    engine: OnEngine = "local",
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Trajectories to returns."""
    run_stage(
        "returns",
        inputs={"trajectories": trajectories, "credit": credit},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=[*(settings or []), *([f"returns.rewards={rewards}"] if rewards else [])],
        force=force,
        as_json=as_json,
        workers=workers,
        engine=engine,
    )
