"""The page: everything that a run says, put into the templates beside this file.

    Run -> HTML

One file without a network: style, script and figures stand in it, and a content security policy
lets nothing else be loaded, and no other script be run. Texts of logs are escaped by Jinja; only
figures, the style sheet and the script, which are ours, go in as they are.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

import jinja2

from iterppo.errors import UsageError
from iterppo.report.page.about_another import about_another, own_evaluation
from iterppo.report.page.curves import Training, read_training, returns_by_turn
from iterppo.report.page.decision import WORDS, Decision, decide
from iterppo.report.page.evaluation import Evaluation, read_evaluation
from iterppo.report.page.figures import (
    Drawn,
    calibration_figure,
    curve_figure,
    frontier_figure,
    loss_figure,
    returns_figure,
    success_figure,
    watched_figure,
)
from iterppo.report.page.funnel import Funnel, read_funnel
from iterppo.report.page.lineage import HEIGHT, MARGIN_X, WIDTH, read_lineage
from iterppo.report.page.q_quality import Quality, read_quality
from iterppo.report.page.run import UNREADABLE, Round, Run
from iterppo.report.page.settings import Changes, read_changes
from iterppo.report.page.success import Success, interval, measures, percent, read_success
from iterppo.report.page.suggestions import Cards, read_cards

Made = TypeVar("Made")

SHOWN_AT_FIRST = 10
_LOGS = {"log", "trajectories", "rejects", "init"}
_MEASURES = {
    "return": "Return, from the first turn on",
    "turns_to_outcome": "Turns to the outcome, where reached",
    "adoption_verbatim": "Sent verbatim, of turns",
    "adoption_edited": "Edited, of turns",
    "adoption_influenced": "Influenced, of turns",
    "adoption_rejected": "Rejected, of turns",
    "adoption_abstained": "Abstained, of turns",
    "adoption_not_shown": "Not shown, of turns",
}


@dataclass
class RoundPage:
    """What the page says of a round; None where there is nothing to say."""

    name: str
    anchor: str
    title: str
    status: str
    next_command: str
    is_open: bool
    then_name: str
    """The policy that made its logs, as π_k."""
    now_name: str
    """The policy that was trained on them."""
    funnel: Funnel | None = None
    returns: Drawn | None = None
    quality: Quality | None = None
    q_figures: list[Drawn] = field(default_factory=list)
    training_figures: list[Drawn] = field(default_factory=list)
    cards: Cards | None = None
    changes: Changes | None = None
    evaluation: Evaluation | None = None
    troubles: list[str] = field(default_factory=list)


def report_page(run: Run, *, conversations: int) -> tuple[str, Decision]:
    """The page, and the decision that stands at its top.

    Args:
        run: From `read_run`.
        conversations: Most conversations to show of a round; 0 leaves out all texts of logs.
    """
    success = read_success(run)
    decision = decide(run, success)
    trained = [one for one in run.numbered if one.whole("policy") is not None]
    newest = trained[-1] if trained else run.numbered[-1]
    rounds = [
        _round_page(
            run,
            one,
            success,
            index=index,
            is_open=one is newest,
            conversations=conversations,
        )
        for index, one in enumerate(run.rounds)
    ]
    package = files("iterppo.report.page")
    script = package.joinpath("page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    last = max(run.manifests, key=lambda manifest: manifest.created_at)
    page = (
        _templates()
        .get_template("page.jinja")
        .render(
            title=run.path.resolve().name,
            made=f"{last.created_at:%Y-%m-%d %H:%M} UTC",
            version=last.iterppo_version,
            num_artifacts=len(run.manifests),
            style=package.joinpath("page.css").read_text(encoding="utf-8"),
            script=script,
            script_digest=digest,
            decision=decision,
            words=WORDS,
            success=success,
            steps=success.steps(),
            success_figure=success_figure(success.rows, name="success")
            if any(row.has_rate for row in success.rows)
            else None,
            measures=measures(success.rows, _MEASURES),
            rounds=list(reversed(rounds)),
            lineage=read_lineage(run),
            margin_x=MARGIN_X,
            node_width=WIDTH,
            node_height=HEIGHT,
            shown_at_first=SHOWN_AT_FIRST,
        )
    )
    return page, decision


def write_page(page: str, out: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        UsageError: If `out` is a folder, its folder is not there, or it cannot be written.
    """
    if out.is_dir():
        raise UsageError(f"--out {out}: is a folder. Name a file, as {out / 'report.html'}.")
    if not out.parent.is_dir():
        raise UsageError(f"--out {out}: no folder {out.parent}. Make it first.")
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        beside.write_text(page, encoding="utf-8", errors="replace")
        beside.replace(out)
    except OSError as error:
        raise UsageError(
            f"--out {out}: cannot be written there ({error.strerror}). Free some space, or choose "
            "another place; what was there is as it was."
        ) from None
    finally:
        beside.unlink(missing_ok=True)


def _round_page(
    run: Run, one: Round, success: Success, *, index: int, is_open: bool, conversations: int
) -> RoundPage:
    held_by = [success.rows[n].policy for n in success.of_round(one.name)]
    then = ", ".join(held_by) or "the policy before"
    policy = one.whole("policy")
    version = policy.manifest.metrics.get("policy_version") if policy and policy.manifest else None
    now = run.policy_name(str(version)) if version else "the next policy"
    status, command = _status(one)
    page = RoundPage(
        one.name,
        f"round-{one.name}" if one.number is not None else f"folder-{index}",
        f"Round {one.name}" if one.number is not None else f"Before the rounds: {one.name}",
        status,
        command,
        is_open,
        then,
        now,
        troubles=[place.trouble for place in one.places.values() if place.trouble],
    )
    prefix = f"f{index}"

    def attempt(what: str, make: Callable[[], Made]) -> Made | None:
        try:
            return make()
        except UNREADABLE as error:
            page.troubles.append(f"{what}: cannot be shown ({type(error).__name__}: {error})")
            return None

    page.funnel = attempt("counts", lambda: read_funnel(one))
    if (returns := one.whole("returns")) is not None:
        means = attempt("returns", lambda: returns_by_turn(returns.artifact()))
        page.returns = returns_figure(means, name=f"{prefix}-returns") if means else None
    if (q := one.whole("q")) is not None:
        page.quality = attempt("diagnostics of Q", lambda: read_quality(q))
    if page.quality is not None and page.quality.calibration:
        page.q_figures.append(calibration_figure(page.quality.calibration, name=f"{prefix}-q"))
    if page.quality is not None and len(page.quality.validation) > 1:
        page.q_figures.append(loss_figure(page.quality.validation, name=f"{prefix}-loss"))
    if policy is not None:
        training = attempt("training", lambda: read_training(policy))
        page.training_figures = _training_figures(training, prefix) if training else []
    if conversations:
        page.cards = attempt("conversations", lambda: read_cards(one, most=conversations))
    page.changes = attempt("settings", lambda: read_changes(run, one))
    page.troubles += about_another(one)
    evaluation = own_evaluation(one)
    if evaluation is not None:
        page.evaluation = attempt("evaluation", lambda: read_evaluation(evaluation))
    return page


def _training_figures(training: Training, prefix: str) -> list[Drawn]:
    drawn = []
    if training.readings:
        drawn.append(watched_figure(training, name=f"{prefix}-watched"))
        drawn.append(frontier_figure(training, name=f"{prefix}-frontier"))
    drawn += [
        curve_figure(curve, name=f"{prefix}-curve{number}")
        for number, curve in enumerate(training.curves)
    ]
    return drawn


def _status(one: Round) -> tuple[str, str]:
    """How far a round has come, and the command that goes on; both may be empty."""
    missing = one.missing()
    begun = [name for name in one.under_way if one.whole(name) is None]
    text = ""
    command = ""
    whole = {name for name, place in one.places.items() if place.manifest is not None}
    if whole <= _LOGS and not begun:
        text = "Logs only: its conversations are counted, and no stage but ingest was run here."
    elif missing and one.number is not None:
        text = f"Not finished. Still to be made: {', '.join(name for name, _ in missing)}."
    if begun:
        text += f" Begun and not whole: {', '.join(begun)}."
    if missing and one.number is not None:
        stage = missing[0][1]
        command = f"iterppo {stage} --round {shlex.quote(str(one.path))}"
    return text.strip(), command


def _templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("iterppo.report.page", package_path=""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["minus"] = _minus
    environment.filters["percent"] = percent
    environment.filters["thousands"] = _thousands
    environment.filters["interval"] = interval
    return environment


def _thousands(number: int) -> str:
    """A count whose digits can be read.

    >>> _thousands(12928), _thousands(2400)
    ('12\\u202f928', '2400')
    """
    return f"{number:,}".replace(",", "\u202f") if abs(number) >= 10_000 else str(number)


def _minus(text: str) -> str:
    """Numbers with the sign that is a minus.

    >>> _minus("-0.002 [-0.01, 0.06] of q-1")
    '−0.002 [−0.01, 0.06] of q-1'
    """
    return re.sub(r"(?<![\w.])-(?=\d)", "−", text)
