"""The manifest of an artifact, and the digests that it is made of."""

from __future__ import annotations

import functools
import hashlib
import importlib
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

import iterppo

MANIFEST = "manifest.json"

_DIGESTS_AT_ONCE = 8
_BLOCK_BYTES = 2**20


class FileRecord(BaseModel):
    """A file of an artifact."""

    model_config = ConfigDict(frozen=True)
    sha256: str
    size_bytes: int


class InputRecord(BaseModel):
    """An input of a stage, by content. `path` is how it was named and takes no part in any
    comparison."""

    model_config = ConfigDict(frozen=True)
    path: str
    kind: str
    digest: str


class Manifest(BaseModel):
    """What an artifact is and how it came to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: str = "iterppo"
    kind: str
    version: int
    stage: str
    fingerprint: str
    """Digest of stage, configuration, inputs and code: equal fingerprints make equal artifacts."""
    config: dict[str, Any]
    seed: int
    rows: int
    counts: dict[str, int]
    """What went in and what came out, so that nothing disappears unseen."""
    metrics: dict[str, float | bool | str | None]
    """The few results that a reader looks for first; null where there is no number (an AUC of one
    class)."""
    inputs: dict[str, InputRecord]
    files: dict[str, FileRecord]
    digest: str
    """Digest of all files but the manifest."""
    iterppo_version: str
    libraries: dict[str, str]
    created_at: datetime
    seconds: float | None = None
    """Wall time from when the artifact was begun; of a stage that was killed and went on, since
    then. Null in artifacts of before it was noted."""


def file_digest(path: Path, stop: threading.Event | None = None) -> str:
    """SHA-256 of a file, in hexadecimal; or anything, soon, once `stop` is set."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as stream:
        while not (stop and stop.is_set()) and (block := stream.read(_BLOCK_BYTES)):
            digest.update(block)
    return digest.hexdigest()


def file_digests(paths: Sequence[Path]) -> list[str]:
    """Of several files, some at a time: hashing leaves the interpreter to other threads."""
    if len(paths) <= 1:
        return [file_digest(path) for path in paths]
    stop = threading.Event()
    with ThreadPoolExecutor(_DIGESTS_AT_ONCE) as pool:
        try:
            return list(pool.map(functools.partial(file_digest, stop=stop), paths))
        finally:
            stop.set()  # whoever interrupts it waits for none


def digest_of(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of its keys."""
    return hashlib.sha256(
        json.dumps(value, sort_keys=True, ensure_ascii=False).encode()
    ).hexdigest()


@functools.cache
def code_digest() -> str:
    """Digest of the package's own source: changed code makes an artifact out of date."""
    roots = (
        Path(iterppo.__file__).parent,
        Path(importlib.import_module("iterppo.stages").__file__ or "").parent,
    )
    sources = {
        f"{root.name}/{path.relative_to(root)}": file_digest(path)
        for root in roots
        for path in sorted(root.rglob("*"))
        if path.suffix in {".py", ".toml"}
    }
    return digest_of(sources)


def file_records(name: str, files: Sequence[Path]) -> dict[str, InputRecord]:
    """Plain files as inputs of a stage."""
    return {
        f"{name} {number}": InputRecord(path=str(file), kind="file", digest=digest)
        for number, (file, digest) in enumerate(zip(files, file_digests(files), strict=True))
    }


def fingerprint(stage: str, config: Mapping[str, Any], inputs: Mapping[str, InputRecord]) -> str:
    """Digest of everything that decides what a stage writes."""
    by_content = {name: [record.kind, record.digest] for name, record in inputs.items()}
    return digest_of([stage, dict(config), by_content, code_digest()])
