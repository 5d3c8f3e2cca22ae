"""`ingest`, as many tests run it: logs in, artifacts and counts out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from iterppo.artifact import Manifest, open_artifact
from iterppo.config import IngestConfig
from iterppo.logs import sources
from iterppo.logs.sources import LogFile
from iterppo.report.conservation import conservation
from iterppo.stages import ingest
from tests.logs.lines import Message, business, customer


def line(identity: str, *messages: Message, outcome: int | None = 0, **fields: Any) -> bytes:
    """A line of the neutral format."""
    content = {"conversation_id": identity, "messages": messages, "outcome": outcome, **fields}
    return json.dumps(content).encode() + b"\n"


ONE = line("one", customer("hi"), business("hello"))
TWO = line("two", customer("hey"), business("ho"))


@dataclass(frozen=True)
class Ingested:
    """What `ingest` left behind."""

    manifest: Manifest
    rows: list[dict[str, Any]]
    rejects: list[dict[str, Any]]

    @property
    def counts(self) -> dict[str, int]:
        """Counts of the manifest."""
        return self.manifest.counts

    def texts(self) -> list[tuple[str | None, str | None]]:
        """(c_i, m_i) of every row."""
        return [(row["customer"], row["sent"]) for row in self.rows]

    def reasons(self) -> list[tuple[int, str]]:
        """Line and reason of every reject."""
        return [(row["line"], row["reason"]) for row in self.rejects]


def ingested(
    folder: Path, files: Mapping[str, bytes] | bytes, *, workers: int = 1, **settings: Any
) -> Ingested:
    """Write files (one: a.jsonl) into a folder and ingest them; whatever is rejected, unless
    `max_reject_rate` says otherwise."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(files, bytes):
        files = {"a.jsonl": files}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    logs = [LogFile(name, str(folder / name)) for name in files]
    out, rejects = folder / "trajectories", folder / "rejects"
    config = IngestConfig(**{"max_reject_rate": 1.0, **settings})
    manifest = ingest.run(config, logs=logs, out=out, rejects=rejects, workers=workers)
    found = Ingested(
        manifest,
        list(open_artifact(out, "trajectories").rows()),
        list(open_artifact(rejects, "rejects").rows()),
    )
    check_counts(found)
    return found


def ingested_in_pieces(
    folder: Path, files: Mapping[str, bytes], piece_bytes: int, **settings: Any
) -> Ingested:
    with mock.patch.object(sources, "PIECE_BYTES", piece_bytes):
        return ingested(folder, files, **settings)


def check_counts(found: Ingested) -> None:
    """What was counted adds up, and is what was written."""
    counts = found.counts
    identities = conservation({"trajectories": counts})
    assert len(identities) == 3
    assert all(holds for _, holds in identities), identities
    with_turns = counts["conversations"] - counts["conversations_without_turns"]
    of_splits = [counts.get(f"conversations_{split}", 0) for split in ("train", "heldout")]
    assert sum(of_splits) == with_turns
    assert counts["turns"] == found.manifest.rows == len(found.rows)
    assert counts["rejects"] == len(found.rejects)
    assert counts["outcomes"] == sum(row["reward"] for row in found.rows)
    assert counts["conversations_terminal"] == sum(row["done"] for row in found.rows)
    ids = {row["conversation_id"] for row in found.rows}
    assert len(ids) == with_turns
