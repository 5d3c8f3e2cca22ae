"""Artifacts: folders that are whole or not there at all.

    <name>/part-00000.parquet …  rows, under a contract (absent for kinds without rows)
    <name>/…                     files beside them (a checkpoint, metrics.json)
    <name>/manifest.json         written last, before one rename of the whole folder

The manifest holds the lineage: what made the artifact, from which inputs (by content), with which
configuration.
"""

from __future__ import annotations

import contextlib
import functools
import glob
import hashlib
import importlib
import importlib.metadata
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

import iterppo
from iterppo.contracts import ROWS, current_version, known_versions
from iterppo.contracts.base import arrow_schema
from iterppo.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "manifest.json"
_LIBRARIES = ("pyarrow", "pydantic", "torch", "transformers", "trl")
_ROWS_PER_PART = 1_000_000
_ROWS_PER_GROUP = 8_192


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


# --- digests -------------------------------------------------------------------------------------


def file_digest(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
        f"{name} {number}": InputRecord(path=str(file), kind="file", digest=file_digest(file))
        for number, file in enumerate(files)
    }


def fingerprint(stage: str, config: Mapping[str, Any], inputs: Mapping[str, InputRecord]) -> str:
    """Digest of everything that decides what a stage writes."""
    by_content = {name: [record.kind, record.digest] for name, record in inputs.items()}
    return digest_of([stage, dict(config), by_content, code_digest()])


# --- reading -------------------------------------------------------------------------------------


class Artifact:
    """An artifact that was opened: its manifest is valid and, unless told otherwise, so is every
    file."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest

    def record(self) -> InputRecord:
        """This artifact as the input of a stage."""
        return InputRecord(
            path=str(self.path), kind=self.manifest.kind, digest=self.manifest.digest
        )

    def parts(self) -> list[Path]:
        """The Parquet parts, in order."""
        names = sorted(
            n for n in self.manifest.files if n.startswith("part-") and n.endswith(".parquet")
        )
        return [self.path / name for name in names]

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
        """Stream the rows as Arrow record batches."""
        import pyarrow.parquet as pq

        for part in self.parts():
            with pq.ParquetFile(part) as file:
                yield from file.iter_batches(batch_size=_ROWS_PER_GROUP, columns=columns)

    def rows(self, columns: list[str] | None = None) -> Iterator[dict[str, Any]]:
        """Stream the rows as dictionaries."""
        for batch in self.batches(columns):
            yield from batch.to_pylist()

    def conversations(self, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
        """Stream whole conversations: lists of neighbouring rows with one `conversation_id`."""
        current: list[dict[str, Any]] = []
        for row in self.rows(columns):
            if current and row["conversation_id"] != current[0]["conversation_id"]:
                yield current
                current = []
            current.append(row)
        if current:
            yield current


def read_manifest(path: Path, kind: str | None = None) -> Manifest:
    """The manifest of the artifact at `path`.

    Raises:
        ArtifactError: If there is none, it is not iterppo's, or it is of another kind or an unknown
        version.
    """
    wanted = f"an artifact of kind {kind}" if kind else "an artifact"
    if not path.exists():
        raise ArtifactError(
            f"{path}: not found, expected {wanted}. Run the stage that makes it first."
        )
    if not (path / MANIFEST).is_file():
        raise ArtifactError(
            f"{path}: no {MANIFEST}, so not {wanted}. Check the path, or run the stage that makes "
            "it."
        )
    try:
        content = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path / MANIFEST}: damaged ({error}). Make the artifact again with --force."
        ) from None
    if not isinstance(content, dict) or content.get("format") != "iterppo":
        raise ArtifactError(f"{path / MANIFEST}: not written by iterppo. Check the path.")
    found, version = content.get("kind"), content.get("version")
    if kind is not None and found != kind:
        raise ArtifactError(f"{path}: is {found}@{version}, expected {kind}. Check the path.")
    known = known_versions(str(found))
    if version not in known:
        raise ArtifactError(
            f"{path}: is {found}@{version}, this iterppo {iterppo.__version__} reads "
            f"{', '.join(f'{found}@{v}' for v in known) or 'no such kind'}. Update iterppo, or "
            "make the artifact again."
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ArtifactError(
            f"{path / MANIFEST}: damaged, {where}: {first['msg']}. Make the artifact again with "
            "--force."
        ) from None


def open_artifact(path: Path, kind: str | None = None, *, verify: bool = True) -> Artifact:
    """Open an artifact for reading, after a check of every file's digest.

    Raises:
        ArtifactError: As `read_manifest`, or if a file is missing or its content changed.
    """
    manifest = read_manifest(path, kind)
    if verify:
        for name, record in manifest.files.items():
            file = path / name
            if not file.is_file():
                raise ArtifactError(
                    f"{file}: missing, listed in {MANIFEST}. Make the artifact again with --force."
                )
            if file.stat().st_size != record.size_bytes or file_digest(file) != record.sha256:
                raise ArtifactError(
                    f"{file}: damaged, its content does not match {MANIFEST}. Make the artifact "
                    "again with --force."
                )
    return Artifact(path, manifest)


def is_up_to_date(path: Path, expected_fingerprint: str) -> bool:
    """Whether a whole and undamaged artifact with this fingerprint lies at `path`."""
    try:
        return open_artifact(path).manifest.fingerprint == expected_fingerprint
    except ArtifactError:
        return False


# --- writing -------------------------------------------------------------------------------------


class ArtifactWriter:
    """Writes one artifact into a hidden folder beside `out`, and renames it when it is whole.

    Use as a context manager; leaving it by an exception removes what was written and leaves `out`
    as it was.
    """

    def __init__(
        self,
        out: Path,
        *,
        kind: str,
        stage: str,
        config: BaseModel,
        inputs: Mapping[str, InputRecord],
    ) -> None:
        self.out = out
        self.kind = kind
        self.stage = stage
        self.inputs = dict(inputs)
        self.config = config.model_dump(mode="json", by_alias=True)
        self.counts: dict[str, int] = {}
        self.metrics: dict[str, float | bool | str] = {}
        self.rows = 0
        self._row = ROWS.get(kind)
        self._schema = arrow_schema(self._row) if self._row else None
        self._writer: Any = None
        self._rows_in_part = 0
        self._num_parts = 0
        self._pending: list[dict[str, Any]] = []
        self.folder = out.parent / f".{out.name}.tmp-{os.getpid()}"

    def __enter__(self) -> Self:
        _refuse_foreign(self.out, self.kind)
        try:
            self.out.parent.mkdir(parents=True, exist_ok=True)
            _sweep(self.out)
            self.folder.mkdir()
        except OSError as error:
            raise UsageError(
                f"{self.out}: cannot be written there ({error}). Choose another --out."
            ) from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._abandon()
            return
        try:
            self._finish()
        except BaseException:
            self._abandon()
            raise

    def _abandon(self) -> None:
        if self._writer is not None:
            with contextlib.suppress(OSError):  # a full disk must not hide the error that matters
                self._writer.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count of the manifest."""
        self.counts[name] = self.counts.get(name, 0) + number

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows (dictionaries by column name); they are checked against the contract."""
        for row in rows:
            self._pending.append(row)
            if len(self._pending) >= _ROWS_PER_GROUP:
                self._flush()

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file beside the rows."""
        text = json.dumps(
            _strict(value), indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False
        )
        (self.folder / name).write_text(text + "\n", encoding="utf-8")

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        assert self._schema is not None, f"{self.kind} has no rows"
        unknown = {name for row in self._pending for name in row} - set(self._schema.names)
        if unknown:
            raise ValueError(f"{self.kind}: no column {', '.join(sorted(unknown))}")
        table = pa.Table.from_pylist(self._pending, schema=self._schema)
        table.validate(full=True)
        for name in self._schema.names:
            if not self._schema.field(name).nullable and table[name].null_count:
                raise ValueError(f"{self.kind}: column {name} must not be null")
        if self._writer is None:
            path = self.folder / f"part-{self._num_parts:05d}.parquet"
            self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")
        self._writer.write_table(table)
        self._rows_in_part += len(self._pending)
        self.rows += len(self._pending)
        self._pending = []
        if self._rows_in_part >= _ROWS_PER_PART:
            self._close_part()

    def _close_part(self) -> None:
        self._writer.close()
        self._writer, self._rows_in_part = None, 0
        self._num_parts += 1

    def _finish(self) -> None:
        if self._row is not None and (
            self._pending or (self._writer is None and self._num_parts == 0)
        ):
            self._flush()  # without rows there is still one part, so that the columns can be read
        if self._writer is not None:
            self._close_part()
        files = {
            path.relative_to(self.folder).as_posix(): FileRecord(
                sha256=file_digest(path), size_bytes=path.stat().st_size
            )
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }
        manifest = Manifest(
            kind=self.kind,
            version=current_version(self.kind),
            stage=self.stage,
            fingerprint=fingerprint(self.stage, self.config, self.inputs),
            config=self.config,
            seed=self.config.get("seed", 0),
            rows=self.rows,
            counts=self.counts,
            metrics=_strict(self.metrics),
            inputs=self.inputs,
            files=files,
            digest=digest_of({name: record.sha256 for name, record in files.items()}),
            iterppo_version=iterppo.__version__,
            libraries=_library_versions(),
            created_at=datetime.now(UTC),
        )
        for name in files:
            _sync(self.folder / name)
        (self.folder / MANIFEST).write_text(
            manifest.model_dump_json(indent=2) + "\n", encoding="utf-8"
        )
        _sync(self.folder / MANIFEST)
        _replace(self.folder, self.out)
        self.manifest = manifest


def _strict(value: Any) -> Any:
    """A JSON value in which null stands for what is no number: JSON knows neither NaN nor
    infinity."""
    if isinstance(value, Mapping):
        return {key: _strict(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _library_versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _replace(new: Path, out: Path) -> None:
    """Put `new` in the place of `out`. A kill between the renames leaves no artifact rather than
    half of one."""
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    if out.exists():
        out.rename(old)
    new.rename(out)
    _sync(out.parent)
    shutil.rmtree(old, ignore_errors=True)


def _sweep(out: Path) -> None:
    """Remove what killed runs left beside `out`; folders of processes that still live are not
    touched."""
    for mark in (".tmp-", ".old-"):
        for leftover in out.parent.glob(f".{glob.escape(out.name)}{mark}*"):
            pid = leftover.name.rpartition("-")[2]
            if pid.isdigit() and (int(pid) == os.getpid() or not _alive(int(pid))):
                shutil.rmtree(leftover, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _refuse_foreign(out: Path, kind: str) -> None:
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
            "another --out."
        )
