"""The command line: one function a command. Light imports only; a stage is imported when it
runs."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from iterppo import __version__
from iterppo.cli_decisions import register as register_decisions
from iterppo.cli_looks import register as register_looks
from iterppo.cli_options import (
    Algorithm,
    Config,
    DeepSpeed,
    Force,
    HostFile,
    Json,
    Normalise,
    NumProcesses,
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
from iterppo.cli_report import register as register_report
from iterppo.cli_storage import register as register_storage
from iterppo.errors import GateError, IterPPOError
from iterppo.launch import Processes, has_gpu, is_told_elsewhere, leave_error
from iterppo.pipeline import STAGES
from iterppo.progress import end_bars, loudness, set_loudness

if TYPE_CHECKING:
    from iterppo.artifact import Manifest

Setting = str | tuple[str, str, Any]
"""`section.key=value` as it was typed, or the three of them."""

app = typer.Typer(
    name="iterppo",
    help="Turn conversation logs into a better assistant, one round at a time (Iterative PPO).",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    # The DeepSpeed launcher writes --local_rank=N before the subcommand; the rank is read from
    # LOCAL_RANK.
    local_rank: Annotated[int, typer.Option("--local_rank", hidden=True)] = 0,
) -> None:
    """Options before the command."""
    if version:
        typer.echo(f"iterppo {__version__}")
        raise typer.Exit


def _run(
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


@app.command(help=STAGES["rollout"].help)
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
    _run(
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


@app.command(help=STAGES["ingest"].help)
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
        rejects = out.with_name(f"{out.name}-rejects")
    chosen: dict[str, Any] = {
        "format": format_,
        "cutoff": cutoff,
        "idle": idle,
        "redact": redact or None,
        "max_reject_rate": max_reject_rate,
    }
    if mapping is not None:
        from iterppo.logs.event_logs import load_mapping

        chosen["mapping"] = load_mapping(mapping)
    given: list[Setting] = [
        ("ingest", key, value) for key, value in chosen.items() if value is not None
    ]
    _run(
        "ingest",
        inputs={},
        out={"out": out, "rejects": rejects},
        round_folder=round_folder,
        config=config,
        settings=[*(settings or []), *given],
        force=force,
        as_json=as_json,
        logs=logs or [],
        workers=workers,
        engine=engine,
    )


@app.command(help=STAGES["init"].help)
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
    _run(
        "init",
        inputs={"trajectories": trajectories},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=[*(settings or []), *([f"init.model={json.dumps(model)}"] if model else [])],
        force=force,
        as_json=as_json,
    )


@app.command(help=STAGES["credit"].help)
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
    _run(
        "credit",
        inputs={"trajectories": trajectories, "policy": policy},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=[*(settings or []), *([f"credit.normalise={normalise}"] if normalise else [])],
        force=force,
        as_json=as_json,
    )


@app.command(help=STAGES["returns"].help)
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
    _run(
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


@app.command(help=STAGES["actions"].help)
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
    _run(
        "actions",
        inputs={"trajectories": trajectories, "policy": policy},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=settings,
        force=force,
        as_json=as_json,
    )


@app.command("fit-q", help=STAGES["fit-q"].help)
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
    _run(
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


@app.command(help=STAGES["prompts"].help)
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
    _run(
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


@app.command(help=STAGES["ppo"].help)
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
    _run(
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


@app.command(help=STAGES["evaluate"].help)
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
    made = _run(
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


@app.command(help=STAGES["export"].help)
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
    _run(
        "export",
        inputs={"policy": policy, "prompts": prompts},
        out={"out": out},
        round_folder=round_folder,
        config=config,
        settings=settings,
        force=force,
        as_json=as_json,
    )


register_decisions(app)
register_looks(app)
register_report(app)
register_storage(app)


_COMMAND_LINE_ERROR: Any = next(
    one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException"
)
"""What typer raises about a command line that it cannot read; it has no name of its own there."""
INTERRUPTED = 130
"""As a shell has it: 128 and the number of the signal."""


def _usage_line(error: Any) -> str:
    """One line with a hint, in place of three; of a bare `iterppo` its help."""
    said = error.format_message().strip().replace("Value error, ", "")
    if type(error).__name__ == "NoArgsIsHelpError":
        return str(said)
    end = "" if said[-1:] in ".?)" else "."
    path = error.ctx.command_path if getattr(error, "ctx", None) is not None else "iterppo"
    return f"iterppo: {said}{end} See: {path} --help"


def main() -> None:
    """Entry point: errors of ours become one line on standard error and an exit status."""
    warnings.filterwarnings("ignore", category=FutureWarning)  # of libraries, to their developers
    # Threads that wait must not spin for long: beside another busy process they take the time of
    # those that work. Read by OpenMP when torch is imported, hence here.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    if not has_gpu():  # else DeepSpeed, where it is installed, warns of it as it is imported
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(
                errors="backslashreplace"
            )  # a C locale must not turn π into a traceback
    set_loudness("normal")
    try:
        status = app(prog_name="iterppo", standalone_mode=False)
        if status == INTERRUPTED:  # typer's newer versions make it a status
            raise KeyboardInterrupt
        raise SystemExit(status if isinstance(status, int) else 0)
    except IterPPOError as error:
        if not leave_error(error):
            message = " ".join(str(error).split())
            typer.echo(f"iterppo: {message}", err=True)
        raise SystemExit(error.exit_status) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    except _COMMAND_LINE_ERROR as error:
        typer.echo(_usage_line(error), err=True)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, typer.Abort):
        typer.echo(
            "iterppo: stopped. Nothing half-made was left; the same command begins again, or goes "
            "on from the last checkpoint.",
            err=True,
        )
        raise SystemExit(INTERRUPTED) from None
    finally:
        end_bars()
