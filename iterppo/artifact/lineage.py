"""Lineage: where the inputs of an artifact lie today, followed back as far as they can be found.

A manifest names every input by content (its digest) and by the path under which the stage was
given it. The path is relative to the folder that the command ran in, and a run may have been moved
since: so its last parts are looked for above the artifact as well. The digest decides.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Literal

from iterppo.artifact.manifest import MANIFEST, InputRecord, Manifest, file_digest
from iterppo.artifact.reading import read_manifest
from iterppo.errors import ArtifactError

_LEVELS_UP = 4  # a run's folder, and what people keep runs in
_DEEPEST = 24  # generations: some six rounds

Found = Literal["found", "changed", "missing", "elsewhere"]
"""`changed`: something else lies there by now; `elsewhere`: a URL, or standard input."""


@dataclass(frozen=True)
class Ancestor:
    """An input, and what it was made from in turn."""

    name: str
    """What the stage that read it calls it."""
    kind: str
    digest: str
    recorded_path: str
    path: Path | None
    """Where it lies, or where something else lies by now."""
    found: Found
    stage: str | None = None
    created_at: datetime | None = None
    inputs: tuple[Ancestor, ...] = ()
    inputs_left_out: Literal["", "shown before", "too many generations"] = ""
    """A policy is behind most of what a round holds: its own inputs are told once."""


def lineage(artifact: Path, manifest: Manifest) -> tuple[Ancestor, ...]:
    """The inputs of an artifact with theirs, each found by its digest or said not to be."""
    return _ancestors(artifact, manifest, shown=set(), generation=1)


def _ancestors(
    artifact: Path, manifest: Manifest, *, shown: set[str], generation: int
) -> tuple[Ancestor, ...]:
    return tuple(
        _ancestor(name, record, near=artifact, shown=shown, generation=generation)
        for name, record in manifest.inputs.items()
    )


def places(recorded_path: str, *, near: Path) -> Iterator[Path]:
    """Where an input may lie: its last parts (two at least, where it has as many) in a folder above
    the artifact that was made from it, else as it was named.

    That order, because a run that was copied is to be looked at with its own inputs.
    """
    named = Path(recorded_path)
    if named.is_absolute():
        yield named
    parts = named.parts[1:] if named.is_absolute() else named.parts
    above = list(near.absolute().parents)[:_LEVELS_UP]
    for start in range(max(1, len(parts) - 1)):
        for folder in above:
            yield folder.joinpath(*parts[start:])
    yield named


def is_elsewhere(record: InputRecord) -> bool:
    """Whether it was read from a URL or from standard input."""
    return record.path == "-" or "://" in record.path


def digest_at(path: Path, kind: str) -> str | None:
    """Digest of the file, or of the artifact by its manifest, that lies at `path`; None: there is
    none."""
    if kind != "file":
        try:
            return read_manifest(path).digest
        except ArtifactError:
            return None
    try:
        return file_digest(path)
    except OSError:
        return None


def locate(record: InputRecord, *, near: Path) -> tuple[Path | None, Found]:
    """Where an input lies, by its digest; where none has it, what lies in its place."""
    if is_elsewhere(record):
        return None, "elsewhere"
    instead: Path | None = None
    for path in places(record.path, near=near):
        digest = digest_at(path, record.kind)
        if digest == record.digest:
            return path, "found"
        if digest is not None and instead is None:
            instead = path
    return instead, "missing" if instead is None else "changed"


def locate_as_named(record: InputRecord, *, near: Path) -> tuple[Path | None, Found]:
    """`locate`, but by the name that it was given where the input still lies there: that is how
    people know it."""
    named = Path(record.path)
    if not is_elsewhere(record) and digest_at(named, record.kind) == record.digest:
        return named, "found"
    path, found = locate(record, near=near)
    return (named if found == "changed" and named.exists() else path), found


def standing(record: InputRecord, *, near: Path) -> Path | None:
    """What lies today where an input lay, whatever it holds.

    Where several places hold something, the one that holds the input as it was: a copy of a run may
    lie near a folder that is called as the run was.
    """
    there = [path for path in dict.fromkeys(places(record.path, near=near)) if path.exists()]
    if len(there) > 1:
        same = (path for path in there if digest_at(path, record.kind) == record.digest)
        return next(same, there[0])
    return next(iter(there), None)


def _ancestor(
    name: str, record: InputRecord, *, near: Path, shown: set[str], generation: int
) -> Ancestor:
    path, found = locate(record, near=near)
    known = Ancestor(name, record.kind, record.digest, record.path, path, found)
    if path is None or found != "found":
        return known
    # A rollout's log is read as a file, and is an artifact with a lineage of its own.
    folder = path.parent if record.kind == "file" else path
    if not (folder / MANIFEST).is_file() or (record.kind == "file" and not _holds(folder, path)):
        return known
    manifest = read_manifest(folder)
    known = replace(known, stage=manifest.stage, created_at=manifest.created_at)
    if not manifest.inputs:
        return known
    if record.digest in shown:
        return replace(known, inputs_left_out="shown before")
    if generation == _DEEPEST:
        return replace(known, inputs_left_out="too many generations")
    shown.add(record.digest)
    inputs = _ancestors(folder, manifest, shown=shown, generation=generation + 1)
    return replace(known, inputs=inputs)


def _holds(folder: Path, file: Path) -> bool:
    try:
        return file.name in read_manifest(folder).files
    except ArtifactError:
        return False
