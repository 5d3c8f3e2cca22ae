"""`iterppo ingest`: logs -> trajectories@1, rejects@1."""

from collections.abc import Sequence
from pathlib import Path

from iterppo.artifact import ArtifactWriter, Manifest, file_records
from iterppo.config import IngestConfig
from iterppo.errors import DataError
from iterppo.logs.conversations import parse_line, turns_of
from iterppo.logs.sources import read_lines
from iterppo.logs.splits import split_of
from iterppo.progress import progress


def run(config: IngestConfig, *, logs: Sequence[Path], out: Path, rejects: Path) -> Manifest:
    """Read every line of every log; a line that is not taken goes to `rejects` with file, line
    number and reason."""
    inputs = file_records("log", logs)
    with ArtifactWriter(
        out, kind="trajectories", stage="ingest", config=config, inputs=inputs
    ) as writer:
        with ArtifactWriter(
            rejects, kind="rejects", stage="ingest", config=config, inputs=inputs
        ) as rejected:
            _read(logs, writer, rejected, config)
        # The rejects stand by now; the trajectories will not where this raises, or a second run
        # would be up to date.
        num_rejects = writer.counts["rejects"]
        if not writer.counts["conversations"]:
            raise DataError(
                f"{logs[0]}: no conversation in it was taken ({num_rejects} rejects). See: "
                f"iterppo inspect {rejects}"
            )
        if num_rejects and config.on_reject == "fail":
            raise DataError(f"{num_rejects} lines were not taken. See: iterppo inspect {rejects}")
    return writer.manifest


def _read(
    logs: Sequence[Path], writer: ArtifactWriter, rejected: ArtifactWriter, config: IngestConfig
) -> None:
    taken: set[str] = set()
    writer.count("conversations", 0)
    for log in logs:
        for number, line in progress(read_lines(log), f"ingest {log.name}", unit="conversations"):
            writer.count("lines")
            try:
                conversation = parse_line(line)
                identity = conversation.conversation_id
                if identity in taken:
                    raise DataError(f"conversation_id: {identity!r} was there before")
            except DataError as error:
                raw = line.decode("utf-8", errors="backslashreplace")
                rejected.write(
                    [{"source": str(log), "line": number, "reason": str(error), "raw": raw}]
                )
                writer.count("rejects")
                continue
            taken.add(identity)
            rows, counts = turns_of(conversation)
            split = split_of(identity, heldout=config.heldout, seed=config.seed)
            writer.write({**row, "split": split} for row in rows)
            for name, amount in counts.items():
                writer.count(name, amount)
            writer.count(f"conversations_{split}", int(bool(rows)))
    writer.count("rejects", 0)
