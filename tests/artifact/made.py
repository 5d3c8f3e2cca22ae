"""Small artifacts, and what is in a folder, as the tests of artifacts make and read them."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import MANIFEST, Artifact, ArtifactWriter, InputRecord, open_artifact
from iterppo.config import ReturnsConfig
from iterppo.errors import ArtifactError

CONFIG = ReturnsConfig()
LOG = {"log 0": InputRecord(path="a.jsonl", kind="file", digest="d" * 64)}


def reject(line: int) -> dict[str, Any]:
    return {"source": "a.jsonl", "line": line, "reason": "broken", "raw": "x" * (line % 7)}


def write(out: Path, rows: list[dict[str, Any]], kind: str = "rejects") -> Artifact:
    with ArtifactWriter(out, kind=kind, stage="test", config=CONFIG, inputs=LOG) as writer:
        writer.write(rows)
    return open_artifact(out, kind)


def lines_of(out: Path) -> list[int]:
    return [row["line"] for row in open_artifact(out, "rejects").rows()]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def change_manifest(out: Path, **changes: Any) -> None:
    manifest = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(manifest | changes))


def message(path: Path, kind: str | None = None) -> str:
    """What is said when an artifact is refused: one line, exit status 4."""
    with pytest.raises(ArtifactError, match=r".") as raised:
        open_artifact(path, kind)
    assert raised.value.exit_status == 4
    assert isinstance(raised.value, OSError)
    assert str(pickle.loads(pickle.dumps(raised.value))) == str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)
