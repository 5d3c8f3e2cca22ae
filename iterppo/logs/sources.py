"""The files of a log, and their lines."""

from __future__ import annotations

import glob
import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, cast

from iterppo.errors import DataError, UsageError

LOG_FILE = "log.jsonl"
"""Name of the log within an artifact of kind `log`."""


def find_logs(patterns: Sequence[str], round_folder: Path | None) -> list[Path]:
    """Files for a list of names: plain paths, globs, and folders made by `iterppo rollout`.

    Raises:
        UsageError: If nothing is named.
        DataError: If a name matches no file.
    """
    if not patterns:
        if round_folder is None:
            raise UsageError(
                "ingest: no log is named. Name files, or the round with --round runs/NAME/000."
            )
        patterns = [str(round_folder / "log")]
    found: list[Path] = []
    for pattern in patterns:
        path = Path(pattern)
        if path.is_dir():
            path = path / LOG_FILE
        matches = (
            [path]
            if path.is_file()
            else [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
        )
        matches = [match for match in matches if match.is_file()]
        if not matches:
            raise DataError(f"{pattern}: no such log. Check the path (quote a glob: '*.jsonl.gz').")
        found.extend(matches)
    return found


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and lines, without their ending; blank lines are passed over.

    Raises:
        DataError: If the file cannot be read to its end.
    """
    number = 0
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    yield number, line.rstrip(b"\r\n")
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: line {number + 1}: cannot be read ({error}). Is the file whole?"
        ) from None


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as probe:
        compressed = probe.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path, "rb")) if compressed else path.open("rb")
