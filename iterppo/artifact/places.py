"""Where an artifact may be put. What would fail at the end of a stage, or destroy something, is
refused before it begins."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from iterppo.artifact.manifest import MANIFEST
from iterppo.artifact.placing import LOCK, longest_name
from iterppo.errors import UsageError


def refuse_place(out: Path, kind: str) -> None:
    """Refuse a place that no artifact can take.

    Raises:
        UsageError: If it cannot be renamed or be looked at, lies in an artifact, or holds something
            else than an artifact of this kind.
    """
    try:
        place = out.resolve()
        if os.path.ismount(place):
            raise UsageError(
                f"{out}: a mount point, which an artifact cannot take the place of. Name a folder "
                f"below it, as {out / 'NAME'}."
            )
        if len(os.fsencode(place.name)) > longest_name():
            raise UsageError(
                f"{out}: the name is longer than the {longest_name()} bytes that leave room for "
                "a hidden folder beside it. Choose a shorter one."
            )
        for folder in place.parents:
            if _manifest(folder) is not None:
                raise UsageError(
                    f"{out}: lies in the artifact {folder}, and would go with it. Choose a place "
                    "outside of it."
                )
        refuse_foreign(out, kind)
    except UsageError:
        raise
    except (OSError, RuntimeError) as error:  # the latter of links that lead to each other
        why = getattr(error, "strerror", None) or error
        raise UsageError(
            f"{out}: cannot be written there ({why}). Choose another place, or see who may use it."
        ) from None


def refuse_nesting(places: Mapping[str, Path], written: set[str], stage: str) -> None:
    """An artifact that takes the place of another, or of what it is made from, or lies in it, would
    destroy it.

    Args:
        places: Of what the stage reads and writes, by the names of its options.
        written: The options that name what it writes.
        stage: For messages.

    Raises:
        UsageError: If there is one.
    """
    resolved = {name: Path(os.path.realpath(path)) for name, path in places.items()}
    for name in (one for one in places if one in written):
        for other, place in resolved.items():
            if other == name:
                continue
            if place == resolved[name]:
                first, second = sorted((name, other), key=[*places].index)
                raise UsageError(
                    f"{stage}: {places[first]} is named twice. Give --{first} and --{second} "
                    "places of their own."
                )
            if place in resolved[name].parents or (
                other not in written and resolved[name] in place.parents
            ):
                inner, outer = (name, other) if place in resolved[name].parents else (other, name)
                raise UsageError(
                    f"{stage}: --{inner} {places[inner]} lies in --{outer} {places[outer]}, which "
                    "is one folder, replaced as a whole. Give them places beside each other."
                )


def refuse_foreign(out: Path, kind: str, *, lies_at: Path | None = None) -> None:
    """Never overwrite a folder that is not an artifact of this kind.

    `lies_at` is where it is looked at, where it was moved to already.
    """
    place = lies_at or out
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    found = _manifest(place)
    if found is None and _is_damaged(place / MANIFEST):
        raise UsageError(
            f"{out}: its {MANIFEST} is damaged, and nobody can tell what it was, so it is not "
            "replaced. Remove the folder, or choose another place."
        )
    if found is None or found.get("kind") != kind:
        raise UsageError(
            f"{out}: exists and is not an artifact of kind {kind}, so it is not replaced. Choose "
            "another place."
        )


def refuse_to_replace(out: Path, kind: str, *, lies_at: Path | None = None) -> None:
    """Nor a folder in which somebody keeps files beside those of the artifact, or works."""
    if lies_at is None and out.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise UsageError(
            f"{out}: the current folder lies there, and would be replaced. Name a folder of its "
            f"own, as {out / 'NAME'}."
        )
    refuse_foreign(out, kind, lies_at=lies_at)
    place = lies_at or out
    files = (_manifest(place) or {}).get("files")
    known = {MANIFEST, LOCK, *(files if isinstance(files, dict) else ())}
    for path in sorted(place.rglob("*")):
        name = path.relative_to(place).as_posix()
        if name not in known and (path.is_symlink() or not path.is_dir()):
            raise UsageError(
                f"{out}: holds {name}, which is no file of the artifact and would be lost with it. "
                "Move it away, or choose another place."
            )


def _manifest(folder: Path) -> dict[str, Any] | None:
    """What the manifest of an artifact says; None: there is none that iterppo wrote."""
    try:
        found = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and found.get("format") == "iterppo" else None


def _is_damaged(manifest: Path) -> bool:
    try:
        json.loads(manifest.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError):
        return True
    return False
