"""`iterppo inspect`: what a path holds, as text and as JSON."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from iterppo.artifact import MANIFEST, read_manifest
from iterppo.artifact.placing import begun_beside, is_held, owner_of
from iterppo.errors import ArtifactError, UsageError
from iterppo.logs.sources import LOG_FILE
from iterppo.report.artifact_content import Wish, artifact_content, half_written_content
from iterppo.report.checkpoints import checkpoint_content, is_checkpoint
from iterppo.report.file_content import file_content
from iterppo.report.inspection_text import content_text

_TRAJECTORIES = "trajectories"


@dataclass(frozen=True)
class Inspection:
    """What was found, and whether something is damaged."""

    content: dict[str, Any]
    damage: str | None
    """Files of an artifact that are not what its manifest says; None: there are none. That an
    artifact is half-written is no damage: whoever asked was told."""

    def text(self, *, whole: bool) -> str:
        """For people; `whole`: no message is cut."""
        return content_text(self.content, whole=whole)

    def json(self) -> str:
        """For programs. Of an artifact the manifest's keys and more; of a round one such object
        per artifact, by name."""
        content = self.content
        if content["what"] == "round":
            content = content["artifacts"]
        return json.dumps(content, indent=2, ensure_ascii=False, default=_plain)


def inspect(path: Path, wish: Wish) -> Inspection:
    """Look at an artifact, whole or half-written, a round, a run, a checkpoint, or a single file.

    Raises:
        ArtifactError: If there is nothing to look at.
        UsageError: If the conversation that is asked for is not in it.
        DataError: If it is a file that cannot be read.
    """
    content = _content(path, wish)
    parts = content["artifacts"].values() if content["what"] == "round" else [content]
    damage = next(
        (one["problems"][0] for one in parts if one["what"] == "artifact" and one["problems"]), None
    )
    return Inspection(content, damage)


def _content(path: Path, wish: Wish) -> dict[str, Any]:
    if path.name == MANIFEST and path.is_file():
        path = path.parent
    if path.is_file():
        return file_content(path, wish)
    if (path / MANIFEST).is_file():
        log = path / LOG_FILE
        if wish.conversation is not None and read_manifest(path).kind == "log" and log.is_file():
            return file_content(log, wish)
        return artifact_content(path, wish)
    if not path.exists():
        begun = begun_beside(path) if path.name else []
        if begun:
            return half_written_content(begun[-1], wish, state=_state_of(begun[-1]))
        raise ArtifactError(f"{path}: not found. Check the path.")
    if is_checkpoint(path):
        return {
            "path": str(path),
            "what": "checkpoint",
            "problems": [],
            "checkpoint": checkpoint_content(path),
        }
    if members := _members(path):
        if wish.conversation is not None:
            if not (path / _TRAJECTORIES / MANIFEST).is_file():
                raise UsageError(
                    f"--conversation: {path} has no trajectories. Name an artifact in it."
                )
            return artifact_content(path / _TRAJECTORIES, wish)
        return _round_content(path, members)
    if rounds := [one for one in _folders(path) if _members(one)]:
        names = [one.name for one in rounds]
        return {"path": str(path), "what": "run", "problems": [], "rounds": names}
    if _looks_half_written(path):
        return half_written_content(path, wish, state=_state_of(path))
    read_manifest(path)  # raises: this is nothing of ours
    raise AssertionError(path)


def _round_content(path: Path, members: list[Path]) -> dict[str, Any]:
    """The artifacts of a round in the order they were made; half-written ones last."""
    wish = Wish(rows=0, statistics=False)
    whole = [artifact_content(one, wish) for one in members if (one / MANIFEST).is_file()]
    whole.sort(key=lambda content: content["created_at"])
    artifacts = {Path(content["path"]).name: content for content in whole}
    for content in artifacts.values():  # what the manifest says is enough here
        for name in ("columns", "first_rows", "turns"):
            content.pop(name, None)
    for one in members:
        if not (one / MANIFEST).is_file():
            artifacts[one.name] = half_written_content(one, wish, state=_state_of(one))
    return {"path": str(path), "what": "round", "problems": [], "artifacts": artifacts}


def _members(folder: Path) -> list[Path]:
    """Artifacts in a folder, and what is or was being written there."""
    whole = [one for one in _folders(folder) if (one / MANIFEST).is_file()]
    return whole + sorted(one for one in folder.glob(".*.tmp-*") if one.is_dir())


def _folders(folder: Path) -> list[Path]:
    return sorted(one for one in folder.iterdir() if one.is_dir() and one.name[0] != ".")


def _looks_half_written(folder: Path) -> bool:
    is_begun = folder.name.startswith(".") and ".tmp-" in folder.name
    return is_begun or next(folder.glob("part-*.parquet"), None) is not None


def _state_of(folder: Path) -> str:
    if ".tmp-" not in folder.name or not folder.name.rpartition("-")[2].isdigit():
        return f"half-written: it has no {MANIFEST}. Run the stage that makes it again."
    if is_held(folder):
        return f"half-written: {owner_of(folder)} is at work on it. Wait for it."
    return f"half-written: {owner_of(folder)} was killed before it was whole. Run the stage again."


def _plain(value: Any) -> Any:
    return msgspec.to_builtins(value) if isinstance(value, msgspec.Struct) else str(value)
