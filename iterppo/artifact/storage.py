"""Artifacts on shared storage (s3://, gs://, file://): copied there and back, whole or not there.

An object store cannot rename a folder. So the manifest goes last, and where an artifact takes the
place of another one the old manifest leaves first: what has a manifest is whole. Whoever reads
while somebody else replaces notices by the digests.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from iterppo.artifact.file_systems import file_system, first_line, shown
from iterppo.artifact.manifest import MANIFEST, Manifest
from iterppo.artifact.places import refuse_place, refuse_to_replace
from iterppo.artifact.placing import begin, put_in_place, sweep, sync
from iterppo.artifact.reading import open_artifact, parse_manifest
from iterppo.errors import ArtifactError, UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

_AT_ONCE = 8
"""Files under way: a store answers slowly, and many at a time."""
_BLOCK_BYTES = 2**22

Watch = Callable[[Iterator[None], int], Iterator[None]]
"""Shows how many files of so many went by."""


@dataclass(frozen=True)
class Copied:
    """What a copy did."""

    artifacts: int
    """That are there now."""
    were_there: int
    """Of those, with the same content before."""
    files: int
    """That went over, manifests not counted."""
    size_bytes: int
    """Of those files."""


def push(source: Path, url: str, *, watch: Watch | None = None) -> Copied:
    """Copy an artifact, or all artifacts below a folder, to shared storage.

    Args:
        source: An artifact, a round or a run; it is checked, all of it, before anything goes over.
        url: What it becomes there. Artifacts of the same content stay as they are; others of the
            same name and kind are replaced.
        watch: Shows progress.

    Raises:
        ArtifactError: If there is no artifact, or one is damaged.
        UsageError: If the storage cannot be written, or holds an artifact of another kind there, or
            one that the new one would hide.
    """
    artifacts = {relative: open_artifact(source / relative) for relative in _below(source)}
    store = _Store.at(url)
    with store.telling("cannot be read"):
        _refuse_nesting(artifacts, store.artifacts(), store.name(PurePosixPath()))
    jobs = []
    were_there = 0
    for relative, artifact in artifacts.items():
        there = store.manifest_if_there(relative)
        if there is not None and there.kind != artifact.manifest.kind:
            raise UsageError(
                f"{store.name(relative)}: holds an artifact of kind {there.kind}, which "
                f"{artifact.manifest.kind} does not replace. Choose another URL."
            )
        if there is not None and _same(there, artifact.manifest):
            were_there += 1
        else:
            jobs.append((relative, artifact.manifest))

    def copied() -> Iterator[None]:
        for relative, manifest in jobs:
            store.remove_manifest(relative)
            names = list(manifest.files)
            yield from _in_threads(
                [(store.write, relative / name, source / relative / name) for name in names]
            )
            store.write(relative / MANIFEST, source / relative / MANIFEST)

    with store.telling("cannot be written"):
        return _copy(copied(), [m for _, m in jobs], were_there, watch)


def pull(url: str, target: Path, *, watch: Watch | None = None) -> Copied:
    """Copy an artifact, or all artifacts below a folder, from shared storage.

    Args:
        url: An artifact, a round or a run.
        target: What it becomes here; each artifact is written beside its place, checked against
            its manifest, and renamed when it is whole.
        watch: Shows progress.

    Raises:
        ArtifactError: If there is no artifact, or a file is not what its manifest says.
        UsageError: If something else lies in the way here.
    """
    store = _Store.at(url)
    with store.telling("cannot be read"):
        found = {relative: store.manifest(relative) for relative in store.artifacts()}
    if not found:
        raise ArtifactError(f"{shown(url)}: holds no artifact. Check the URL.")
    if target.is_dir() and any(target.iterdir()):
        _refuse_nesting(found, _below(target, or_none=True), str(target))
    jobs = []
    for relative, (manifest, text) in found.items():
        out = target / relative
        if not _is_here(out, manifest):
            refuse_place(out, manifest.kind)
            refuse_to_replace(out, manifest.kind)
            jobs.append((relative, manifest, text))

    def copied() -> Iterator[None]:
        for relative, manifest, text in jobs:
            out = target / relative
            sweep(out)
            begun = begin(out)
            folder = begun.folder
            try:
                for name in manifest.files:
                    (folder / name).parent.mkdir(parents=True, exist_ok=True)
                yield from _in_threads(
                    [
                        (store.read, relative / name, folder / name, record.sha256)
                        for name, record in manifest.files.items()
                    ]
                )
                (folder / MANIFEST).write_bytes(text)
                sync(folder / MANIFEST)
                put_in_place(folder, out, check=functools.partial(_refuse, out, manifest.kind))
            finally:
                begun.end()

    with store.telling("cannot be copied"):
        return _copy(copied(), [m for _, m, _ in jobs], len(found) - len(jobs), watch)


def _copy(
    copied: Iterator[None], manifests: Sequence[Manifest], were_there: int, watch: Watch | None
) -> Copied:
    files = [record for manifest in manifests for record in manifest.files.values()]
    for _ in copied if watch is None else watch(copied, len(files)):
        pass
    return Copied(
        artifacts=len(manifests) + were_there,
        were_there=were_there,
        files=len(files),
        size_bytes=sum(record.size_bytes for record in files),
    )


def _refuse_nesting(
    copied: Iterable[PurePosixPath], there: Iterable[PurePosixPath], place: str
) -> None:
    """An artifact in another one, or around it, would hide one of them."""
    known = list(there)
    for new in copied:
        for old in known:
            if old in new.parents or new in old.parents:
                raise UsageError(
                    f"{place}: holds {_named(old)}, and {_named(new)} would lie "
                    f"{'in' if old in new.parents else 'around'} it. Name the same level on both "
                    "sides: an artifact, a round or a run."
                )


def _named(relative: PurePosixPath) -> str:
    return "an artifact itself" if relative == PurePosixPath() else f"the artifact {relative}"


def _below(source: Path, *, or_none: bool = False) -> list[PurePosixPath]:
    """Where artifacts lie, from `source` on, in order; what is hidden is no artifact yet."""
    found = []
    for folder, inner, files in os.walk(source, followlinks=True):
        if MANIFEST in files:
            found.append(PurePosixPath(Path(folder).relative_to(source).as_posix()))
            inner.clear()
        inner[:] = [name for name in inner if not name.startswith(".")]
    if not found and not or_none:
        raise ArtifactError(f"{source}: holds no artifact. Check the path.")
    return sorted(found)


def _same(one: Manifest, other: Manifest) -> bool:
    """Whether the same stage made the same files of the same things."""
    return one.digest == other.digest and one.fingerprint == other.fingerprint


def _is_here(out: Path, manifest: Manifest) -> bool:
    try:
        return _same(open_artifact(out).manifest, manifest)
    except ArtifactError:
        return False


def _in_threads(jobs: Sequence[tuple[Any, ...]]) -> Iterator[None]:
    """Call each function with its arguments, several at a time; None for each that has ended."""
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        for ended in [pool.submit(*job) for job in jobs]:
            ended.result()
            yield
    finally:
        pool.shutdown(cancel_futures=True)


def _refuse(out: Path, kind: str, old: Path) -> None:
    refuse_to_replace(out, kind, lies_at=old)


def _changed(name: str) -> ArtifactError:
    return ArtifactError(
        f"{name}: is not what its manifest says; it was damaged, or replaced while it was read. "
        "Run the same command again, or push it again from where it was made."
    )


@dataclass(frozen=True)
class _Store:
    """A folder on shared storage."""

    url: str
    system: FileSystem
    base: str

    @classmethod
    def at(cls, url: str) -> _Store:
        system, path = file_system(url)
        return cls(url, system, path.rstrip("/"))

    def path(self, relative: PurePosixPath) -> str:
        return self.base if relative == PurePosixPath() else f"{self.base}/{relative}"

    def name(self, relative: PurePosixPath) -> str:
        """For messages."""
        place = shown(self.url).rstrip("/")
        return place if relative == PurePosixPath() else f"{place}/{relative}"

    @contextlib.contextmanager
    def telling(self, what: str) -> Iterator[None]:
        """Errors of the file system as one line."""
        try:
            yield
        except (ArtifactError, UsageError):
            raise
        except OSError as error:
            place = self.name(PurePosixPath())
            raise UsageError(
                f"{place}: {what} ({first_line(error)}). Check URL and path, who may use them and "
                "what room they have, and run the same command again; nothing half-made is taken "
                "for whole."
            ) from None

    def artifacts(self) -> list[PurePosixPath]:
        """Where manifests lie, from the URL on."""
        from pyarrow.fs import FileSelector, FileType

        if self.system.get_file_info(f"{self.base}/{MANIFEST}").type == FileType.File:
            return [PurePosixPath()]
        listed = self.system.get_file_info(
            FileSelector(self.base, allow_not_found=True, recursive=True)
        )
        folders = (
            PurePosixPath(info.path).relative_to(self.base).parent
            for info in listed
            if info.type == FileType.File and info.base_name == MANIFEST
        )
        found: list[PurePosixPath] = []
        for folder in sorted(folders):  # an artifact holds no other one
            if not any(outer in folder.parents for outer in found):
                found.append(folder)
        return found

    def manifest(self, relative: PurePosixPath) -> tuple[Manifest, bytes]:
        """The manifest there, which names no file outside of its folder; and as it is written."""
        with self.system.open_input_file(self.path(relative / MANIFEST)) as stream:
            text = bytes(stream.read())
        manifest = parse_manifest(text.decode("utf-8", "replace"), self.name(relative))
        for name in manifest.files:
            path = PurePosixPath(name)
            if path.is_absolute() or ".." in path.parts or path == PurePosixPath():
                raise ArtifactError(
                    f"{self.name(relative)}: its manifest names {name!r}, which is no file of its "
                    "folder, so it is not read."
                )
        return manifest, text

    def manifest_if_there(self, relative: PurePosixPath) -> Manifest | None:
        from pyarrow.fs import FileType

        with self.telling("cannot be read"):
            info = self.system.get_file_info(self.path(relative / MANIFEST))
            return self.manifest(relative)[0] if info.type == FileType.File else None

    def remove_manifest(self, relative: PurePosixPath) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.system.delete_file(self.path(relative / MANIFEST))

    def write(self, relative: PurePosixPath, source: Path) -> None:
        """One file, from here."""
        from pyarrow.fs import LocalFileSystem

        path = self.path(relative)
        local = isinstance(self.system, LocalFileSystem)
        if local:  # a store has no folders
            self.system.create_dir(str(PurePosixPath(path).parent), recursive=True)
        # What a store is still being sent is not there yet; a file is.
        sent = f"{path}.tmp" if local else path
        with source.open("rb") as stream, self.system.open_output_stream(sent) as out:
            shutil.copyfileobj(stream, out, _BLOCK_BYTES)
        if local:
            self.system.move(sent, path)

    def read(self, relative: PurePosixPath, out: Path, sha256: str) -> None:
        """One file, to here, if it has the digest."""
        digest = hashlib.sha256()
        try:
            with self.system.open_input_file(self.path(relative)) as stream, out.open("wb") as file:
                while block := stream.read(_BLOCK_BYTES):
                    digest.update(block)
                    file.write(block)
        except FileNotFoundError:
            raise _changed(self.name(relative)) from None
        if digest.hexdigest() != sha256:
            raise _changed(self.name(relative))
        sync(out)
