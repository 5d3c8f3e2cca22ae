"""Commands about experiments: who gets which policy, how many conversations it takes, and what
came of it. Light imports only."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from iterppo.cli_options import Json
from iterppo.errors import GateError, UsageError

if TYPE_CHECKING:
    from iterppo.artifact import Artifact


EXPECTED = 0.05
"""Difference of rates that an experiment is usually after."""


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command(
        help="Say what an A/B test showed: outcome rates, returns, turns and adoption of two or "
        "more logs or trajectories artifacts, and their difference to the first, with 95 % "
        "intervals. Open conversations count in adoption alone. Exit status 1 where the sizes of "
        "the arms contradict the plan."
    )(compare)
    app.command(help="Say how many conversations an A/B test needs.")(plan)
    app.command(
        help="Say what came of each round of a run, a line a round: success, mean return, Q's "
        "verdict, KL of the new policy, time."
    )(rounds)
    app.command(help="Say which arm of an experiment keys belong to, by a hash of each.")(assign)


def compare(
    logs: Annotated[
        list[str],
        typer.Argument(
            metavar="ARM…",
            help="Trajectories artifacts, or logs (files or URLs; ingested as they are), the base "
            "first.",
        ),
    ],
    cluster: Annotated[
        Literal["customer_id", "business_id"] | None,
        typer.Option(
            "--cluster", help="Conversations with one of these are alike: wider intervals."
        ),
    ] = None,
    adjust: Annotated[
        Path | None,
        typer.Option(
            "--adjust",
            help="Q artifact: less noise through V of the first state (CUPED), on conversations "
            "that it was not trained on.",
        ),
    ] = None,
    sequential: Annotated[
        bool,
        typer.Option(
            "--sequential",
            help="Interval and p-value of the success rate that hold however often one looks.",
        ),
    ] = False,
    expect: Annotated[
        float | None,
        typer.Option(
            "--expect",
            help="With --sequential: the difference of rates that one would like to find, "
            f"{EXPECTED:g} where none is named; there the interval is narrowest.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--by",
            metavar="COLUMN",
            help="Differences by segment, exploratory: business_id, customer_id, persona, split, "
            "or a fact.",
        ),
    ] = None,
    expected_ratio: Annotated[
        str | None,
        typer.Option(
            "--expected-ratio", metavar="N:N…", help="Planned sizes of the arms; else all alike."
        ),
    ] = None,
    ignore_sample_ratio: Annotated[
        bool,
        typer.Option(
            "--ignore-sample-ratio", help="Compare although the sizes contradict the plan."
        ),
    ] = False,
    gamma: Annotated[
        float, typer.Option("--gamma", min=0, max=1, help="Discount of the return, per turn.")
    ] = 0.99,
    as_json: Json = False,
) -> None:
    """Outcome rates and other measures with intervals."""
    if expect is not None and not sequential:
        raise UsageError(
            f"--expect {expect:g}: shapes the interval of --sequential alone. Add --sequential, or "
            "leave it away."
        )
    scale = EXPECTED if expect is None else expect
    if not scale > 0:
        raise UsageError(f"--expect {scale:g}: a difference above 0, as {EXPECTED:g}.")
    expected = _ratio(expected_ratio, num=len(logs))

    from iterppo.artifact import open_artifact
    from iterppo.logs.arms import first_values, read_arm

    q = None if adjust is None else open_artifact(adjust, "q")
    with ExitStack() as stack:
        arms = [
            read_arm(
                _trajectories(name, stack), name=name, gamma=gamma, cluster=cluster, segment=by
            )
            for name in logs
        ]

    from iterppo.report.comparison import comparison_text, sample_ratio_text
    from iterppo.statistics.comparison import Question, compare_arms, sample_ratio

    sizes = sample_ratio(arms, expected)
    if not sizes["holds"] and not ignore_sample_ratio:
        raise GateError(
            f"{', '.join(logs)}: {sample_ratio_text(sizes)}: conversations were assigned unevenly "
            "or lost, and no difference can be trusted. Find out why. --expected-ratio states "
            "another plan; --ignore-sample-ratio compares all the same."
        )
    question = Question(
        sequential_scale=scale if sequential else None,
        covariates=None if q is None or adjust is None else first_values(q, arms, path=adjust),
    )
    result = {
        "cluster": cluster,
        "gamma": gamma,
        "by": by,
        "sample_ratio": sizes,
        **compare_arms(arms, question),
    }
    typer.echo(json.dumps(result, indent=2) if as_json else comparison_text(result))


def _ratio(text: str | None, *, num: int) -> list[float]:
    """Planned sizes, `1:1`."""
    if text is None:
        return [1.0] * num
    try:
        parts = [float(part) for part in text.split(":")]
    except ValueError:
        parts = []
    if len(parts) != num or not all(0 < part < float("inf") for part in parts):
        raise UsageError(
            f"--expected-ratio {text}: {num} arms need {num} numbers above 0, as "
            f"{':'.join(['1'] * num)}."
        )
    return parts


def _trajectories(name: str, stack: ExitStack) -> Artifact:
    """The artifact at `name`; a log is ingested first, into a folder that goes with the stack."""
    from iterppo.artifact import MANIFEST, open_artifact

    path = Path(name)
    is_log = path.is_file() or "://" in name
    if path.is_dir() and (path / MANIFEST).is_file():
        from iterppo.artifact import read_manifest

        is_log = read_manifest(path).kind == "log"
    if not is_log:
        return open_artifact(path, "trajectories")
    import tempfile

    from iterppo.execution import execute

    folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="iterppo-")))
    _, made, _ = execute(
        "ingest",
        inputs={},
        outputs={"out": folder / "trajectories", "rejects": folder / "rejects"},
        round_folder=None,
        config_file=None,
        settings=[],
        force=False,
        extra={"logs": [name], "workers": 0, "engine": "local"},
    )
    return open_artifact(made, "trajectories")


def rounds(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or of a round.")],
    header: Annotated[
        bool, typer.Option("--header/--no-header", help="Name the columns first.")
    ] = True,
    as_json: Json = False,
) -> None:
    """A line for each round."""
    from iterppo.report.rounds import HEADER, round_line, round_result, rounds_of

    results = [round_result(place) for place in rounds_of(folder)]
    if as_json:
        print(json.dumps(results))
        return
    lines = [round_line(result) for result in results]
    print("\n".join([HEADER, *lines] if header else lines))


def plan(
    base_rate: Annotated[float, typer.Option("--base-rate", help="Outcome rate of the base.")],
    lift: Annotated[
        float, typer.Option("--lift", help="Difference to find, in points of the rate, as 0.03.")
    ],
    power: Annotated[float, typer.Option("--power", help="Chance to find it.")] = 0.8,
    alpha: Annotated[
        float, typer.Option("--alpha", help="Chance to find what is not there.")
    ] = 0.05,
    cluster_size: Annotated[
        int,
        typer.Option("--cluster-size", help="Conversations of what is assigned as a whole."),
    ] = 1,
    icc: Annotated[
        float, typer.Option("--icc", help="Intra-cluster correlation of the outcome.")
    ] = 0.0,
    arms: Annotated[int, typer.Option("--arms", help="Arms, the base among them.")] = 2,
    as_json: Json = False,
) -> None:
    """Size of an experiment."""
    from dataclasses import asdict

    from iterppo.report.plan import plan_text
    from iterppo.statistics.planning import plan as planned

    found = planned(
        base_rate=base_rate,
        lift=lift,
        power=power,
        alpha=alpha,
        cluster_size=cluster_size,
        icc=icc,
        arms=arms,
    )
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    typer.echo(
        plan_text(found, cluster_size=cluster_size, base_rate=base_rate, lift=lift, power=power)
    )


def assign(
    keys: Annotated[
        list[str],
        typer.Argument(metavar="KEY…", help="What is assigned, as customer ids; -: one a line."),
    ],
    salt: Annotated[
        str, typer.Option("--salt", help="Name of the experiment; another one draws anew.")
    ],
    arms: Annotated[
        str, typer.Option("--arms", metavar="A,B:9", help="Arms in their order, with weights.")
    ],
    as_json: Json = False,
) -> None:
    """Arms by hash: one a line, in the order of the keys."""
    from iterppo import assignment

    weights = assignment.parse_arms(arms)
    assignment.check_experiment(salt, weights)
    found: list[dict[str, str]] = []
    for key in _keys(keys):
        arm = assignment.assign(key, salt=salt, arms=weights)
        if as_json:
            found.append({"key": key, "arm": arm})
        else:
            typer.echo(arm)
    if as_json:
        typer.echo(json.dumps(found, indent=2))


def _keys(keys: Sequence[str]) -> Sequence[str]:
    if list(keys) == ["-"]:
        lines = sys.stdin.buffer.read().splitlines()
        return [line.decode("utf-8", "surrogateescape") for line in lines]
    return keys
