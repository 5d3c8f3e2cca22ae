"""The engine that `--engine` names."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from iterppo.engines.processes import Processes, available_cores

if TYPE_CHECKING:
    import pyarrow as pa

Item = TypeVar("Item")
Result = TypeVar("Result")

EngineName = Literal["local", "ray"]
_MOST_THREADS = 4


class Engine(Protocol):
    """Maps functions over tasks. Functions, tasks and results are pickled on their way."""

    def is_here(self, num_tasks: int) -> bool:
        """Whether so many tasks are worked on in this very process."""
        ...

    def map_in_order(
        self, function: Callable[[Item], Result], items: Sequence[Item]
    ) -> Iterator[Result]:
        """`map`; a task whose worker is killed may be done again, and must bear it.

        Raises:
            UsageError: If workers were killed from outside.
            Exception: Whatever `function` raises; what had not begun is not done then.
        """
        ...

    def map_groups(
        self,
        function: Callable[[Item, pa.Table | None], Result],
        groups: Mapping[int, Item],
        tables: Callable[[Path], Iterator[pa.Table]],
        files: Sequence[Path],
    ) -> Iterator[Result]:
        """`function` of every group and of its rows, which are in no order; in the order of the
        groups.

        The rows of group n are those of the tables of all files whose column `group` is n. An
        engine that does not bring them together gives None, and `function` finds them itself.

        Raises:
            Exception: As `map_in_order`.
        """
        ...


@contextlib.contextmanager
def open_engine(
    name: EngineName, *, workers: int, enough: int | None = None, threads: bool = False
) -> Iterator[Engine]:
    """An engine, for as long as its context is open.

    Args:
        name: `local` or `ray`.
        workers: Number of processes; of `ray` those of the cluster that is started, where none
            is joined. 0: one a core.
        enough: Where no number is asked for, more processes than that would cost more time than
            they save.
        threads: Whether functions spend their time in Arrow and numpy, which let other threads go
            on: where one process is enough and none was asked for, it has a thread a core, up to
            four; with more, they wait for the interpreter.

    Raises:
        UsageError: If it is not installed, or its cluster cannot be reached.
    """
    if name == "local":
        cores = available_cores()
        yield Processes(
            workers or min(enough or cores, cores),
            threads=min(cores, _MOST_THREADS) if threads and not workers else 1,
        )
        return
    from iterppo.engines.ray_data import ray_data

    with ray_data(workers) as engine:
        yield engine
