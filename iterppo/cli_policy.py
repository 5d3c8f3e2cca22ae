"""The commands of the stages from Q to an exported policy. Light imports only."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from iterppo.cli_options import (
    Algorithm,
    Config,
    DeepSpeed,
    Force,
    HostFile,
    Json,
    NumProcesses,
    OnEngine,
    Out,
    Policy,
    Quiet,
    Round,
    Settings,
    Trajectories,
    Verbose,
    Workers,
)
from iterppo.cli_run import run_stage
from iterppo.errors import GateError
from iterppo.launch import Processes
from iterppo.pipeline import STAGES
from iterppo.progress import loudness


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(help=STAGES["actions"].help)(actions)
    app.command("fit-q", help=STAGES["fit-q"].help)(fit_q)
    app.command(help=STAGES["prompts"].help)(prompts)
    app.command(help=STAGES["ppo"].help)(ppo)
    app.command(help=STAGES["evaluate"].help)(evaluate)
    app.command(help=STAGES["export"].help)(export)


def actions(
    trajectories: Trajectories = None,
    policy: Policy = None,
    out: Out = None,
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Trajectories and policy to actions."""
    run_stage(
        "actions",
        inputs={"trajectories": trajectories, "policy": policy},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=settings,
        force=force,
        as_json=as_json,
    )


def fit_q(
    trajectories: Trajectories = None,
    returns: Annotated[Path | None, typer.Option("--returns", help="Returns artifact.")] = None,
    policy: Policy = None,
    actions: Annotated[
        Path | None, typer.Option("--actions", help="Actions artifact (methods fqe, lstdq).")
    ] = None,
    earlier: Annotated[
        list[Path] | None,
        typer.Option(
            "--earlier",
            metavar="ROUND",
            help="An earlier round, whose training conversations Q is fitted on as well. Scores "
            "and diagnostics are of this round's alone. May be given several times.",
        ),
    ] = None,
    nproc: NumProcesses = 1,
    deepspeed: DeepSpeed = None,
    hostfile: HostFile = None,
    out: Out = None,
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Trajectories and returns to q."""
    run_stage(
        "fit-q",
        inputs={
            "trajectories": trajectories,
            "returns": returns,
            "policy": policy,
            "actions": actions,
        },
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=settings,
        force=force,
        as_json=as_json,
        processes=Processes(nproc, deepspeed, hostfile),
        earlier=earlier or [],
    )


def prompts(
    trajectories: Trajectories = None,
    policy: Policy = None,
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
    """Trajectories to prompts."""
    run_stage(
        "prompts",
        inputs={"trajectories": trajectories, "policy": policy},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=settings,
        force=force,
        as_json=as_json,
        workers=workers,
        engine=engine,
    )


def ppo(
    prompts: Annotated[Path | None, typer.Option("--prompts", help="Prompts artifact.")] = None,
    q: Annotated[Path | None, typer.Option("--q", help="Q artifact: the reward.")] = None,
    policy: Policy = None,
    judge: Annotated[
        Path | None,
        typer.Option("--judge", help="Q artifact of other conversations: a second opinion."),
    ] = None,
    trajectories: Annotated[
        Path | None,
        typer.Option(
            "--trajectories", help="Trajectories artifact, for ppo.critic_warmup = returns."
        ),
    ] = None,
    algorithm: Annotated[
        Algorithm | None, typer.Option("--algorithm", help="Short for --set ppo.algorithm=….")
    ] = None,
    nproc: NumProcesses = 1,
    deepspeed: DeepSpeed = None,
    hostfile: HostFile = None,
    out: Out = None,
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Prompts, q and policy to a better policy."""
    run_stage(
        "ppo",
        inputs={
            "prompts": prompts,
            "q": q,
            "policy": policy,
            "judge": judge,
            "trajectories": trajectories,
        },
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=[*(settings or []), *([f"ppo.algorithm={algorithm}"] if algorithm else [])],
        force=force,
        as_json=as_json,
        processes=Processes(nproc, deepspeed, hostfile),
    )


def evaluate(
    trajectories: Trajectories = None,
    returns: Annotated[Path | None, typer.Option("--returns", help="Returns artifact.")] = None,
    policy: Policy = None,
    candidate: Annotated[
        Path | None, typer.Option("--candidate", help="Policy artifact: the new policy.")
    ] = None,
    q: Annotated[
        Path | None, typer.Option("--q", help="Q artifact that it was trained on, for its verdict.")
    ] = None,
    proposals: Annotated[
        Path | None,
        typer.Option(
            "--proposals", help="Actions artifact of the new policy; else some are sampled."
        ),
    ] = None,
    fqe: Annotated[
        Path | None,
        typer.Option("--fqe", help="Q artifact of method fqe or lstdq, fitted with --proposals."),
    ] = None,
    twin: Annotated[
        Path | None,
        typer.Option("--twin", help="The same, of the other half of the conversations."),
    ] = None,
    actions: Annotated[
        Path | None,
        typer.Option(
            "--actions", help="Actions artifact of the old policy; else some are sampled."
        ),
    ] = None,
    gate: Annotated[
        bool,
        typer.Option("--gate", help="Exit status 1 where the new policy is not to be shipped."),
    ] = False,
    out: Out = None,
    round_folder: Round = None,
    config: Config = None,
    settings: Settings = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """A log and two policies to an evaluation."""
    made = run_stage(
        "evaluate",
        inputs={
            "trajectories": trajectories,
            "returns": returns,
            "policy": policy,
            "candidate": candidate,
            "q": q,
            "proposals": proposals,
            "fqe": fqe,
            "twin": twin,
            "actions": actions,
        },
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=settings,
        force=force,
        as_json=as_json,
    )
    assert made is not None  # it runs as one process
    manifest, path = made
    if not as_json and loudness() != "quiet":
        from iterppo.report.evaluation import evaluation_text

        typer.echo(evaluation_text(path))
    if gate and manifest.metrics["gate"] != "ship":
        raise GateError(f"{path}: hold: {manifest.metrics['gate_reason']}.")


def export(
    policy: Annotated[
        Path | None, typer.Option("--policy", help="Policy artifact to export.")
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option("--prompts", help="Prompts artifact: the check completes one of them."),
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
    """Policy to export."""
    run_stage(
        "export",
        inputs={"policy": policy, "prompts": prompts},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=settings,
        force=force,
        as_json=as_json,
    )
