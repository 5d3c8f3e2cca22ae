"""Opening artifacts: whole, undamaged, of the right kind and version, or a clear refusal."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

import iterppo
from iterppo.artifact.manifest import MANIFEST, InputRecord, Manifest, file_digest
from iterppo.contracts import known_versions
from iterppo.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

_ROWS_PER_BATCH = 8_192


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
                yield from file.iter_batches(batch_size=_ROWS_PER_BATCH, columns=columns)

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
