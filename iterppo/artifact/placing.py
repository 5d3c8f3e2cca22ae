"""Where an artifact is made until it is whole, and how it gets to its place.

A hidden folder beside the place, `.NAME.tmp-HOST-TOKEN-PID`, is of one run alone. A lock in it is
held for as long as that run is at work: a number of a process says nothing to another machine, nor
to another container.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import secrets
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from iterppo.errors import UsageError

LOCK = ".lock"
"""File of a hidden folder; no file of the artifact."""
_NEW, _OLD = ".tmp-", ".old-"
_NUM_TRIES = 20
_NAME_BYTES = 255
"""Of a file or a folder, on the file systems that there are."""
_HOST_CHARACTERS = 32
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Of file systems that know none: what is left there nobody can tell from what is at work."""


def followed(out: Path) -> Path:
    """The place itself: of a link where it leads to, so that the link stays one."""
    return out.resolve() if out.is_symlink() or out.name in ("", "..") else out


def longest_name() -> int:
    """Bytes that the name of an artifact may have."""
    return _NAME_BYTES - len(f".{_NEW}{'h' * _HOST_CHARACTERS}-{'t' * 8}-{2**22}")


@dataclass(frozen=True)
class Begun:
    """A hidden folder that this process has."""

    folder: Path
    _lock: int | None

    def end(self) -> None:
        """Remove what is there of it, and let go."""
        _remove(self.folder, self._lock)


def begin(out: Path) -> Begun:
    """A hidden folder that becomes `out`.

    Raises:
        OSError: As the file system says.
    """
    out = followed(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    host = os.uname().nodename[:_HOST_CHARACTERS]
    for _ in range(_NUM_TRIES):
        owner = f"{host}-{secrets.token_hex(4)}-{os.getpid()}"
        folder = out.parent / f".{out.name}{_NEW}{owner}"
        folder.mkdir()
        try:
            return Begun(folder, _take(folder))
        except (BlockingIOError, FileNotFoundError):  # somebody looked at it, or swept it
            shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            if error.errno in _WITHOUT_LOCKS:
                return Begun(folder, None)
            raise
    raise OSError(errno.EAGAIN, "other runs are in the way")


def begun_beside(out: Path) -> list[Path]:
    """Hidden folders of `out`, of whomever, at work or left behind; the last one is that in which
    something was made last."""
    return _beside(out, _NEW)


def is_held(folder: Path) -> bool:
    """Whether somebody is at work in the hidden folder, on whatever machine."""
    try:
        lock = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(lock)
    return False


def owner_of(folder: Path) -> str:
    """Who made a hidden folder, for messages: `process 12 on node7`; without the machine where it
    is this one."""
    host, _, pid = folder.name.rpartition(_NEW)[2].rpartition("-")
    host = host.rpartition("-")[0]
    here = host in ("", os.uname().nodename[:_HOST_CHARACTERS])
    return f"process {pid}" if here else f"process {pid} on {host}"


def sync(path: Path) -> None:
    """Have the disk hold what was written."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put_in_place(new: Path, out: Path, *, check: Callable[[Path], None]) -> None:
    """Put `new`, a hidden folder, in the place of `out`. A kill between the renames leaves no
    artifact rather than half of one.

    `check` is given where the artifact before lies by then, and nobody else gets at it; it raises
    a `UsageError` where that may not go.

    Raises:
        UsageError: If what lies there may not be replaced, or others put something there all the
            while.
    """
    out = followed(out)
    old = _renamed(new, _NEW, _OLD)
    for _ in range(_NUM_TRIES):
        with suppress(FileNotFoundError):
            out.rename(old)
        try:
            check(old)
            new.rename(out)
        except (UsageError, OSError) as error:
            if getattr(error, "errno", None) not in (errno.ENOTEMPTY, errno.EEXIST):
                with suppress(OSError):  # the reason matters more
                    old.rename(out)
                raise
            shutil.rmtree(old, ignore_errors=True)  # theirs is newer, and gives way in its turn
        else:
            (out / LOCK).unlink(missing_ok=True)
            sync(out.parent)
            shutil.rmtree(old, ignore_errors=True)
            return
    raise UsageError(
        f"{out}: other runs put their artifacts there at the same time, so this one is not there. "
        "Let one run at a time write it."
    )


def sweep(out: Path) -> None:
    """Remove what killed runs left beside `out`; what others are at work on is not touched."""
    for begun in begun_beside(out):
        with suppress(OSError):  # theirs, or of a file system without locks
            _remove(begun, _take(begun))
    for old in _beside(out, _OLD):
        if not is_held(_renamed(old, _OLD, _NEW)):
            shutil.rmtree(old, ignore_errors=True)


def _take(folder: Path) -> int:
    """The lock of a hidden folder.

    Raises:
        BlockingIOError: If somebody has it.
        FileNotFoundError: If the folder was removed meanwhile.
        OSError: As the file system says.
    """
    path = folder / LOCK
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), path.stat()):  # whoever had it removed the folder
            raise FileNotFoundError(path)
    except BaseException:
        os.close(lock)
        raise
    return lock


def _remove(folder: Path, lock: int | None) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if lock is not None:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)  # NFS keeps a file until nobody has it open


def _beside(out: Path, mark: str) -> list[Path]:
    out = followed(out)
    found = out.parent.glob(f".{glob.escape(out.name)}{mark}*")
    ours = (path for path in found if re.search(r"-\d+$", path.name) and path.is_dir())
    return sorted(ours, key=_changed_ns)


def _changed_ns(folder: Path) -> int:
    try:
        return folder.stat().st_mtime_ns
    except OSError:  # put in its place meanwhile
        return 0


def _renamed(hidden: Path, mark: str, other: str) -> Path:
    name, _, owner = hidden.name.rpartition(mark)
    return hidden.with_name(f"{name}{other}{owner}")
