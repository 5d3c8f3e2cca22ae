"""The files of a log: where they lie, how they are opened, and how they are cut into pieces that
can be read apart from each other.

A location is a path, or a URL that pyarrow's file systems open (s3://, gs://, file://). Plain files
are cut at bytes, and a line belongs to the piece that it begins in; compressed files are read from
their beginning, hence whole.
"""

from __future__ import annotations

import codecs
import contextlib
import fnmatch
import glob
import gzip
import hashlib
import io
import os
import shutil
import threading
import zlib
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast

from iterppo.artifact.file_systems import file_system, first_line, is_url, shown, url_of
from iterppo.errors import DataError, UsageError

LOG_FILE = "log.jsonl"
"""Name of the log within an artifact of kind `log`."""
STANDARD_INPUT = "-"
PIECE_BYTES = 64 * 2**20
MAX_LINE_BYTES = 256 * 2**20
"""A longer line is no conversation; it is refused without being held in memory."""

_SKIPPED_AT_ONCE = 2**20
_BUFFER_BYTES = 2**18
_GZIP, _ZSTD, _PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"


@dataclass(frozen=True, order=True)
class LogFile:
    """A file of a log."""

    name: str
    """As it was named: what rejects call it."""
    location: str
    """Path or URL; for standard input the file that holds what was read."""

    def open(self) -> BinaryIO:
        """The file's bytes, still compressed; it can be sought in.

        Raises:
            OSError: As the file system says.
        """
        if not is_url(self.location):
            return Path(self.location).open("rb", buffering=_BUFFER_BYTES)
        system, path = file_system(self.location)
        return cast(BinaryIO, system.open_input_file(path))

    def size_bytes(self) -> int:
        """Size, still compressed."""
        if not is_url(self.location):
            return Path(self.location).stat().st_size
        system, path = file_system(self.location)
        return int(system.get_file_info(path).size)

    def state(self) -> tuple[int, ...]:
        """What differs once it was written to, or another file took its place; nothing where it
        cannot be looked at."""
        try:
            if not is_url(self.location):
                found = Path(self.location).stat()
                return found.st_size, found.st_mtime_ns, found.st_ino
            system, path = file_system(self.location)
            info = system.get_file_info(path)
        except OSError:
            return ()
        return (info.size or 0), (info.mtime_ns or 0)

    def digest(self, stop: threading.Event | None = None) -> str:
        """SHA-256 of the content, in hexadecimal; or anything, soon, once `stop` is set.

        Raises:
            DataError: If it cannot be read.
        """
        digest = hashlib.sha256()
        try:
            if stop and stop.is_set():
                return ""
            with self.open() as stream:
                while not (stop and stop.is_set()) and (block := stream.read(2**22)):
                    digest.update(block)
        except OSError as error:
            raise unreadable(self, None, error) from None
        return digest.hexdigest()

    def is_read_whole(self) -> bool:
        """Whether it can only be read from its beginning: gzip, zstd and Parquet."""
        try:
            with self.open() as stream:
                return bytes(stream.read(4)).startswith((_GZIP, _ZSTD, _PARQUET))
        except OSError as error:
            raise unreadable(self, None, error) from None


@dataclass(frozen=True)
class Piece:
    """The lines of a file that begin in [start, end)."""

    file: LogFile
    start: int = 0
    end: int | None = None
    """None: to the end of the file."""


def find_logs(
    patterns: Sequence[str], round_folder: Path | None, *, what: str = "log"
) -> list[LogFile]:
    """Files for a list of names: paths, globs, URLs, and folders made by `iterppo rollout`; in the
    order of their places, each once, so that it does not matter how and in which order they are
    named.

    `-` stays as it is: it has to be read into a file first (`spool`). `what` is what an error calls
    such a file.

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
    found: dict[str, tuple[str, int, LogFile]] = {}
    for pattern in patterns:
        if pattern == STANDARD_INPUT:
            matches = [STANDARD_INPUT]
        else:
            matches = _match_url(pattern) if is_url(pattern) else _match_path(pattern)
        if not matches and not is_url(pattern) and Path(pattern).is_dir():
            raise DataError(
                f"{pattern}: a folder, in which no {LOG_FILE} lies. Name its files, as "
                f"'{Path(pattern) / '*.jsonl'}'."
            )
        if not matches:
            raise DataError(
                f"{shown(pattern)}: no such {what}. Check the path (quote a glob: '*.jsonl.gz')."
            )
        for match in matches:
            is_path = not is_url(match) and match != STANDARD_INPUT
            place = os.path.abspath(match) if is_path else match
            same = os.path.realpath(match) if is_path else match
            log = (place, len(match), LogFile(_printable(shown(match)), match))
            found[same] = min(log, found.get(same, log))  # of several names the shortest
    return [log for _, _, log in sorted(found.values())]


def _printable(path: str) -> str:
    """A name that can be written in UTF-8: a file's is bytes to the system, of whatever kind."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _match_path(pattern: str) -> list[str]:
    path = Path(pattern)
    try:
        if path.is_dir():
            path = path / LOG_FILE
        if path.is_file():
            return [str(path)]
        return [name for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]
    except OSError as error:
        raise DataError(
            f"{pattern}: cannot be looked at ({error.strerror}). Check the path, and who may use "
            "it."
        ) from None


def _match_url(pattern: str) -> list[str]:
    from pyarrow.fs import FileSelector, FileType

    system, path = file_system(pattern)
    try:
        if not glob.has_magic(path):
            return [pattern] if system.get_file_info(path).type == FileType.File else []
        parts = PurePosixPath(path).parts
        fixed = next(n for n, part in enumerate(parts) if glob.has_magic(part))
        folder = str(PurePosixPath(*parts[:fixed]))
        listed = system.get_file_info(FileSelector(folder, allow_not_found=True, recursive=True))
    except OSError as error:
        raise DataError(f"{shown(pattern)}: cannot be listed ({first_line(error)}).") from None
    depth = len(parts)
    return [
        url_of(info.path, like=pattern)
        for info in listed
        if info.type == FileType.File
        and len(PurePosixPath(info.path).parts) == depth
        and fnmatch.fnmatchcase(info.path, path)
    ]


def pieces(
    files: Sequence[LogFile],
    *,
    whole: Collection[LogFile] = (),
    piece_bytes: int | None = None,
) -> list[list[Piece]]:
    """What is read together, in order: large plain files in pieces, but for those that are to be
    read `whole`; small ones several at a time.

    Depends on the files alone, so that every number of workers makes the same parts.
    """
    piece_bytes = piece_bytes or PIECE_BYTES
    groups: list[list[Piece]] = []
    room = 0
    for file in files:
        size = file.size_bytes()
        if file in whole or file.is_read_whole():
            parts = [Piece(file)]
        else:
            starts = range(0, max(size, 1), piece_bytes)
            parts = [Piece(file, start, min(start + piece_bytes, size)) for start in starts]
        for part in parts:
            weight = (part.end if part.end is not None else size) - part.start
            if not groups or weight > room:
                groups.append([])
                room = piece_bytes
            groups[-1].append(part)
            room -= weight
    return groups


class Lines:
    """The lines of a piece with their numbers, from 1 at the first line of the piece.

    Blank lines are passed over, but counted. A line that is too long comes cut, `MAX_LINE_BYTES`
    long; no other is. The mark that Windows programs begin a file with belongs to no line.

    Raises:
        DataError: While iterating, if the file cannot be read to its end.
    """

    def __init__(self, piece: Piece) -> None:
        self.piece = piece
        self.num_lines = 0
        """Lines gone by, blank ones too."""

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        piece = self.piece
        end = piece.end
        try:
            with open_lines(piece.file) as stream:
                readline = stream.readline
                position = piece.start
                if position:
                    stream.seek(position - 1)
                    position += skip_line(stream, None if end is None else end - position + 1) - 1
                while end is None or position < end:
                    line = readline(MAX_LINE_BYTES)
                    if not line:
                        break
                    position += len(line)
                    self.num_lines += 1
                    if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                        position += skip_line(stream)
                        yield self.num_lines, line
                        continue
                    line = line.rstrip(b"\r\n")
                    if self.num_lines == 1 and not piece.start:
                        line = line.removeprefix(codecs.BOM_UTF8)
                    if line and not line.isspace():
                        yield self.num_lines, line
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(piece.file, self.num_lines + 1, error) from None


def skip_line(stream: BinaryIO, enough: int | None = None) -> int:
    """Go on to the end of the line, or so many bytes; how many went by. Not all of them are held
    in memory."""
    skipped = 0
    while (enough is None or skipped < enough) and (rest := stream.readline(_SKIPPED_AT_ONCE)):
        skipped += len(rest)
        if rest.endswith(b"\n"):
            break
    return skipped


@contextlib.contextmanager
def open_lines(file: LogFile) -> Iterator[BinaryIO]:
    """The decompressed bytes of a file."""
    with contextlib.ExitStack() as stack:
        raw: Any = stack.enter_context(file.open())
        head = bytes(raw.read(4))
        raw.seek(0)
        if head.startswith(_GZIP):
            yield cast(BinaryIO, stack.enter_context(gzip.open(raw, "rb")))
        elif head.startswith(_ZSTD):
            import pyarrow as pa

            stream = stack.enter_context(pa.CompressedInputStream(raw, "zstd"))
            yield cast(BinaryIO, io.BufferedReader(stream, 2**20))
        elif isinstance(raw, io.BufferedReader):
            yield raw
        else:
            yield cast(BinaryIO, io.BufferedReader(raw, 2**20))


def unreadable(file: LogFile, line: int | None, error: Exception) -> DataError:
    where = file.name if line is None else f"{file.name}: line {line}"
    return DataError(f"{where}: cannot be read ({first_line(error)}). Is the file whole?")


def spool(stream: BinaryIO, folder: Path) -> LogFile:
    """Standard input as a file that can be read twice: once for its digest, once for its lines."""
    path = folder / "standard-input"
    path.touch(mode=0o600)  # nobody has masked anything in it
    with path.open("wb") as file:
        shutil.copyfileobj(stream, file, 2**22)
    return LogFile(STANDARD_INPUT, str(path))
