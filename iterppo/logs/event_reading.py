"""From the rows of event logs to spilled events: the first of the two steps that read them.

    pieces of files -> EventSpill + what was not taken + counts
    a share of the spilled events -> a part (`iterppo.logs.reading`)

The messages of a conversation can stand in any piece, so the second step begins when the first is
done with all of them.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from iterppo.config import IngestConfig
from iterppo.errors import DataError
from iterppo.logs.event_logs import event_of, event_rows
from iterppo.logs.event_sorting import EventSpill
from iterppo.logs.rejects import Line, Rejects, redactor_of
from iterppo.logs.sources import Piece
from iterppo.logs.tables import NULL_WORDS
from iterppo.progress import progress


@dataclass(frozen=True)
class SpillTask:
    """Pieces of event logs whose messages go into one spill."""

    pieces: tuple[Piece, ...]
    first_piece: int
    """Number of the first of them in the whole log."""
    folder: Path
    name: str
    """Of the spill in its folder."""
    rejects: Path


@dataclass(frozen=True)
class Spilled:
    """What a task found."""

    size_bytes: int
    """Of the messages."""
    counts: Counter[str]
    num_lines: tuple[int, ...]
    """Lines of each piece, blank ones too."""
    reasons: Counter[str]


def spill_events(config: IngestConfig, show: bool, task: SpillTask) -> Spilled:
    """Spill the messages of the task's pieces; `show` shows progress.

    Raises:
        DataError: If a file cannot be read to its end.
    """
    spill = EventSpill(task.folder, task.name)
    counts: Counter[str] = Counter()
    num_lines = []
    with Rejects(task.rejects, redactor_of(config)) as rejects:
        for piece_number, piece in enumerate(task.pieces, start=task.first_piece):
            rows = event_rows(piece, config)
            shown = progress(rows, f"ingest {piece.file.name}", unit="rows") if show else rows
            for line_number, raw, row in shown:
                counts["lines"] += 1
                try:
                    if isinstance(row, DataError):
                        raise row
                    event = event_of(row, config.mapping)
                except DataError as error:
                    rejects.add(Line(piece_number, line_number, raw), str(error))
                    continue
                if event is None:
                    counts["lines_taken"] += 1
                    counts["messages_ignored"] += 1
                else:
                    spill.add(event, piece_number, line_number)
                    if event.suggestion in NULL_WORDS:
                        counts["suggestions_like_null"] += 1
            num_lines.append(rows.num_lines)
    spill.close()
    counts["rejects"] = rejects.number
    return Spilled(spill.size_bytes, counts, tuple(num_lines), rejects.reasons)
