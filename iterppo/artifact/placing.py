"""Where an artifact is made until it is whole, and how it gets to its place."""

from __future__ import annotations

import glob
import json
import os
import shutil
from pathlib import Path

from iterppo.artifact.manifest import MANIFEST
from iterppo.errors import UsageError


def hidden_beside(out: Path) -> Path:
    """The folder that becomes `out`; of this process alone."""
    return out.parent / f".{out.name}.tmp-{os.getpid()}"


def sync(path: Path) -> None:
    """Have the disk hold what was written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`. A kill between the renames leaves no artifact rather than
    half of one."""
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    if out.exists():
        out.rename(old)
    new.rename(out)
    sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def sweep(out: Path) -> None:
    """Remove what killed runs left beside `out`; folders of processes that still live are not
    touched."""
    for mark in (".tmp-", ".old-"):
        for leftover in out.parent.glob(f".{glob.escape(out.name)}{mark}*"):
            pid = leftover.name.rpartition("-")[2]
            if pid.isdigit() and (int(pid) == os.getpid() or not process_lives(int(pid))):
                shutil.rmtree(leftover, ignore_errors=True)


def process_lives(pid: int) -> bool:
    """Whether there is a process of this number on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def refuse_foreign(out: Path, kind: str) -> None:
    """Never overwrite a folder that is not an artifact of this kind."""
    if not out.exists():
        return
    if out.is_dir() and not any(out.iterdir()):
        return
    try:
        found = json.loads((out / MANIFEST).read_text(encoding="utf-8"))
        same = found.get("format") == "iterppo" and found.get("kind") == kind
    except (OSError, ValueError, AttributeError):
        same = False
    if not same:
        raise UsageError(
            f"{out}: exists and is not an artifact of kind {kind}, so it is not replaced. Choose "
            "another place."
        )
