"""What `iterppo inspect` finds in a single file: JSON, safetensors, or a log."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path
from typing import Any

from iterppo.config import IngestConfig
from iterppo.errors import DataError, UsageError
from iterppo.logs.formats import line_parser, recognise
from iterppo.logs.sources import Lines, LogFile, Piece
from iterppo.report.artifact_content import Wish, part_content
from iterppo.report.checkpoints import tensors_content

_PARQUET = b"PAR1"
_LONGEST_JSON_BYTES = 2**24


def file_content(path: Path, wish: Wish) -> dict[str, Any]:
    """A file by what it holds, not only by how it is called.

    Raises:
        IterPPOError: If nothing can be read from it.
    """
    if path.suffix == ".safetensors":
        return {"path": str(path), "what": "safetensors file", "problems": []} | tensors_content(
            path
        )
    with path.open("rb") as stream:
        begin = stream.read(len(_PARQUET))
    if begin == _PARQUET or path.suffix == ".parquet":
        return part_content(path, wish)
    if path.suffix == ".json" and path.stat().st_size <= _LONGEST_JSON_BYTES:
        return _json_content(path)
    return log_content(path, wish)


def _json_content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: no JSON, or cut off ({error}). Make it again.") from None
    return {"path": str(path), "what": "JSON file", "problems": [], "content": content}


def log_content(path: Path, wish: Wish) -> dict[str, Any]:
    """A log as `ingest` would recognise it, and its first conversations.

    Raises:
        DataError: If it cannot be read.
        UsageError: If the conversation that is asked for is not in it.
    """
    file = LogFile(str(path), str(path))
    format_ = recognise(file, IngestConfig())
    parse = None if format_ == "events" else line_parser(format_)
    shown: list[Any] = []
    raw: list[str] = []
    num_lines = num_problems = 0
    first_problem = ""
    for number, line in Lines(Piece(file)):
        num_lines += 1
        if parse is None:
            raw += [line.decode("utf-8", "backslashreplace")] if len(raw) < wish.rows else []
            continue
        if wish.conversation is None and not wish.statistics and len(shown) >= wish.rows:
            continue
        try:
            conversation = parse(line)
        except DataError as error:
            num_problems += 1
            first_problem = first_problem or f"line {number}: {error}"
            continue
        is_wanted = (
            conversation.conversation_id == wish.conversation
            if wish.conversation is not None
            else len(shown) < wish.rows
        )
        if is_wanted:
            shown.append(conversation)
    if wish.conversation is not None and not shown:
        raise UsageError(
            f"--conversation {wish.conversation}: {path} has none of this name"
            + (", its lines being single messages. Ingest it first." if parse is None else ".")
        )
    content: dict[str, Any] = {
        "path": str(path),
        "what": "log",
        "format": format_,
        "lines": num_lines,
        "problems": [],
    }
    if num_problems:
        content["problems"].append(
            f"{num_problems} lines would not be taken as they are; the first, {first_problem}"
        )
    if parse is None:
        content["first_lines"] = raw
        content["columns_found"] = _header(raw)
    else:
        content["conversations"] = shown
    return content


def _header(lines: list[str]) -> list[str]:
    """Names of the columns of an event log: of its first line."""
    if not lines:
        return []
    try:
        first = json.loads(lines[0])
    except ValueError:
        return next(csv.reader(io.StringIO(lines[0])), [])
    return list(itertools.islice(first, 100)) if isinstance(first, dict) else []
