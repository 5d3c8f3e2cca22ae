"""The files that an ingest reads, by content: logs, and what its labellers look things up in."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from iterppo.artifact import InputRecord
from iterppo.config import ByClassifier, ByEvents, IngestConfig
from iterppo.logs.sources import LogFile
from iterppo.progress import timed, warn

CHANGED = "changed while it was read"
"""In the place of a digest. No file has it, so the same command does not find its work done."""
_AT_ONCE = 8


def ingest_records(config: IngestConfig, logs: Sequence[LogFile]) -> dict[str, InputRecord]:
    """The inputs of the stage; several files are read at a time.

    Raises:
        UsageError: If events are to come from standard input.
        DataError: If a file is not there, or cannot be read.
    """
    return _recorded(_files(config, logs), threading.Event())


@contextlib.contextmanager
def recorded_meanwhile(
    config: IngestConfig,
    logs: Sequence[LogFile],
    *,
    known: dict[str, InputRecord] | None = None,
) -> Iterator[Callable[[], dict[str, InputRecord]]]:
    """The same by a thread, while others read the files; what is given waits for it. A digest needs
    the interpreter for nothing, and a fifteenth of the time of an ingest.

    Of a file that changes from here until it is asked nobody can tell which part of it was read:
    its record matches nothing, and there is a warning.

    `known` are the records where they were made before.

    Raises:
        UsageError: As `ingest_records`.
        DataError: As `ingest_records`.
    """
    if known is not None:
        yield lambda: known
        return
    files = _files(config, logs)
    before = _states(files)
    stop = threading.Event()

    def record() -> dict[str, InputRecord]:
        with timed("ingest: digests of the inputs"):
            return _recorded(files, stop)

    with ThreadPoolExecutor(1) as pool:
        records = pool.submit(record)
        try:
            yield lambda: _unless_changed(records.result(), before, _states(files))
        finally:
            stop.set()


def _files(config: IngestConfig, logs: Sequence[LogFile]) -> dict[str, LogFile]:
    found = {f"log {number}": log for number, log in enumerate(logs)}
    for number, outcome in enumerate(config.outcomes):
        if isinstance(outcome, ByEvents):
            from iterppo.logs.outcome_events import event_files

            for place, file in enumerate(event_files(outcome)):
                found[f"outcome {number}, file {place}"] = file
        if isinstance(outcome, ByClassifier) and Path(outcome.model).is_dir():
            paths = sorted(path for path in Path(outcome.model).iterdir() if path.is_file())
            for place, path in enumerate(paths):
                found[f"outcome {number} {place}"] = LogFile(str(path), str(path))
    return found


def _recorded(files: Mapping[str, LogFile], stop: threading.Event) -> dict[str, InputRecord]:
    """Once `stop` is set, it returns soon, and what it returns means nothing."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        digests = list(pool.map(functools.partial(LogFile.digest, stop=stop), files.values()))
    return {
        name: InputRecord(path=file.name, kind="file", digest=digest)
        for (name, file), digest in zip(files.items(), digests, strict=True)
    }


def _states(files: Mapping[str, LogFile]) -> dict[str, tuple[int, ...]]:
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return dict(zip(files, pool.map(LogFile.state, files.values()), strict=True))


def _unless_changed(
    records: dict[str, InputRecord],
    before: Mapping[str, tuple[int, ...]],
    after: Mapping[str, tuple[int, ...]],
) -> dict[str, InputRecord]:
    changed = [name for name in records if before[name] != after[name]]
    for name in changed:
        warn(
            f"ingest: {records[name].path} changed while it was read. What was taken of it stays; "
            "the same command again takes the rest."
        )
    return records | {
        name: records[name].model_copy(update={"digest": CHANGED}) for name in changed
    }
