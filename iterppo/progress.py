"""Progress of long work: a bar on a terminal, a line now and then elsewhere; always on standard
error."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")
LINE_EVERY_S = 15.0


def say(text: str) -> None:
    """One line for whoever watches."""
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


def progress(
    items: Iterable[Item], what: str, *, total: int | None = None, unit: str = ""
) -> Iterator[Item]:
    """Pass items through and show how many went by."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(
            items, desc=what, total=total, unit=f" {unit}", leave=False, dynamic_ncols=True
        )
        return
    said = time.monotonic()
    for number, item in enumerate(items, start=1):
        yield item
        if time.monotonic() - said > LINE_EVERY_S:
            said = time.monotonic()
            say(f"{what}: {number}{f' of {total}' if total else ''} {unit}")
