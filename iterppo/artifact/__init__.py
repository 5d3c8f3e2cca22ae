"""Artifacts: folders that are whole or not there at all.

    <name>/part-00000.parquet …  rows, under a contract (absent for kinds without rows)
    <name>/…                     files beside them (a checkpoint, metrics.json)
    <name>/manifest.json         written last, before one rename of the whole folder

The manifest holds the lineage: what made the artifact, from which inputs (by content), with which
configuration.
"""

from iterppo.artifact.alongside import Alongside, alongside, paired_conversations
from iterppo.artifact.lineage import (
    Ancestor,
    is_elsewhere,
    lineage,
    locate,
    locate_as_named,
    standing,
)
from iterppo.artifact.manifest import (
    MANIFEST,
    FileRecord,
    InputRecord,
    Manifest,
    code_digest,
    digest_of,
    file_digest,
    file_records,
    fingerprint,
)
from iterppo.artifact.parts import PartWriter
from iterppo.artifact.reading import (
    Artifact,
    Stretch,
    is_up_to_date,
    open_artifact,
    read_manifest,
)
from iterppo.artifact.writing import ArtifactWriter

__all__ = [
    "MANIFEST",
    "Alongside",
    "Ancestor",
    "Artifact",
    "ArtifactWriter",
    "FileRecord",
    "InputRecord",
    "Manifest",
    "PartWriter",
    "Stretch",
    "alongside",
    "code_digest",
    "digest_of",
    "file_digest",
    "file_records",
    "fingerprint",
    "is_elsewhere",
    "is_up_to_date",
    "lineage",
    "locate",
    "locate_as_named",
    "open_artifact",
    "paired_conversations",
    "read_manifest",
    "standing",
]
