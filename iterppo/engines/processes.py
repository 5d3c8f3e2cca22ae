"""Work in several processes, results in order.

Workers are fresh interpreters (spawned): a forked one would inherit locks of threads that it does
not have. A worker ends when the process that started it is gone, however that ended.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from iterppo.engines.light_arrow import leave_pandas_out
from iterppo.errors import UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Processes:
    """Processes of this machine; none but this one where one is enough, and in that so many
    threads."""

    def __init__(self, workers: int, *, threads: int = 1) -> None:
        self.workers = workers
        self.threads = threads

    def is_here(self, num_tasks: int) -> bool:
        """See `Engine`."""
        return self.workers <= 1 or num_tasks <= 1

    def map_in_order(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """See `Engine`."""
        if self.is_here(len(items)):
            yield from self._map_here(function, items)
            return
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor
        from concurrent.futures.process import BrokenProcessPool

        context = multiprocessing.get_context("spawn")
        pool = ProcessPoolExecutor(
            min(self.workers, len(items)), mp_context=context, initializer=_begin
        )
        try:
            yield from pool.map(function, items)
        except BrokenProcessPool:
            raise UsageError(
                "a worker process was killed, for want of memory perhaps. Run it with --workers 1."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _map_here(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        if min(self.threads, len(items)) <= 1:
            yield from map(function, items)
            return
        pool = ThreadPoolExecutor(min(self.threads, len(items)))
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def map_groups(
        self,
        function: Callable[[Item, pa.Table | None], Result],
        groups: Mapping[int, Item],
        tables: Callable[[Path], Iterator[pa.Table]],
        files: Sequence[Path],
    ) -> Iterator[Result]:
        """See `Engine`; the rows of a group are not brought together here."""
        without_rows = functools.partial(_without_rows, function)
        return self.map_in_order(without_rows, list(groups.values()))


def _without_rows(function: Callable[[Item, pa.Table | None], Result], item: Item) -> Result:
    return function(item, None)


def _begin() -> None:
    """What a worker does first."""
    leave_pandas_out()
    _end_with_parent()


def _end_with_parent() -> None:
    """Watch the parent from a thread: a worker that waits for work never sees it go."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    assert parent is not None, "runs in a worker"

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
