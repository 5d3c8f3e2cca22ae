"""Conversations whose id was there before, in a log of any size.

Every task saves the identities of its conversations to a file: pairs of uint64, the hash of the id
and the hash of the content; an id of 0 is none. All of them together may be more than memory should
hold: ids are shared out to files by their hashes, which are spread evenly, and looked at a file at
a time.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_BYTES_EACH = 16
_IDS_AT_ONCE = 2**18
_MOST_SHARES = 256
"""Files that are open at one time."""


def repeated(identities: Sequence[Path]) -> dict[int, dict[int, bool]]:
    """Conversations whose id was there before, in the order of the tasks.

    Args:
        identities: Of every task.

    Returns:
        Task -> conversation within it -> whether it is an identical copy of the first with its id.
    """
    import numpy as np

    twice = _ids_met_twice(identities)
    first_content = np.zeros(len(twice), dtype=np.uint64)
    met = np.zeros(len(twice), dtype=bool)
    found: dict[int, dict[int, bool]] = {}
    for task, file in enumerate(identities if len(twice) else ()):
        ids, contents = _read(file)
        places = np.flatnonzero(np.isin(ids, twice))
        which, content = np.searchsorted(twice, ids[places]), contents[places]
        here, at = np.unique(which, return_index=True)  # the first of each in this task
        here, at = here[~met[here]], at[~met[here]]
        met[here], first_content[here] = True, content[at]
        again = np.ones(len(places), dtype=bool)
        again[at] = False
        if again.any():
            is_copy = content[again] == first_content[which[again]]
            found[task] = dict(zip(places[again].tolist(), is_copy.tolist(), strict=True))
    return found


def _ids_met_twice(identities: Sequence[Path]) -> np.ndarray[Any, Any]:
    """In ascending order."""
    import numpy as np

    number = sum(file.stat().st_size for file in identities) // _BYTES_EACH
    with _shared_out(identities, shares=min(1 + number // _IDS_AT_ONCE, _MOST_SHARES)) as shares:
        found = [np.array([], dtype=np.uint64)]
        for file in shares:
            ordered = np.sort(np.fromfile(file, dtype=np.uint64))
            found.append(ordered[1:][ordered[1:] == ordered[:-1]])
    return np.unique(np.concatenate(found))


@contextlib.contextmanager
def _shared_out(identities: Sequence[Path], *, shares: int) -> Iterator[list[Path]]:
    """Files of ids; the same ids are in the same one."""
    import numpy as np

    with tempfile.TemporaryDirectory(dir=identities[0].parent if identities else None) as name:
        files = [Path(name) / str(share) for share in range(shares)]
        with contextlib.ExitStack() as stack:
            written = [stack.enter_context(file.open("wb")) for file in files]
            for file in identities:
                ids, _ = _read(file)
                ids = ids[ids != 0]
                share = ids % np.uint64(shares)
                order = np.argsort(share, kind="stable")
                ends = np.cumsum(np.bincount(share.astype(np.int64), minlength=shares))
                for out, some in zip(written, np.split(ids[order], ends[:-1]), strict=True):
                    out.write(some.tobytes())
        yield files


def taken_ids(file: Path) -> np.ndarray[Any, Any]:
    """Hashes of the ids of a task's conversations, copies among them, but for those that were
    rejected for themselves."""
    ids, _ = _read(file)
    return ids[ids != 0]


def _read(file: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Hashes of ids, hashes of contents."""
    import numpy as np

    ids, contents = np.fromfile(file, dtype=np.uint64).reshape(-1, 2).T
    return ids, contents
