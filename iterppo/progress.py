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
from typing import TYPE_CHECKING, Literal, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

Item = TypeVar("Item")
Loudness = Literal["quiet", "normal", "verbose"]

LINE_EVERY_S = 15.0
"""Between two lines at first; later lines come with every twentieth of the time that went by."""
_LONGEST_PAUSE_S = 300.0
_REFRESH_PER_S = 4.0

_loudness: Loudness = "normal"
_display: Progress | None = None  # on the terminal, while there is a bar in it


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
    if _is_silent():
        yield from items
        return
    with timed(what):
        bar = open_bar(what, total=total, unit=unit)
        if bar is None:
            yield from _with_lines(items, what, total, unit)
        else:
            yield from _with_bar(items, bar)


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


def _with_bar(items: Iterable[Item], bar: Bar) -> Iterator[Item]:
    try:
        for item in items:
            yield item
            bar.advance()
    finally:
        bar.close()


class Bar:
    """A bar on the terminal, below those that are there already."""

    def __init__(self, what: str, *, total: int | None, unit: str) -> None:
        global _display
        if _display is None:
            _display = _new_display()
            _display.start()
        self._what = what
        self._display = _display
        self._task = _display.add_task(what, total=total, unit=unit)

    def advance(self, number: int = 1, *, note: str = "") -> None:
        """So much further; `note` stands behind what is done."""
        told = f"{self._what} ({note})" if note else self._what
        self._display.update(self._task, advance=number, description=told)

    def close(self) -> None:
        """Take it away."""
        if self._task in self._display.task_ids:
            self._display.remove_task(self._task)
        if not self._display.task_ids:
            end_bars()


def open_bar(what: str, *, total: int | None, unit: str) -> Bar | None:
    """A bar for work that is no loop of ours; None where lines are to be said instead, or
    nothing."""
    is_terminal = sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if not is_terminal or _is_silent():
        return None
    return Bar(what, total=total, unit=unit)


def end_bars() -> None:
    """Leave the terminal as it was, whatever ended the work."""
    global _display
    if _display is not None:
        _display.stop()
        _display = None


def _is_silent() -> bool:
    """Of several processes that work together one tells."""
    return _loudness == "quiet" or os.environ.get("RANK", "0") != "0"


def _new_display() -> Progress:
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
