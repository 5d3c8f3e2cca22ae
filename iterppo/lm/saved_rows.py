"""Rows beside a checkpoint: appended as they are made, cut to what belongs to the checkpoint.

A checkpoint replaces the one before as a whole; the rows of a long training are too many to be
written again each time. The checkpoint says how many bytes of this file are its own: what a killed
training appended after it is cut off.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any


class SavedRows:
    """A file of JSON lines.

    Args:
        file: Its place; nothing is there before the first rows.
    """

    def __init__(self, file: Path) -> None:
        self._file = file

    def append(self, rows: Sequence[dict[str, Any]], *, size_bytes: int) -> int:
        """Write behind the first `size_bytes`, in the place of whatever stands there; returns the
        new size.

        Raises:
            OSError: If they cannot be written; the first `size_bytes` are as they were.
        """
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
        with self._file.open("r+b" if size_bytes else "wb") as stream:
            stream.truncate(size_bytes)
            stream.seek(size_bytes)
            stream.write(lines)
            stream.flush()
            os.fsync(stream.fileno())
        return size_bytes + len(lines)

    def read(self, size_bytes: int) -> list[dict[str, Any]] | None:
        """The rows of the first `size_bytes`; None where the file does not hold as many."""
        try:
            content = self._file.read_bytes()[:size_bytes] if size_bytes else b""
        except OSError:
            return None
        if len(content) < size_bytes:
            return None
        return [json.loads(line) for line in content.splitlines()]

    def remove(self) -> None:
        """When the training is done."""
        self._file.unlink(missing_ok=True)
