"""Writing artifacts: beside their place, checked against the contract, renamed when whole."""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import json
import math
import shutil
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel

import iterppo
from iterppo.artifact.manifest import (
    MANIFEST,
    FileRecord,
    InputRecord,
    Manifest,
    digest_of,
    file_digests,
    fingerprint,
)
from iterppo.artifact.parts import ROWS_PER_GROUP, PartWriter, table_of
from iterppo.artifact.places import refuse_to_replace
from iterppo.artifact.placing import LOCK, Begun, begin, put_in_place, sweep, sync
from iterppo.artifact.reading import read_manifest
from iterppo.contracts import ROWS, current_version
from iterppo.contracts.base import arrow_schema
from iterppo.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

_LIBRARIES = ("pyarrow", "pydantic", "torch", "transformers", "trl")
_SCRATCH = ".scratch"
_ROWS_PER_PART = 1_000_000


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
        """May be set as long as the artifact is not whole."""
        self.config = config.model_dump(mode="json", by_alias=True)
        self.counts: dict[str, int] = {}
        self.metrics: dict[str, float | bool | str] = {}
        self.rows = 0
        self._schema = arrow_schema(ROWS[kind]) if kind in ROWS else None
        self._part: PartWriter | None = None
        self._num_parts = 0
        self._pending: list[dict[str, Any]] = []
        self._beside: list[ArtifactWriter] = []
        self._begun: Begun | None = None
        self._begun_s = time.monotonic()

    def __enter__(self) -> Self:
        refuse_to_replace(self.out, self.kind)
        try:
            sweep(self.out)
            self._begun = begin(self.out)
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
        if error is not None:
            self._abandon()
            self._refuse_full_disk(error)
            return
        try:
            self._finish()
        except BaseException as failure:
            self._abandon()
            self._refuse_full_disk(failure)
            raise
        self._let_go()

    def _refuse_full_disk(self, error: BaseException) -> None:
        # By its words too: libraries that write by themselves have errors of their own.
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left on device" in str(error):
            raise UsageError(
                f"{self.out}: no space left on the disk. Free some and run the same command again; "
                "nothing half-made was left there."
            ) from None

    def _abandon(self) -> None:
        if self._part is not None:
            with contextlib.suppress(OSError):  # a full disk must not hide the error that matters
                self._part.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._begun is not None:
            self._begun.end()

    @property
    def folder(self) -> Path:
        """What becomes the artifact."""
        assert self._begun is not None, "it is a context manager"
        return self._begun.folder

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count of the manifest."""
        self.counts[name] = self.counts.get(name, 0) + number

    def write(self, rows: Iterable[dict[str, Any]]) -> None:
        """Append rows (dictionaries by column name); they are checked against the contract."""
        for row in rows:
            self._pending.append(row)
            if len(self._pending) >= ROWS_PER_GROUP:
                self._flush()

    def write_table(self, table: pa.Table) -> None:
        """Append a table, which is checked against the contract and becomes one row group."""
        self._flush()
        self._write(table)

    def belongs_with(self, other: ArtifactWriter) -> None:
        """Be put in place only where the other artifact, which is whole, still is in its own: two
        runs at a time must not end with one artifact of each."""
        self._beside.append(other)

    def _refuse_replaced(self) -> None:
        for other in self._beside:
            try:
                stands = read_manifest(other.out) == other.manifest
            except ArtifactError:
                stands = False
            if not stands:
                raise UsageError(
                    f"{other.out}: another run replaced it meanwhile, and {self.out} was not put "
                    "beside it. Let one run at a time write them, and run the same command again."
                )

    @property
    def scratch(self) -> Path:
        """A folder for what is not part of the artifact; it goes when the artifact is whole, or
        abandoned."""
        folder = self.folder / _SCRATCH
        folder.mkdir(exist_ok=True)
        return folder

    def next_part(self) -> Path:
        """The file of a part that somebody else writes (`PartWriter`); say so with `adopt`."""
        self._flush()
        self._close_part()
        path = self.folder / f"part-{self._num_parts:05d}.parquet"
        self._num_parts += 1
        return path

    def adopt(self, num_rows: int) -> None:
        """Count the rows of a part that somebody else wrote."""
        self.rows += num_rows

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file beside the rows."""
        text = json.dumps(
            _strict(value), indent=2, ensure_ascii=False, sort_keys=True, allow_nan=False
        )
        (self.folder / name).write_text(text + "\n", encoding="utf-8")

    def _flush(self) -> None:
        if not self._pending:
            return
        assert self._schema is not None, f"{self.kind} has no rows"
        self._write(table_of(self.kind, self._pending))
        self._pending = []

    def _write(self, table: pa.Table) -> None:
        if self._part is None:
            path = self.folder / f"part-{self._num_parts:05d}.parquet"
            self._part = PartWriter(path, self.kind)
        self._part.write(table)
        self.rows += table.num_rows
        if self._part.rows >= _ROWS_PER_PART:
            self._close_part()

    def _close_part(self) -> None:
        if self._part is not None:
            self._part.close()
            self._part = None
            self._num_parts += 1

    def _finish(self) -> None:
        self._flush()
        if self._schema is not None and self._part is None and self._num_parts == 0:
            # Without rows there is still one part, so that the columns can be read.
            self._write(self._schema.empty_table())
        self._close_part()
        shutil.rmtree(self.folder / _SCRATCH, ignore_errors=True)
        found = sorted(self.folder.rglob("*"))
        paths = [path for path in found if path.is_file() and path != self.folder / LOCK]
        files = {
            path.relative_to(self.folder).as_posix(): FileRecord(
                sha256=digest, size_bytes=path.stat().st_size
            )
            for path, digest in zip(paths, file_digests(paths), strict=True)
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
            seconds=round(time.monotonic() - self._begun_s, 3),
        )
        for name in files:
            sync(self.folder / name)
        (self.folder / MANIFEST).write_text(
            manifest.model_dump_json(indent=2) + "\n", encoding="utf-8"
        )
        sync(self.folder / MANIFEST)
        self._refuse_replaced()
        put_in_place(
            self.folder,
            self.out,
            check=lambda old: refuse_to_replace(self.out, self.kind, lies_at=old),
        )
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
