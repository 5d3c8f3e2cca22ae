"""The files that an ingest reads, by content: logs, and what its labellers look things up in."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from iterppo.artifact import InputRecord, file_records
from iterppo.config import ByClassifier, ByEvents, IngestConfig
from iterppo.logs.sources import LogFile

_AT_ONCE = 8


def ingest_records(
    config: IngestConfig, logs: Sequence[LogFile], *, stop: threading.Event | None = None
) -> dict[str, InputRecord]:
    """The inputs of the stage; several logs are read at a time.

    Once `stop` is set, it returns soon, and what it returns means nothing.

    Raises:
        DataError: If a file cannot be read.
    """
    stop = stop or threading.Event()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        digests = pool.map(lambda log: log.digest(stop), logs)
        records = {
            f"log {number}": InputRecord(path=log.name, kind="file", digest=digest)
            for number, (log, digest) in enumerate(zip(logs, digests, strict=True))
        }
    for number, outcome in enumerate(config.outcomes):
        name = f"outcome {number}"
        if isinstance(outcome, ByEvents):
            from iterppo.logs.outcome_events import event_files

            records |= {
                f"{name}, file {place}": InputRecord(
                    path=file.name, kind="file", digest=file.digest(stop)
                )
                for place, file in enumerate(event_files(outcome))
            }
        if isinstance(outcome, ByClassifier) and Path(outcome.model).is_dir():
            files = sorted(path for path in Path(outcome.model).iterdir() if path.is_file())
            records |= file_records(name, files)
    return records


@contextlib.contextmanager
def recorded_meanwhile(
    config: IngestConfig,
    logs: Sequence[LogFile],
    *,
    known: dict[str, InputRecord] | None = None,
) -> Iterator[Callable[[], dict[str, InputRecord]]]:
    """The same by a thread, while others read the logs; what is given waits for it. A digest needs
    the interpreter for nothing, and a fifteenth of the time of an ingest.

    `known` are the records where they were made before.
    """
    if known is not None:
        yield lambda: known
        return
    stop = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        records = pool.submit(ingest_records, config, logs, stop=stop)
        try:
            yield records.result
        finally:
            stop.set()
