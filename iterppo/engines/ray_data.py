"""Ray Data as an engine: one task a row, on whatever machines the cluster has.

    map_in_order: rows of (number, pickled task) -> map -> rows of (number, pickled outcome)
    map_groups:   rows of file names -> tables -> group-by -> rows of (number, pickled outcome)

A task whose worker is killed is done again, by Ray. What it writes it then writes again over what
is there, the same bytes, so that a first attempt that still lives somewhere does no harm. Paths
are those of the process that started the stage: all machines of the cluster see the same storage
under the same paths, and have the same iterppo installed.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import pickle
import socket
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from iterppo.artifact import code_digest
from iterppo.engines.processes import available_cores
from iterppo.errors import IterPPOError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
Result = TypeVar("Result")

_MAX_RETRIES = 3
"""Of a task whose worker was killed; Ray's own default is to try for ever."""
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_task_oom_retries": str(_MAX_RETRIES)}
"""Read when ray is imported, and by the cluster that it starts."""
_ANSWERS_WITHIN_S = 10.0


@contextlib.contextmanager
def ray_data(workers: int) -> Iterator[RayData]:
    """The cluster that this process is in already, or that RAY_ADDRESS names; else one of this
    machine, with so many workers (0: one a core), for as long as the context is open.

    Raises:
        UsageError: If Ray is not installed, or nobody answers at RAY_ADDRESS.
    """
    for name, value in _SETTINGS.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data  # its own dependencies are there
    except ModuleNotFoundError:
        raise UsageError("--engine ray needs the extra: pip install 'iterppo[ray]'") from None
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is raised, and said there
    if ray.is_initialized():
        yield RayData()
        return
    address = os.environ.get("RAY_ADDRESS", "")
    if address in ("", "local"):
        cores = workers or available_cores()
        where: dict[str, Any] = {"address": "local", "num_cpus": cores, "include_dashboard": False}
    else:
        _knock(address)
        where = {"address": address}
    try:
        ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:  # the latter for another version of Ray
        if where["address"] == "local":
            raise
        raise _not_joined(address, error) from None
    try:
        yield RayData()
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """Refuse an address at which nobody listens; Ray itself goes on trying for minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal():
        return
    try:
        socket.create_connection((host, int(port)), _ANSWERS_WITHIN_S).close()
    except OSError as error:
        raise _not_joined(address, error) from None


def _not_joined(address: str, error: Exception) -> UsageError:
    return UsageError(
        f"RAY_ADDRESS={address}: that cluster cannot be joined ({error}). Check it, or unset it: "
        "then one is started here."
    )


@dataclass(frozen=True)
class _Place:
    """What a worker has in common with the process that started the stage."""

    folder: str
    code: str

    @classmethod
    def here(cls) -> _Place:
        return cls(os.getcwd(), code_digest())

    def enter(self) -> None:
        """Make relative paths mean what they mean there.

        Raises:
            UsageError: If the worker has another iterppo: who makes a part would change it.
        """
        if code_digest() != self.code:
            raise UsageError(
                f"ray: {socket.gethostname()} has another iterppo than the machine that runs the "
                "stage. Install the same on all of them."
            )
        if os.path.isdir(self.folder):
            os.chdir(self.folder)


class RayData:
    """See `Engine`."""

    def is_here(self, num_tasks: int) -> bool:
        """See `Engine`."""
        return False

    def map_in_order(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """See `Engine`."""
        from ray import cloudpickle

        rows = [{"number": n, "task": cloudpickle.dumps(item)} for n, item in enumerate(items)]
        if not rows:
            return
        work = functools.partial(_work, _Place.here(), cloudpickle.dumps(function))
        with _max_retries() as option:
            done = _dataset(rows).map(work, **option)
        for _, outcome in _in_order(done, range(len(rows))):
            yield _result(outcome)

    def map_groups(
        self,
        function: Callable[[Item, pa.Table | None], Result],
        groups: Mapping[int, Item],
        tables: Callable[[Path], Iterator[pa.Table]],
        files: Sequence[Path],
    ) -> Iterator[Result]:
        """See `Engine`; a group has to fit into the memory of its worker."""
        from ray import cloudpickle
        from ray.data.context import ShuffleStrategy

        done: Any = None
        if files:
            place = _Place.here()
            dataset = _dataset([{"file": str(file)} for file in files])
            # The others keep rows in actors, or on the disk of a machine, and lose them with it;
            # what is lost of this one's Ray makes again.
            dataset.context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
            read = functools.partial(_read, place, tables, list(groups))
            tasks = {number: cloudpickle.dumps(item) for number, item in groups.items()}
            work = functools.partial(_work_on_group, place, cloudpickle.dumps(function), tasks)
            with _max_retries() as option:
                rows = dataset.map_batches(read, batch_size=None, batch_format="pyarrow", **option)
                done = rows.groupby("group").map_groups(work, batch_format="pyarrow", **option)
        for number, outcome in _in_order(done, groups):
            # Of a group without rows Ray knows nothing.
            yield _result(outcome) if outcome else function(groups[number], None)


def _dataset(rows: list[dict[str, Any]]) -> Any:
    """A row a task."""
    import ray.data

    dataset = ray.data.from_items(rows, override_num_blocks=len(rows))
    dataset.context.enable_progress_bars = False
    dataset.context.print_on_execution_start = False
    return dataset


@contextlib.contextmanager
def _max_retries() -> Iterator[dict[str, int]]:
    """The option of a map; no other has its effect, although this one is to go with Ray 2.64."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*ray_remote_args.* is deprecated")
        yield {"max_retries": _MAX_RETRIES}


def _in_order(dataset: Any, numbers: Iterable[int]) -> Iterator[tuple[int, bytes | None]]:
    """Outcomes in the order of their numbers, as soon as they are there; at the end come the
    numbers behind one that has none."""
    from ray.exceptions import OutOfMemoryError, WorkerCrashedError

    waiting: dict[int, bytes] = {}
    missing = deque(numbers)
    try:
        for row in dataset.iter_rows() if dataset is not None else ():
            waiting[row["number"]] = row["outcome"]
            while missing and missing[0] in waiting:
                number = missing.popleft()
                yield number, waiting.pop(number)
    except (OutOfMemoryError, WorkerCrashedError):
        raise UsageError(
            f"ray: a task was given up, its worker was killed {_MAX_RETRIES + 1} times, for want "
            "of memory perhaps. Run it with fewer workers on a machine."
        ) from None
    for number in missing:
        yield number, waiting.get(number)


# --- on a worker: functions and tasks stay pickled until relative paths in them mean the same ----


def _work(place: _Place, function: bytes, row: dict[str, Any]) -> dict[str, Any]:
    return {"number": row["number"], "outcome": _outcome(place, function, row["task"])}


def _read(
    place: _Place,
    tables: Callable[[Path], Iterator[pa.Table]],
    groups: Sequence[int],
    files: pa.Table,
) -> Iterator[pa.Table]:
    import pyarrow as pa
    import pyarrow.compute as pc

    place.enter()
    wanted = pa.array(groups, pa.int64())
    for file in files["file"].to_pylist():
        for table in tables(Path(file)):
            yield table.filter(pc.is_in(table["group"], wanted))


def _work_on_group(
    place: _Place, function: bytes, tasks: Mapping[int, bytes], rows: pa.Table
) -> pa.Table:
    import pyarrow as pa

    number = rows["group"][0].as_py()
    outcome = _outcome(place, function, tasks[number], rows)
    return pa.table({"number": [number], "outcome": [outcome]})


def _outcome(place: _Place, function: bytes, task: bytes, *rows: pa.Table) -> bytes:
    """A result, or an error that the user can mend: Ray would make a traceback of it."""
    try:
        place.enter()
        return pickle.dumps((pickle.loads(function)(pickle.loads(task), *rows), None))
    except IterPPOError as error:
        return pickle.dumps((None, error))


def _result(outcome: bytes | None) -> Any:
    assert outcome is not None, "every task has an outcome"
    result, error = pickle.loads(outcome)
    if error is not None:
        raise error
    return result
