"""Opening artifacts: whole, undamaged, of the right kind and version, or a clear refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import iterppo
from iterppo.artifact.manifest import MANIFEST, InputRecord, Manifest, file_digests
from iterppo.contracts import ROWS, known_versions
from iterppo.contracts.base import arrow_schema
from iterppo.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_PER_BATCH = 8_192
_ROWS_PER_WHOLE_BATCH = 65_536


class Stretch:
    """Neighbouring parts of an artifact, to be streamed."""

    def __init__(self, kind: str, parts: Sequence[Path]) -> None:
        self.kind = kind
        self._parts = list(parts)

    def parts(self) -> list[Path]:
        """The Parquet parts, in order."""
        return self._parts

    def batches(
        self, columns: list[str] | None = None, *, rows: int = _ROWS_PER_BATCH
    ) -> Iterator[pa.RecordBatch]:
        """Stream the rows as Arrow record batches of at most so many rows; columns that a later
        version added are null."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.kind not in ROWS:
            return
        schema = arrow_schema(ROWS[self.kind])
        wanted = schema if columns is None else pa.schema([schema.field(n) for n in columns])
        for part in self.parts():
            with pq.ParquetFile(part) as file:
                there = set(file.schema_arrow.names)
                known = [name for name in wanted.names if name in there]
                for batch in file.iter_batches(batch_size=rows, columns=known):
                    yield batch if len(known) == len(wanted) else _with_nulls(batch, wanted)

    def whole_batches(
        self, columns: list[str], *, rows: int = _ROWS_PER_WHOLE_BATCH
    ) -> Iterator[pa.Table]:
        """Stream whole conversations as tables of at least so many rows (the last may have fewer).

        A conversation of any length is in one table. For kinds whose conversations begin with turn
        1 (trajectories, returns), and columns among which `turn` is.
        """
        import numpy as np
        import pyarrow as pa

        waiting: list[pa.RecordBatch] = []
        num_waiting = 0
        for batch in self.batches(columns, rows=rows):
            (starts,) = np.nonzero(batch.column("turn").to_numpy() == 1)
            if len(starts) and num_waiting + starts[-1] >= rows:
                last = int(starts[-1])
                yield pa.Table.from_batches([*waiting, batch.slice(0, last)])
                batch, waiting, num_waiting = batch.slice(last), [], 0
            waiting.append(batch)
            num_waiting += batch.num_rows
        if num_waiting:
            yield pa.Table.from_batches(waiting)

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


class Artifact(Stretch):
    """An artifact that was opened: its manifest is valid and, unless told otherwise, so is every
    file."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        names = (n for n in manifest.files if n.startswith("part-") and n.endswith(".parquet"))
        super().__init__(manifest.kind, [path / name for name in sorted(names)])
        self.path = path
        self.manifest = manifest

    def record(self) -> InputRecord:
        """This artifact as the input of a stage."""
        return InputRecord(
            path=str(self.path), kind=self.manifest.kind, digest=self.manifest.digest
        )

    def stretches(self) -> list[Stretch]:
        """The parts, in order, such that no conversation is in two stretches: a part that begins
        within a conversation is read together with the one before.

        For kinds whose conversations begin with turn 1, as for `whole_batches`.
        """
        found: list[list[Path]] = []
        for part in self.parts():
            if not found or _first_turn(part) == 1:
                found.append([])
            found[-1].append(part)
        return [Stretch(self.kind, parts) for parts in found]


def _first_turn(part: Path) -> int | None:
    import pyarrow.parquet as pq

    with pq.ParquetFile(part) as file:
        for batch in file.iter_batches(batch_size=1, columns=["turn"]):
            return int(batch.column(0)[0].as_py())
    return None


def _with_nulls(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    import pyarrow as pa

    there = dict(zip(batch.schema.names, batch.columns, strict=True))
    return pa.RecordBatch.from_arrays(
        [
            there[field.name] if field.name in there else pa.nulls(batch.num_rows, type=field.type)
            for field in schema
        ],
        schema=schema,
    )


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
        text = (path / MANIFEST).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _damaged(path / MANIFEST, f" ({error})") from None
    return parse_manifest(text, str(path), kind)


def parse_manifest(text: str, place: str, kind: str | None = None) -> Manifest:
    """The manifest that was read at `place`, a path or a URL.

    Raises:
        ArtifactError: As `read_manifest`.
    """
    where = f"{place}/{MANIFEST}"
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _damaged(where, f" ({error})") from None
    if not isinstance(content, dict) or content.get("format") != "iterppo":
        raise ArtifactError(f"{where}: not written by iterppo. Check the path.")
    found, version = content.get("kind"), content.get("version")
    if kind is not None and found != kind:
        raise ArtifactError(f"{place}: is {found}@{version}, expected {kind}. Check the path.")
    known = known_versions(str(found))
    if version not in known:
        raise ArtifactError(
            f"{place}: is {found}@{version}, this iterppo {iterppo.__version__} reads "
            f"{', '.join(f'{found}@{v}' for v in known) or 'no such kind'}. Update iterppo, or "
            "make the artifact again."
        )
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(p) for p in first["loc"])
        raise _damaged(where, f", {field}: {first['msg']}") from None


def _damaged(where: Path | str, why: str) -> ArtifactError:
    return ArtifactError(f"{where}: damaged{why}. Remove the folder and make the artifact again.")


def open_artifact(path: Path, kind: str | None = None, *, verify: bool = True) -> Artifact:
    """Open an artifact for reading, after a check of every file's digest.

    Raises:
        ArtifactError: As `read_manifest`, or if a file is missing or its content changed.
    """
    manifest = read_manifest(path, kind)
    if verify:
        files = {path / name: record for name, record in manifest.files.items()}
        for file in files:
            if not file.is_file():
                raise ArtifactError(
                    f"{file}: missing, listed in {MANIFEST}. Make the artifact again with --force."
                )
        for (file, record), digest in zip(files.items(), file_digests([*files]), strict=True):
            if file.stat().st_size != record.size_bytes or digest != record.sha256:
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
