"""`iterppo ingest`: logs -> trajectories@2, rejects@1."""

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from iterppo.artifact import ArtifactWriter, InputRecord, Manifest
from iterppo.config import ByClassifier, ByEvents, IngestConfig, parse_duration
from iterppo.errors import DataError
from iterppo.logs.formats import recognise
from iterppo.logs.labelling import labellers_of
from iterppo.logs.outcome_events import (
    ConversationSpans,
    EventTable,
    attribute,
    load_events,
)
from iterppo.logs.reading import (
    EVENTS,
    Done,
    Reader,
    Task,
    clock_of,
    rejected_rows,
    repeated,
)
from iterppo.logs.sources import LogFile, Piece, log_records, pieces
from iterppo.processes import available_cores, map_in_order
from iterppo.progress import progress


def run(
    config: IngestConfig,
    *,
    logs: Sequence[LogFile],
    out: Path,
    rejects: Path,
    inputs: dict[str, InputRecord] | None = None,
    workers: int = 0,
) -> Manifest:
    """Read every line of every log; a line that is not taken goes to `rejects` with file, line
    number and reason.

    `inputs` are the logs' records, where their digests are known already; `workers` is a number of
    processes, 0: one a core.
    """
    inputs = log_records(logs) if inputs is None else inputs
    with ArtifactWriter(
        out, kind="trajectories", stage="ingest", config=config, inputs=inputs
    ) as writer:
        tasks = _tasks(logs, config, writer)
        done = _read_all(tasks, config, workers or available_cores())
        for found in done:
            writer.adopt(found.rows)
        for name in ("lines", "lines_taken", "copies", "rejects"):
            writer.count(name, 0)
        for found in done:
            for name, number in found.counts.items():
                writer.count(name, number)
        with ArtifactWriter(
            rejects, kind="rejects", stage="ingest", config=config, inputs=inputs
        ) as rejected:
            rejected.write(rejected_rows(tasks, done))
        # The rejects stand by now; the trajectories will not where this raises, or a second run
        # would be up to date.
        _refuse(done, config, writer.counts, logs, rejects)
    return writer.manifest


def _tasks(logs: Sequence[LogFile], config: IngestConfig, writer: ArtifactWriter) -> list[Task]:
    format_of = {log: recognise(log, config) for log in logs}
    groups = [
        [(piece, format_of[piece.file]) for piece in group]
        for group in pieces([log for log in logs if format_of[log] != EVENTS])
    ]
    # The messages of a conversation can stand anywhere: event logs are one task.
    if events := [(Piece(log), EVENTS) for log in logs if format_of[log] == EVENTS]:
        groups.append(events)
    return [
        Task(tuple(group), writer.next_part(), writer.scratch / f"rejects-{number:05d}.parquet")
        for number, group in enumerate(groups)
    ]


def _read_all(tasks: Sequence[Task], config: IngestConfig, workers: int) -> list[Done]:
    alone = workers <= 1 or len(tasks) == 1
    read = functools.partial(_read, config, _event_tables(tasks, config, workers), alone)
    parts = map_in_order(read, tasks, workers=workers)
    done = list(parts if alone else progress(parts, "ingest", total=len(tasks), unit="parts"))
    again = repeated([found.identities for found in done])
    redone = [replace(tasks[number], repeated=places) for number, places in again.items()]
    for number, found in zip(again, map_in_order(read, redone, workers=workers), strict=True):
        done[number] = found
    return done


def _event_tables(
    tasks: Sequence[Task], config: IngestConfig, workers: int
) -> tuple[EventTable, ...]:
    """The events that outcomes are made of; who gets a customer's event takes a look at all
    conversations first."""
    clock = clock_of(config)
    tables = []
    for outcome in config.outcomes:
        if isinstance(outcome, ByEvents):
            table = load_events(outcome, cutoff=clock.cutoff if clock else None)
            if outcome.join == "customer_id":
                spans = ConversationSpans()
                look = functools.partial(_spans, config, table)
                for found in map_in_order(look, tasks, workers=workers):
                    spans.merge(found)
                table = attribute(table, spans, window=parse_duration(outcome.window))
            tables.append(table)
    return tuple(tables)


def _read(config: IngestConfig, tables: Sequence[EventTable], show: bool, task: Task) -> Done:
    """One task, in whatever process."""
    return Reader(config, labellers_of(config, tables, _load_classifier)).read(task, show=show)


def _spans(config: IngestConfig, table: EventTable, task: Task) -> ConversationSpans:
    return Reader(config, ()).spans(task, table)


@functools.lru_cache(maxsize=4)
def _load_classifier(outcome: ByClassifier) -> Any:
    from iterppo.lm.outcome_classifier import load_classifier

    return load_classifier(Path(outcome.model), label=outcome.label)


def _refuse(
    done: Sequence[Done],
    config: IngestConfig,
    counts: dict[str, int],
    logs: Sequence[LogFile],
    rejects: Path,
) -> None:
    """Stop where nothing, or too little, was taken."""
    num_rejects = counts["rejects"]
    if not counts["conversations"]:
        raise DataError(
            f"{logs[0].name}: no conversation in it was taken ({num_rejects} rejects). See: "
            f"iterppo inspect {rejects}"
        )
    if num_rejects > config.max_reject_rate * counts["lines"]:
        reasons = sum((found.reasons for found in done), Counter[str]())
        commonest = "; ".join(f"{number} × {why}" for why, number in reasons.most_common(5))
        raise DataError(
            f"{num_rejects} of {counts['lines']} lines were not taken, more than "
            f"ingest.max_reject_rate = {config.max_reject_rate:g} allows: {commonest}. See: "
            f"iterppo inspect {rejects}"
        )
