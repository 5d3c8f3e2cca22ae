"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from iterppo.engines import EngineName
from iterppo.errors import UsageError
from iterppo.progress import loudness, set_loudness

Round = Annotated[
    Path | None,
    typer.Option("--round", help="Round folder, as runs/shop/003: names inputs and outputs."),
]
Out = Annotated[Path | None, typer.Option("--out", help="Folder of the artifact to write.")]
Config = Annotated[Path | None, typer.Option("--config", help="TOML file, a section per stage.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting.")
]
Force = Annotated[bool, typer.Option("--force", help="Make it again although it is up to date.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def _quiet(is_told: bool) -> None:
    if is_told:
        set_loudness("quiet")


def _verbose(is_told: bool) -> None:
    if is_told and loudness() == "quiet":
        raise UsageError("--quiet and --verbose: choose one of them.")
    if is_told:
        set_loudness("verbose")


# The stage itself is not told: it only says what it has to say.
Quiet = Annotated[
    bool,
    typer.Option(
        "--quiet",
        help="Errors and warnings only.",
        expose_value=False,
        callback=_quiet,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        help="Also how long things took, and what the libraries log.",
        expose_value=False,
        callback=_verbose,
    ),
]
Trajectories = Annotated[Path | None, typer.Option("--trajectories", help="Trajectories artifact.")]
Workers = Annotated[
    int,
    typer.Option(
        "--workers",
        min=0,
        help="Processes; with --engine ray workers of the cluster that is started. 0: as many as "
        "pay, at most one a core.",
    ),
]
OnEngine = Annotated[
    EngineName,
    typer.Option(
        "--engine",
        help="local: processes; ray: a Ray cluster, the one at RAY_ADDRESS if it is set.",
    ),
]
Normalise = Literal["none", "batch", "softmax-sum", "softmax-mean"]
Rewards = Literal["outcomes", "credit"]
Algorithm = Literal["ppo", "grpo", "rloo", "mpo"]
NumProcesses = Annotated[
    int, typer.Option("--nproc", min=1, help="Processes that train together, on each host.")
]
DeepSpeed = Annotated[
    Path | None,
    typer.Option("--deepspeed", help="DeepSpeed's JSON, as configs/deepspeed/zero2.json."),
]
HostFile = Annotated[
    Path | None,
    typer.Option("--hostfile", help="DeepSpeed's list of hosts, a line `name slots=8` each."),
]
Policy = Annotated[
    Path | None, typer.Option("--policy", help="Policy artifact: the one that made the logs.")
]
