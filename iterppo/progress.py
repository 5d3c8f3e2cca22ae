"""What a command says while it works: a bar on a terminal, a line now and then elsewhere; always on
standard error.

How much of it is said is set once, by `--quiet` or `--verbose`: `quiet` leaves warnings, `verbose`
adds how long things took and what the libraries log. `NO_COLOR` is respected (by rich).
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
Loudness = Literal["quiet", "normal", "verbose"]

LINE_EVERY_S = 15.0
"""Between two lines at first; later lines come with every twentieth of the time that went by."""
_LONGEST_PAUSE_S = 300.0
_REFRESH_PER_S = 4.0

_loudness: Loudness = "normal"
_bars: list[Progress] = []  # the display on the terminal, while there is one


def set_loudness(loudness: Loudness) -> None:
    """Say less, or more, from now on in this process."""
    global _loudness
    _loudness = loudness
    if loudness == "verbose":
        import logging

        form = "%(asctime)s %(name)s: %(message)s"
        logging.basicConfig(level=logging.INFO, format=form, stream=sys.stderr)


def loudness() -> Loudness:
    """How much is said."""
    return _loudness


def say(text: str) -> None:
    """One line for whoever watches; none where it is to be quiet."""
    if _loudness != "quiet":
        warn(text)


def warn(text: str) -> None:
    """One line that is said however quiet it is to be: something is not as it should be."""
    print(text, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """For people.

    >>> duration(42.4), duration(754), duration(9000)
    ('42 s', '12 min 34 s', '2 h 30 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def pause_s(elapsed_s: float) -> float:
    """How long to wait before the next line: work of an hour needs no 240 of them.

    >>> pause_s(10), pause_s(1200), pause_s(36000)
    (15.0, 60.0, 300.0)
    """
    return min(max(LINE_EVERY_S, elapsed_s / 20), _LONGEST_PAUSE_S)


@contextlib.contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how long it took, where it is to be verbose."""
    begun = time.monotonic()
    yield
    if _loudness == "verbose":
        warn(f"{what}: {time.monotonic() - begun:.1f} s")


def progress(
    items: Iterable[Item], what: str, *, total: int | None = None, unit: str = ""
) -> Iterator[Item]:
    """Pass items through and show how many went by, and how long the rest will take."""
    if _loudness == "quiet" or os.environ.get("RANK", "0") != "0":  # of several one tells
        yield from items
        return
    with timed(what):
        if _is_terminal():
            yield from _with_bar(items, what, total, unit)
        else:
            yield from _with_lines(items, what, total, unit)


def _is_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _with_lines(items: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    begun = said = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - said > pause_s(now - begun):
            said = now
            say(_line(what, number, total, unit, now - begun))


def _line(what: str, number: int, total: int | None, unit: str, elapsed_s: float) -> str:
    """
    >>> _line("fit-q", 30, 120, "steps", 20.0)
    'fit-q: 30 of 120 steps, 25 %, 1 min 0 s left'
    >>> _line("ingest", 2000, None, "lines", 20.0)
    'ingest: 2000 lines, 100 a second'
    """
    if not total:
        return f"{what}: {number} {unit}, {number / elapsed_s:.3g} a second"
    left = duration(elapsed_s / number * max(0, total - number))
    return f"{what}: {number} of {total} {unit}, {number / total:.0%}, {left} left".replace(
        "%", " %"
    )


def _with_bar(items: Iterable[Item], what: str, total: int | None, unit: str) -> Iterator[Item]:
    """A bar; beside another one where one is shown already."""
    with contextlib.ExitStack() as stack:
        if not _bars:
            _bars.append(stack.enter_context(_display()))
            stack.callback(_bars.clear)
        shown = _bars[0]
        task = shown.add_task(what, total=total, unit=unit)
        stack.callback(shown.remove_task, task)
        for item in items:
            yield item
            shown.advance(task)


def _display() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        refresh_per_second=_REFRESH_PER_S,
        speed_estimate_period=120,
        redirect_stdout=False,  # results only, and those come when the bar is gone
    )
