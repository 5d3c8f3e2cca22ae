"""The command that makes a page of a run. Light imports only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(
        help="Write a page about a run: whether to ship its newest policy and why, and, round by "
        "round, counts, returns, Q, training, and what is suggested now beside what was suggested "
        "then. One HTML file that needs no network; no model is run."
    )(report)


def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of rounds, as runs/demo.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help="HTML file to write; else report.html within RUN."),
    ] = None,
    conversations: Annotated[
        int,
        typer.Option(
            "--conversations",
            min=0,
            help="Most conversations to show of a round; 0: no text of any log is in the page.",
        ),
    ] = 40,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the decision as JSON; the page is written too.")
    ] = False,
) -> None:
    """A run as a page."""
    from iterppo.report.page.run import read_run

    found = read_run(run)

    from iterppo.report.page.html import report_page, write_page

    page, decision = report_page(found, conversations=conversations)
    target = out if out is not None else run / "report.html"
    write_page(page, target)
    if as_json:
        typer.echo(json.dumps({"report": str(target), **decision.told()}, indent=2))
        return
    typer.echo(f"{decision.word} {decision.policy}".strip() + f": {decision.reason}")
    typer.echo(f"{target}: {len(page.encode()) / 1e6:.1f} MB")
