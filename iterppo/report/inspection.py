"""`iterppo inspect`: an artifact or a round, as text and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from iterppo.artifact import MANIFEST, Artifact, Manifest, open_artifact
from iterppo.errors import ArtifactError
from iterppo.report.conservation import conservation
from iterppo.report.q_text import q_text

_WIDTH = 100


def summary(path: Path, manifest: Manifest) -> str:
    """A few lines about an artifact that was just made."""
    lines = [f"{path}: {manifest.kind}@{manifest.version}, {manifest.rows} rows"]
    lines += _table("counts", manifest.counts)
    lines += _table("metrics", manifest.metrics)
    return "\n".join(lines)


def inspect_text(folder: Path, *, rows: int) -> str:
    """An artifact with its lineage, counts and first rows; or the counts of every artifact of a
    round."""
    if not (folder / MANIFEST).exists() and _members(folder):
        return _round_text(folder)
    artifact = open_artifact(folder)
    manifest = artifact.manifest
    lines = [
        summary(folder, manifest),
        f"  made by {manifest.stage}, iterppo {manifest.iterppo_version}, "
        f"{manifest.created_at:%Y-%m-%d %H:%M} UTC",
        f"  digest {manifest.digest[:16]}, seed {manifest.seed}",
    ]
    lines += [
        f"  from {name}: {record.path} ({record.kind} {record.digest[:16]})"
        for name, record in manifest.inputs.items()
    ]
    if manifest.kind == "q":
        lines += q_text(folder)
    lines.append("  config " + json.dumps(manifest.config, ensure_ascii=False))
    others = [name for name in manifest.files if not name.startswith("part-")]
    if others:
        lines.append("  files " + ", ".join(others))
    for number, row in enumerate(artifact.rows()):
        if number == rows:
            break
        lines += [f"row {number}", *_row_lines(row)]
    return "\n".join(lines)


def inspect_json(folder: Path) -> str:
    """The manifest, or the manifests of a round by name."""
    if not (folder / MANIFEST).exists() and (members := _members(folder)):
        manifests = {m.path.name: m.manifest.model_dump(mode="json") for m in members}
        return json.dumps(manifests, indent=2, ensure_ascii=False)
    return open_artifact(folder).manifest.model_dump_json(indent=2)


def _members(folder: Path) -> list[Artifact]:
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: not found. Check the path.")
    found = [
        open_artifact(path)
        for path in folder.iterdir()
        if (path / MANIFEST).exists() and path.name[0] != "."
    ]
    return sorted(found, key=lambda artifact: artifact.manifest.created_at)


def _round_text(folder: Path) -> str:
    lines = [f"{folder}: a round"]
    counts: dict[str, dict[str, int]] = {}
    for artifact in _members(folder):
        lines.append(summary(artifact.path, artifact.manifest))
        counts[artifact.manifest.kind] = artifact.manifest.counts
    for identity, holds in conservation(counts):
        lines.append(identity if holds else f"{identity}  <- something was lost or doubled")
    return "\n".join(lines)


def _table(name: str, values: dict[str, Any]) -> list[str]:
    if not values:
        return []
    width = max(len(key) for key in values)
    return [f"  {name}"] + [
        f"    {key:<{width}}  {_number(value)}" for key, value in values.items()
    ]


def _number(value: Any) -> str:
    if value is None:
        return "not a number"
    if isinstance(value, bool) or not isinstance(value, float):
        return str(value)
    return f"{value:.4g}" if value != int(value) else f"{value:.0f}"


def _row_lines(row: dict[str, Any]) -> list[str]:
    lines = []
    for key, value in row.items():
        text = (
            value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
        )
        shown = text.encode("unicode_escape").decode() if not text.isprintable() else text
        lines.append(f"  {key}: {shown if len(shown) <= _WIDTH else shown[:_WIDTH] + ' …'}")
    return lines
