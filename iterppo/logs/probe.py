"""The fixed set of turns on which two Q-functions are compared.

    trajectories -> held-out turns that have an action, at most so many

Held-out ones: neither Q was fitted on them. Splits are drawn by a hash, so a conversation that is
held out in one round is in every other.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from iterppo.artifact import Artifact, Manifest, locate_as_named, open_artifact
from iterppo.contracts.trajectories import action
from iterppo.errors import ArtifactError, DataError
from iterppo.logs.splits import unit_hash

Rows = Sequence[dict[str, Any]]


def probe_artifact(q: Manifest, *, q_path: Path, named: Path | None) -> Artifact:
    """The trajectories to compare on: those that were named, or those that Q was fitted on.

    Raises:
        ArtifactError: If those that Q was fitted on are not known, are gone, or have changed.
    """
    if named is not None:
        return open_artifact(named, "trajectories")
    record = q.inputs.get("trajectories")
    if record is None:
        raise ArtifactError(
            f"{q_path}: its manifest does not name the trajectories that it was fitted on. Name "
            "some with --probe."
        )
    path, found = locate_as_named(record, near=q_path)  # the run may have been moved
    if path is None:
        raise ArtifactError(
            f"{record.path}: not found, the trajectories that {q_path} was fitted on. Name others "
            "with --probe."
        )
    if found == "changed":
        raise ArtifactError(
            f"{path}: changed since {q_path} was fitted on it. Name the trajectories to compare on "
            "with --probe."
        )
    return open_artifact(path, "trajectories")


def probe_turns(artifact: Artifact, *, turns: int) -> list[Rows]:
    """Conversations of the probe set, each cut after its last turn that belongs to it.

    Conversations come in the order of a hash of their id, and of their turns those with an action
    count, until there are `turns` of them. So the choice depends on nothing but the ids, and more
    turns are the same ones and others. Memory holds about as many turns as are asked for.

    Raises:
        DataError: If there is none.
    """
    heldout = (rows for rows in artifact.conversations() if rows[0]["split"] == "heldout")
    found = _first_by_hash(heldout, turns=turns)
    if not found:
        raise DataError(
            f"{artifact.path}: no held-out turn with an action. Name other trajectories with "
            "--probe."
        )
    return found


def _first_by_hash(conversations: Iterable[Rows], *, turns: int) -> list[Rows]:
    kept: list[tuple[float, str, list[int], Rows]] = []  # a heap: the largest hash first
    held = 0
    for rows in conversations:
        acted = [place for place, row in enumerate(rows) if action(row) is not None]
        if not acted:
            continue
        name = rows[0]["conversation_id"]
        heapq.heappush(kept, (-unit_hash(name, seed=0), name, acted, rows))
        held += len(acted)
        while held - len(kept[0][2]) >= turns:
            held -= len(heapq.heappop(kept)[2])
    found: list[Rows] = []
    for _, _, acted, rows in sorted(kept, key=lambda one: (-one[0], one[1])):
        left = min(turns, len(acted))
        found.append(rows[: acted[left - 1] + 1])
        turns -= left
    return found
