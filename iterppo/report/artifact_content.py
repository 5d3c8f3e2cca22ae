"""What `iterppo inspect` finds in an artifact, whole or half-written, and in a part of one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from iterppo.artifact import (
    MANIFEST,
    Artifact,
    Stretch,
    file_digest,
    lineage,
    open_artifact,
    read_manifest,
)
from iterppo.artifact.placing import LOCK
from iterppo.contracts import ROWS
from iterppo.contracts.base import columns as contract_columns
from iterppo.errors import ArtifactError, IterPPOError, UsageError
from iterppo.report.checkpoints import checkpoint_content, is_checkpoint
from iterppo.report.column_statistics import statistics
from iterppo.report.conversations import (
    beside,
    common_folder,
    conversation_rows,
    turns_of,
    with_more,
)
from iterppo.report.lineage_tree import lineage_content

_IDS_SHOWN = 3
CONTRACT = b"iterppo.contract"


@dataclass(frozen=True)
class Wish:
    """What is to be looked at."""

    rows: int = 3
    conversation: str | None = None
    statistics: bool = True


def artifact_content(path: Path, wish: Wish) -> dict[str, Any]:
    """Everything about an artifact. Damage is told, and does not end the look."""
    manifest = read_manifest(path)
    problems = []
    try:
        open_artifact(path)
    except ArtifactError as error:
        problems.append(str(error))
    artifact = Artifact(path, manifest)
    readable, unreadable = _readable(artifact.parts())
    problems += [text for text in unreadable if not problems]
    content = {
        **manifest.model_dump(mode="json"),
        "path": str(path),
        "what": "artifact",
        "problems": problems,
        "lineage": lineage_content(lineage(path, manifest)),
    }
    content |= _models(path)
    if manifest.kind in ROWS:
        content |= _rows(manifest.kind, Stretch(manifest.kind, readable), wish, artifact)
    return content


def half_written_content(path: Path, wish: Wish, *, state: str) -> dict[str, Any]:
    """What is there of an artifact that has no manifest yet, or never will."""
    found = sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in found if file != path / LOCK]
    parts, problems = _readable([f for f in files if f.suffix == ".parquet" and f.parent == path])
    content: dict[str, Any] = {
        "path": str(path),
        "what": "half-written artifact",
        "problems": [state, *problems],
        "files": {f.relative_to(path).as_posix(): {"size_bytes": f.stat().st_size} for f in files},
    }
    content |= _models(path)
    kinds = {_contract(part)[0] for part in parts} & ROWS.keys()
    if len(kinds) == 1:
        kind = str(*kinds)
        of_kind = Stretch(kind, [part for part in parts if _contract(part)[0] == kind])
        content |= {"kind": kind, "version": _contract(of_kind.parts()[0])[1]}
        content["rows"] = sum(_num_rows(part) for part in of_kind.parts())
        content |= _rows(kind, of_kind, wish, None)
    return content


def part_content(path: Path, wish: Wish) -> dict[str, Any]:
    """A Parquet file by itself; of an artifact, or of anybody's.

    Raises:
        ArtifactError: If it cannot be read.
    """
    readable, problems = _readable([path])
    if not readable:
        raise ArtifactError(problems[0])
    kind, version = _contract(path)
    content: dict[str, Any] = {
        "path": str(path),
        "what": "Parquet file",
        "kind": kind,
        "version": version,
        "rows": _num_rows(path),
        "problems": [],
    }
    artifact = _owner(path, content)
    if kind in ROWS:
        return content | _rows(kind, Stretch(kind, [path]), wish, artifact)
    return content | _plain_rows(path, wish)


def _owner(path: Path, content: dict[str, Any]) -> Artifact | None:
    """The artifact that a part belongs to, and whether it is as it was written."""
    folder = path.parent
    if not (folder / MANIFEST).is_file():
        return None
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return None
    record = manifest.files.get(path.name)
    if record is None:
        return None
    content["artifact"] = str(folder)
    if file_digest(path) != record.sha256:
        content["problems"].append(f"{path}: damaged, its content does not match {MANIFEST}.")
    return Artifact(folder, manifest)


def _rows(kind: str, source: Stretch, wish: Wish, artifact: Artifact | None) -> dict[str, Any]:
    """Columns with their meaning and statistics, and the rows to look at."""
    told = statistics(source.batches()) if wish.statistics else {}
    columns = [
        {**column, "statistics": told.get(column["name"])}
        for column in contract_columns(ROWS[kind])
    ]
    return {"columns": columns, **_chosen(kind, source, wish, artifact)}


def _chosen(kind: str, source: Stretch, wish: Wish, artifact: Artifact | None) -> dict[str, Any]:
    """The first rows, or those of a conversation; as turns where the turns can be found."""
    turns = source if kind == "trajectories" else None
    more: dict[str, Artifact] = {}
    if artifact is not None and (found := turns_of(artifact)) is not None:
        turns = source if found is artifact else found
        more = beside(found, folder=common_folder(artifact.path))
        if found is not artifact:
            more[kind] = artifact
    if wish.conversation is not None:
        return _whole(kind, source if turns is None else turns, wish.conversation, more, turns)
    first = list(itertools.islice(source.rows(), wish.rows))
    if turns is None or not first:
        return {"first_rows": first}
    if turns is not source:
        wanted = {(row["conversation_id"], row["turn"]) for row in first}
        names = dict.fromkeys(row["conversation_id"] for row in first)
        rows = [row for name in names for row in conversation_rows(turns, name)]
        first = [row for row in rows if (row["conversation_id"], row["turn"]) in wanted]
    return {"turns": with_more(first, more)}


def _whole(
    kind: str, source: Stretch, name: str, more: dict[str, Artifact], turns: Stretch | None
) -> dict[str, Any]:
    names = [column["name"] for column in contract_columns(ROWS[kind])]
    if turns is None and "conversation_id" not in names:
        raise UsageError(f"--conversation {name}: {kind} has no conversations. Leave it out.")
    rows = conversation_rows(source, name)
    if not rows:
        first = itertools.islice(_ids(source), _IDS_SHOWN)
        raise UsageError(
            f"--conversation {name}: there is none of this name. The first are called "
            f"{', '.join(first) or 'nothing, there are none'}."
        )
    return {"first_rows": rows} if turns is None else {"turns": with_more(rows, more)}


def _ids(source: Stretch) -> Iterator[str]:
    last = None
    for row in source.rows(["conversation_id"]):
        if row["conversation_id"] != last:
            last = row["conversation_id"]
            yield last


def _plain_rows(path: Path, wish: Wish) -> dict[str, Any]:
    """A Parquet file that is under no contract of ours, as the curves of a training."""
    if wish.conversation is not None:
        raise UsageError(f"--conversation: {path} is under no contract of iterppo. Leave it out.")
    with pq.ParquetFile(path) as file:
        told = statistics(file.iter_batches()) if wish.statistics else {}
        columns = [
            {
                "name": field.name,
                "type": str(field.type),
                "nullable": field.nullable,
                "meaning": "",
                "unit": "",
                "statistics": told.get(field.name),
            }
            for field in file.schema_arrow
        ]
        first: list[dict[str, Any]] = []
        for batch in file.iter_batches(batch_size=max(1, wish.rows)):
            first = batch.to_pylist()[: wish.rows]
            break
    return {"columns": columns, "first_rows": first}


def _models(folder: Path) -> dict[str, Any]:
    """The checkpoint of an artifact; beside its rows, or the artifact itself."""
    for place in (folder / "model", folder):
        if is_checkpoint(place):
            try:
                return {"checkpoint": checkpoint_content(place)}
            except IterPPOError as error:
                return {"checkpoint_problem": str(error)}
    return {}


def _readable(parts: list[Path]) -> tuple[list[Path], list[str]]:
    """Parts whose footer is there; of the others, what is wrong."""
    good, problems = [], []
    for part in parts:
        try:
            with pq.ParquetFile(part):
                good.append(part)
        except (pa.ArrowInvalid, OSError):
            size = part.stat().st_size if part.is_file() else 0
            problems.append(
                f"{part}: cut off ({size} bytes, without the end that tells what is in it). Make "
                "the artifact again."
            )
    return good, problems


def _contract(part: Path) -> tuple[str | None, int | None]:
    """`trajectories`, 2; none where the file does not say."""
    with pq.ParquetFile(part) as file:
        metadata = file.schema_arrow.metadata or {}
    kind, _, version = metadata.get(CONTRACT, b"").decode().partition("@")
    return (kind, int(version)) if kind and version.isdigit() else (None, None)


def _num_rows(part: Path) -> int:
    with pq.ParquetFile(part) as file:
        return int(file.metadata.num_rows)
