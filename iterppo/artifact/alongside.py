"""Columns of an artifact that has the turns of another one, read in step with it.

stretches of trajectories  ->  where the rows of each begin in the other artifact
whole batches of a stretch ->  the rows of the other artifact that belong to each

or, where memory allows rows, a conversation of both at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from iterppo.artifact.reading import Artifact, Stretch
from iterppo.errors import ArtifactError

if TYPE_CHECKING:
    import pyarrow as pa

_KEY = ["conversation_id", "turn"]


class Alongside:
    """The other artifact, from the row on at which a stretch begins. It can be sent to another
    process.

    Args:
        path: Of the other artifact, for messages.
        stretch: Its parts.
        start: Row to begin with.
    """

    def __init__(self, path: Path, stretch: Stretch, start: int) -> None:
        self.path = path
        self._stretch = stretch
        self._start = start

    def beside(
        self, tables: Iterator[pa.Table], columns: Sequence[str]
    ) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Each table of the stretch, which has the columns `conversation_id` and `turn`, with the
        rows of the other artifact that belong to it.

        Raises:
            ArtifactError: If those are other turns.
        """
        import pyarrow as pa

        waiting: list[pa.RecordBatch] = []
        num_waiting = 0
        batches = self._batches([*_KEY, *columns])
        for table in tables:
            while num_waiting < table.num_rows:
                batch = next(batches, None)
                if batch is None:
                    raise self.wrong_turns()
                waiting.append(batch)
                num_waiting += batch.num_rows
            whole = pa.Table.from_batches(waiting)
            other, left = whole.slice(0, table.num_rows), whole.slice(table.num_rows)
            waiting, num_waiting = left.to_batches(), left.num_rows
            if not all(other[name].equals(table[name]) for name in _KEY):
                raise self.wrong_turns()
            yield table, other.select(columns)

    def wrong_turns(self) -> ArtifactError:
        """That it is of other trajectories."""
        return _wrong_turns(self.path, self._stretch.kind)

    def _batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        to_skip = self._start
        for part in self._stretch.parts():
            num_rows = _num_rows(part)
            if num_rows <= to_skip:
                to_skip -= num_rows
                continue
            for batch in Stretch(self._stretch.kind, [part]).batches(columns):
                if batch.num_rows <= to_skip:
                    to_skip -= batch.num_rows
                    continue
                yield batch.slice(to_skip)
                to_skip = 0


def alongside(artifact: Artifact, stretches: Sequence[Stretch]) -> list[Alongside]:
    """The artifact from where each of the stretches, which make up another one, begins.

    Raises:
        ArtifactError: If it has more or fewer rows than they have.
    """
    whole = Stretch(artifact.kind, artifact.parts())
    found, start = [], 0
    for stretch in stretches:
        found.append(Alongside(artifact.path, whole, start))
        start += sum(_num_rows(part) for part in stretch.parts())
    if start != artifact.manifest.rows:
        raise Alongside(artifact.path, whole, 0).wrong_turns()
    return found


def paired_conversations(
    first: Artifact, other: Artifact
) -> Iterator[tuple[list[dict[str, Any]], list[dict[str, Any]]]]:
    """The rows of each conversation in both.

    Raises:
        ArtifactError: If the other one is of other turns.
    """
    if first.manifest.rows != other.manifest.rows:
        raise _wrong_turns(other.path, other.manifest.kind)
    for rows, others in zip(first.conversations(), other.conversations(), strict=True):
        if [[row[name] for name in _KEY] for row in rows] != [
            [row[name] for name in _KEY] for row in others
        ]:
            raise _wrong_turns(other.path, other.manifest.kind)
        yield rows, others


def _wrong_turns(path: Path, kind: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: its turns are not those of the trajectories. Run: iterppo {kind}"
    )


def _num_rows(part: Path) -> int:
    import pyarrow.parquet as pq

    with pq.ParquetFile(part) as file:
        return int(file.metadata.num_rows)
