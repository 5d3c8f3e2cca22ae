"""An arm of an experiment: trajectories, a row for each conversation.

    trajectories@2 -> Arm

Shapes: N conversations, A kinds of adoption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np

from iterppo.artifact import Artifact
from iterppo.contracts.trajectories import ADOPTIONS
from iterppo.errors import DataError, UsageError

Array = np.ndarray[Any, Any]
ClusterName = Literal["customer_id", "business_id"]

SEGMENTS = ("business_id", "customer_id", "persona", "split")
"""Columns that were fixed before the first suggestion."""


@dataclass(frozen=True)
class Arm:
    """Conversations that are counted together, as a rule of one policy."""

    name: str
    """Where they come from, as it was typed."""
    versions_N: Array
    """Tuples: of the policies that held a conversation, in order; empty where nothing says."""
    id_N: Array
    has_persona_N: Array
    """Held under an exploration prompt."""
    is_censored_N: Array
    """Still open when the log was cut: outcome and return are not known, and are NaN."""
    outcome_N: Array
    """1 or 0."""
    return_N: Array
    """Discounted outcomes, from the first turn on."""
    turns_to_outcome_N: Array
    """Turns until the outcome, the one that reached it counted; NaN where none was."""
    adoption_NA: Array
    """Turns of each adoption, in the order of ADOPTIONS."""
    cluster_N: Array | None
    segment_N: Array | None

    @property
    def policy_versions(self) -> list[str]:
        """Of all of them."""
        return sorted(set(chain.from_iterable(self.versions_N)))

    def part(self, own_N: Array, *, name: str) -> Arm:
        """Some of the conversations."""
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        own = {key: rows[own_N] for key, rows in columns.items() if isinstance(rows, np.ndarray)}
        return replace(self, name=name, **own)

    def by_policy(self) -> list[Arm]:
        """A part for each policy, for each that took turns with another, and for those of which
        nothing says who held them."""
        found = []
        for versions in sorted(set(self.versions_N)):
            own_N = np.asarray([one == versions for one in self.versions_N], dtype=bool)
            found.append(self.part(own_N, name=f"{self.name} {', '.join(versions)}"))
        return found


def together(arms: Sequence[Arm]) -> Arm:
    """All their conversations, under the name of the first."""
    columns = {each.name: [getattr(arm, each.name) for arm in arms] for each in fields(Arm)}
    joined: dict[str, Any] = {
        name: np.concatenate(parts)
        for name, parts in columns.items()
        if isinstance(parts[0], np.ndarray)
    }
    return replace(arms[0], **joined)


def read_arm(
    artifact: Artifact, *, name: str, gamma: float, cluster: ClusterName | None, segment: str | None
) -> Arm:
    """Read an arm.

    Args:
        artifact: Of kind trajectories.
        name: For messages.
        gamma: Discount factor, per turn.
        cluster: Column of what several conversations have in common. A conversation without it is
            a cluster of its own.
        segment: One of SEGMENTS, or the name of a fact.

    Raises:
        DataError: If no conversation has the cluster, or the segment.
    """
    columns = ["conversation_id", "reward", "censored", "policy_version", "persona", "adoption"]
    columns += [cluster] if cluster else []
    own = [segment if segment in SEGMENTS else "facts"] if segment else []
    columns += [column for column in own if column not in columns]
    versions: list[tuple[str, ...]] = []
    ids: list[str] = []
    personas: list[bool] = []
    censored: list[bool] = []
    outcomes: list[float] = []
    returns: list[float] = []
    turns_to_outcome: list[float] = []
    adoptions: list[list[int]] = []
    clusters: list[str] = []
    segments: list[str | None] = []
    num_clustered = 0
    for rows in artifact.conversations(columns):
        first = rows[0]
        held_by = {row["policy_version"] for row in rows if row["policy_version"]}
        versions.append(tuple(sorted(held_by)))
        ids.append(first["conversation_id"])
        personas.append(any(row["persona"] is not None for row in rows))
        is_open = bool(first["censored"])
        paid = [place for place, row in enumerate(rows) if row["reward"] > 0]
        censored.append(is_open)
        outcomes.append(np.nan if is_open else float(bool(paid)))
        earned = sum(gamma**place * row["reward"] for place, row in enumerate(rows))
        returns.append(np.nan if is_open else earned)
        turns_to_outcome.append(paid[0] + 1 if paid and not is_open else np.nan)
        found = [row["adoption"] for row in rows]
        adoptions.append([found.count(kind) for kind in ADOPTIONS])
        if cluster:
            num_clustered += first[cluster] is not None
            # Two letters that no key shares keep those without one apart.
            key = first[cluster]
            clusters.append(f"c:{key}" if key is not None else f"n:{name}:{len(ids)}")
        if segment:
            segments.append(segment_of(first, segment))
    if cluster and ids and not num_clustered:
        raise DataError(
            f"{name}: no conversation has a {cluster}. Ingest logs that have it, or leave "
            "--cluster out."
        )
    if segment and ids and all(one is None for one in segments):
        raise DataError(
            f"{name}: no conversation has {segment}. --by takes {', '.join(SEGMENTS)}, or a fact "
            "that ingest.facts names."
        )
    return Arm(
        name=name,
        versions_N=np.fromiter(versions, dtype=object, count=len(versions)),
        id_N=np.asarray(ids, dtype=object),
        has_persona_N=np.asarray(personas, dtype=bool),
        is_censored_N=np.asarray(censored, dtype=bool),
        outcome_N=np.asarray(outcomes, dtype=float),
        return_N=np.asarray(returns, dtype=float),
        turns_to_outcome_N=np.asarray(turns_to_outcome, dtype=float),
        adoption_NA=np.asarray(adoptions, dtype=float).reshape(-1, len(ADOPTIONS)),
        cluster_N=np.asarray(clusters, dtype=object) if cluster else None,
        segment_N=np.asarray(["(none)" if s is None else s for s in segments], dtype=object)
        if segment
        else None,
    )


def segment_of(row: Mapping[str, Any], segment: str) -> str | None:
    """The value of a column, or of a fact, at the first turn.

    >>> segment_of({"facts": "city: Rome\\nsize: 2: 3"}, "size")
    '2: 3'
    """
    if segment in SEGMENTS:
        value = row[segment]
        return None if value is None else str(value)
    for line in (row["facts"] or "").splitlines():
        key, colon, value = line.partition(": ")
        if colon and key == segment:
            return str(value)
    return None


def first_values(q: Artifact, arms: Sequence[Arm], *, path: Path) -> list[Array]:
    """V̂(s_1) of the conversations of each arm, by the rows of a q artifact; NaN where there is
    none.

    Rows of the split `train` are left out: there V̂ has seen how the conversation ended, so it is no
    covariate from before the experiment.

    Raises:
        DataError: If an id is in two arms, or no conversation has a value.
        UsageError: If the artifact has no column v.
    """
    seen: dict[str, str] = {}
    for arm in arms:
        for one in arm.id_N:
            if seen.setdefault(one, arm.name) != arm.name:
                raise DataError(
                    f"{arm.name}: conversation {one} is in {seen[one]} too, so --adjust cannot "
                    "tell which of them a row of Q is about. Give conversations ids of their own."
                )
    if q.manifest.version < 2:
        raise UsageError(f"{path}: is q@1, which has no V. Fit Q again to --adjust by it.")
    values: dict[str, float] = {}
    for row in q.rows(["conversation_id", "turn", "split", "v"]):
        if row["turn"] == 1 and row["split"] != "train" and row["v"] is not None:
            values[row["conversation_id"]] = row["v"]
    found = [np.asarray([values.get(one, np.nan) for one in arm.id_N], float) for arm in arms]
    if not any(np.isfinite(each).any() for each in found):
        raise DataError(
            f"{path}: has a V for the first turn of none of these conversations but those that it "
            "was trained on. Fit Q on a log that holds them, as held-out conversations."
        )
    return found
