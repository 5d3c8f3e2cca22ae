"""Work in several processes, results in order.

Workers are fresh interpreters (spawned): a forked one would inherit locks of threads that it does
not have. A worker ends when the process that started it is gone, however that ended.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from iterppo.errors import UsageError

Item = TypeVar("Item")
Result = TypeVar("Result")


def available_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int
) -> Iterator[Result]:
    """`map`, in so many processes; in this one where one is enough.

    Raises:
        UsageError: If a worker was killed from outside.
        Exception: Whatever `function` raises; what had not begun is not done then.
    """
    if workers <= 1 or len(items) <= 1:
        yield from map(function, items)
        return
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor
    from concurrent.futures.process import BrokenProcessPool

    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        min(workers, len(items)), mp_context=context, initializer=_end_with_parent
    )
    try:
        yield from pool.map(function, items)
    except BrokenProcessPool:
        raise UsageError(
            "a worker process was killed, for want of memory perhaps. Run it with --workers 1."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _end_with_parent() -> None:
    """Watch the parent from a thread: a worker that waits for work never sees it go."""
    from multiprocessing import connection, parent_process

    parent = parent_process()
    assert parent is not None, "runs in a worker"

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
