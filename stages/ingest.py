"""`iterppo ingest`: logs -> trajectories@2, rejects@1."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iterppo.artifact import ArtifactWriter, InputRecord, Manifest
from iterppo.config import ByClassifier, ByEvents, IngestConfig, parse_duration
from iterppo.engines import Engine, EngineName, open_engine
from iterppo.errors import DataError
from iterppo.logs.event_logs import layout_of_events
from iterppo.logs.event_reading import Spilled, SpillTask, spill_events
from iterppo.logs.event_sorting import EventShare, event_files, grouped_by_share, num_shares
from iterppo.logs.formats import recognise
from iterppo.logs.ingested_files import recorded_meanwhile
from iterppo.logs.labelling import labellers_of
from iterppo.logs.outcome_events import (
    ConversationSpans,
    EventTable,
    attribute,
    count_events,
    load_events,
)
from iterppo.logs.reading import Done, Reader, Task
from iterppo.logs.rejects import masked_refusals, rejected_tables
from iterppo.logs.repetitions import repeated, taken_ids
from iterppo.logs.sources import LogFile, pieces
from iterppo.logs.taking import COUNT_OF_FACT, clock_of
from iterppo.progress import progress

if TYPE_CHECKING:
    import pyarrow as pa

Found = TypeVar("Found")

_NO_MESSAGES = "messages: Field required"
"""Why every line is rejected of an event log whose columns nobody named."""


def run(
    config: IngestConfig,
    *,
    logs: Sequence[LogFile],
    out: Path,
    rejects: Path,
    inputs: dict[str, InputRecord] | None = None,
    workers: int = 0,
    engine: EngineName = "local",
) -> Manifest:
    """Read every line of every log; a line that is not taken goes to `rejects` with file, line
    number and reason.

    `inputs` are the records of what it reads (`ingest_records`), where they are known already;
    `workers` and `engine` are those of `open_engine`.
    """
    with (
        ArtifactWriter(
            out, kind="trajectories", stage="ingest", config=config, inputs=inputs or {}
        ) as writer,
        recorded_meanwhile(config, logs, known=inputs) as records,
        open_engine(engine, workers=workers) as pool,
    ):
        with masked_refusals(config):
            tasks, spills = _tasks(logs, config, writer)
            spilled = _spill_all(spills, config, pool)
            shares = _shares(spills, spilled, writer)
            tables = _event_tables([*tasks, *shares], config, writer.scratch, pool)
            done = _read_all([*tasks, *shares], config, tables, pool)
        for read in done:
            writer.adopt(read.rows)
        for name in ("lines", "lines_taken", "copies", "rejects", "conversations"):
            writer.count(name, 0)
        for name in config.facts:
            writer.count(COUNT_OF_FACT + name, 0)
        all_found: list[Done | Spilled] = [*done, *spilled]
        for found in all_found:
            for name, number in found.counts.items():
                writer.count(name, number)
        if tables:
            identities = (taken_ids(found.identities) for found in done)
            for name, number in count_events(tables, identities).items():
                writer.count(name, number)
        all_pieces = [piece for task in tasks for piece, _ in task.pieces]
        all_pieces += [piece for spill in spills for piece in spill.pieces]
        num_lines = [number for found in all_found for number in found.num_lines]
        files = [each.rejects for group in (tasks, spills, shares) for each in group]
        writer.inputs = records()
        with ArtifactWriter(
            rejects, kind="rejects", stage="ingest", config=config, inputs=writer.inputs
        ) as rejected:
            for table in rejected_tables(all_pieces, num_lines, files):
                rejected.write_table(table)
        writer.belongs_with(rejected)
        # The rejects stand by now; the trajectories will not where this raises, or a second run
        # would be up to date.
        _refuse(all_found, config, writer.counts, logs, rejects)
    return writer.manifest


def _tasks(
    logs: Sequence[LogFile], config: IngestConfig, writer: ArtifactWriter
) -> tuple[list[Task], list[SpillTask]]:
    """Pieces that become parts; and pieces of event logs, whose messages are sorted first: those
    of a conversation can stand in any of them."""
    format_of = {log: recognise(log, config) for log in logs}
    tasks: list[Task] = []
    num_pieces = 0
    for group in pieces([log for log in logs if format_of[log] != "events"]):
        rejects = writer.scratch / f"rejects-{len(tasks):05d}.parquet"
        content = tuple((piece, format_of[piece.file]) for piece in group)
        tasks.append(Task(writer.next_part(), rejects, content, num_pieces))
        num_pieces += len(group)
    events = [log for log in logs if format_of[log] == "events"]
    whole = [log for log in events if layout_of_events(log, config.mapping) != "lines"]
    spills: list[SpillTask] = []
    for group in pieces(events, whole=whole):
        name = f"{len(spills):05d}"
        rejects = writer.scratch / f"rejects-events-{name}.parquet"
        spills.append(SpillTask(tuple(group), num_pieces, _events_folder(writer), name, rejects))
        num_pieces += len(group)
    return tasks, spills


def _events_folder(writer: ArtifactWriter) -> Path:
    folder = writer.scratch / "events"
    folder.mkdir(exist_ok=True)
    return folder


def _spill_all(spills: Sequence[SpillTask], config: IngestConfig, pool: Engine) -> list[Spilled]:
    alone = pool.is_here(len(spills))
    found = pool.map_in_order(functools.partial(spill_events, config, alone), spills)
    shown = found if alone else progress(found, "ingest events", total=len(spills), unit="pieces")
    return list(shown)


def _shares(
    spills: Sequence[SpillTask], spilled: Sequence[Spilled], writer: ArtifactWriter
) -> list[Task]:
    """Shares of the conversations of the event logs, each of which becomes a part."""
    of = num_shares(sum(found.size_bytes for found in spilled)) if spills else 0
    return [
        Task(
            writer.next_part(),
            writer.scratch / f"rejects-share-{number:05d}.parquet",
            share=EventShare(_events_folder(writer), number, of),
        )
        for number in range(of)
    ]


def _map(function: Callable[..., Found], tasks: Sequence[Task], pool: Engine) -> Iterator[Found]:
    """`function` of every task, and of the events of a share where the engine brings them
    together; shares are the last tasks."""
    yield from pool.map_in_order(function, [task for task in tasks if task.share is None])
    shares = {task.share.number: task for task in tasks if task.share is not None}
    if tasks and (last := tasks[-1].share):
        tables = functools.partial(grouped_by_share, last.of)
        yield from pool.map_groups(function, shares, tables, event_files(last.folder))


def _read_all(
    tasks: Sequence[Task], config: IngestConfig, tables: Sequence[EventTable], pool: Engine
) -> list[Done]:
    alone = pool.is_here(len(tasks))
    read = functools.partial(_read, config, tables, alone)
    parts = _map(read, tasks, pool)
    done = list(parts if alone else progress(parts, "ingest", total=len(tasks), unit="parts"))
    again = sorted(repeated([found.identities for found in done]).items())
    redone = [replace(tasks[number], repeated=places) for number, places in again]
    for (number, _), found in zip(again, _map(read, redone, pool), strict=True):
        done[number] = found
    return done


def _event_tables(
    tasks: Sequence[Task], config: IngestConfig, scratch: Path, pool: Engine
) -> tuple[EventTable, ...]:
    """The events that outcomes are made of; who gets a customer's event takes a look at all
    conversations first."""
    clock = clock_of(config)
    tables = []
    for number, outcome in enumerate(config.outcomes):
        if isinstance(outcome, ByEvents):
            table = load_events(outcome, cutoff=clock.cutoff if clock else None)
            table = table.shared(scratch / f"outcome-{number}")
            if outcome.join == "customer_id":
                look = functools.partial(_spans, config, table)
                found = list(_map(look, tasks, pool))
                again = repeated([identities for _, identities in found])
                spans = ConversationSpans()
                for task_number, (some, _) in enumerate(found):
                    spans.merge(some, without=again.get(task_number, ()))
                table = attribute(table, spans, window=parse_duration(outcome.window))
                table = table.shared(scratch / f"outcome-{number}-attributed")
            tables.append(table)
    return tuple(tables)


def _read(
    config: IngestConfig,
    tables: Sequence[EventTable],
    show: bool,
    task: Task,
    events: pa.Table | None = None,
) -> Done:
    """One task, in whatever process."""
    reader = Reader(config, labellers_of(config, tables, _load_classifier))
    return reader.read(task, show=show, events=events)


def _spans(
    config: IngestConfig, table: EventTable, task: Task, events: pa.Table | None = None
) -> tuple[ConversationSpans, Path]:
    return Reader(config, ()).spans(task, table, events=events)


@functools.lru_cache(maxsize=4)
def _load_classifier(outcome: ByClassifier) -> Any:
    from iterppo.lm.outcome_classifier import load_classifier

    return load_classifier(Path(outcome.model), label=outcome.label)


def _refuse(
    done: Sequence[Done | Spilled],
    config: IngestConfig,
    counts: dict[str, int],
    logs: Sequence[LogFile],
    rejects: Path,
) -> None:
    """Stop where nothing, or too little, was taken."""
    num_rejects = counts["rejects"]
    reasons = sum((found.reasons for found in done), Counter[str]())
    commonest = "; ".join(f"{number} × {why}" for why, number in reasons.most_common(5))
    if not counts["conversations"]:
        where = logs[0].name if len(logs) == 1 else f"{logs[0].name} … ({len(logs)} logs)"
        is_event_log = list(reasons) == [_NO_MESSAGES]
        raise DataError(
            f"{where}: no conversation in it was taken ({num_rejects} rejects"
            f"{': ' if commonest else ''}{commonest}). "
            + ("Is it an event log? Name its columns in --mapping. " if is_event_log else "")
            + (f"See: iterppo inspect {rejects}" if counts["lines"] else "It is empty.")
        )
    if num_rejects > config.max_reject_rate * counts["lines"]:
        raise DataError(
            f"{num_rejects} of {counts['lines']} lines were not taken, more than "
            f"ingest.max_reject_rate = {config.max_reject_rate:g} allows: {commonest}. See: "
            f"iterppo inspect {rejects}"
        )
