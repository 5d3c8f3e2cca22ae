"""What lies in a run's folder: rounds, and in each the artifacts that are whole.

    runs/shop/{scripted,000,001,…}/{log,trajectories,…}/manifest.json -> Run

Nothing here reads rows. Files are checked by their presence and size, not by their digest: a page
about ten rounds of large models must not read them all. `iterppo inspect` checks every byte.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from iterppo.artifact import MANIFEST, Artifact, Manifest, read_manifest
from iterppo.errors import ArtifactError
from iterppo.pipeline import BEHAVIOUR, STAGES

UNREADABLE = (OSError, ValueError, KeyError, TypeError)
"""What reading a file that is damaged, or not what its name says, may raise; ArtifactError, and
pyarrow's errors, are among them."""

_OPTIONAL = {"rollout", "init", "credit", "actions", "judge", "evaluate"}
"""Stages that a round does without, where it has logs of its own and a policy from the round
before."""

_ARTIFACTS = {slot.place for stage in STAGES.values() for slot in stage.writes} | {"judge"}

_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Place:
    """A folder within a round where an artifact lies, or something that is none."""

    name: str
    path: Path
    manifest: Manifest | None
    trouble: str = ""
    """Why it cannot be read."""

    def artifact(self) -> Artifact:
        """It, opened.

        Raises:
            ArtifactError: If it is not whole.
        """
        if self.manifest is None:
            raise ArtifactError(self.trouble)
        return Artifact(self.path, self.manifest)


@dataclass(frozen=True)
class Round:
    """A folder of artifacts: a pass of the loop, or what came before the first."""

    name: str
    path: Path
    places: dict[str, Place]
    under_way: tuple[str, ...] = ()
    """Artifacts that a stage has begun to write, or left a checkpoint of."""

    @property
    def number(self) -> int | None:
        """k; None for a folder that is not a number."""
        return int(self.name) if self.name.isdecimal() else None

    def of_kind(self, kind: str) -> Place | None:
        """The first whole artifact of a kind, by name of its place."""
        for place in self.places.values():
            if place.manifest is not None and place.manifest.kind == kind:
                return place
        return None

    def whole(self, name: str) -> Place | None:
        """The artifact at a place, where it is whole."""
        place = self.places.get(name)
        return place if place is not None and place.manifest is not None else None

    def missing(self) -> list[tuple[str, str]]:
        """Artifacts of the loop that are not there, as (place, stage that makes it), in the order
        in which they are made. Of a round that has logs only, all that follows."""
        return [
            (slot.place, stage.name)
            for stage in STAGES.values()
            if stage.name not in _OPTIONAL
            for slot in stage.writes
            if slot.place != BEHAVIOUR and self.whole(slot.place) is None
        ]


@dataclass(frozen=True)
class Run:
    """All of it."""

    path: Path
    rounds: tuple[Round, ...]
    """Those without a number by name, then the others in their order."""
    manifests: tuple[Manifest, ...] = field(default=())

    @property
    def numbered(self) -> tuple[Round, ...]:
        """Passes of the loop; where no folder is a number, all folders."""
        found = tuple(one for one in self.rounds if one.number is not None)
        return found or self.rounds

    def policy_name(self, version: str) -> str:
        """π_k by the round whose `init` or `policy` it is; its version elsewhere.

        π_0 is made in the first round's `init`; a round's `policy` is the next one.
        """
        for one in self.rounds:
            for name, step in (("init", 0), ("policy", 1)):
                place = one.whole(name)
                if place is None or place.manifest is None or one.number is None:
                    continue
                if place.manifest.metrics.get("policy_version") == version:
                    return f"π{str(one.number + step).translate(_SUBSCRIPTS)}"
        return version


def read_run(path: Path) -> Run:
    """The run at `path`: a folder of rounds, or one round.

    Raises:
        ArtifactError: If there is no such folder, or no artifact in it.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path}: not found. Name a run's folder, as runs/demo.")
    if (path / MANIFEST).is_file():
        raise ArtifactError(
            f"{path}: is one artifact, and a report is about a run. Name the folder of its rounds, "
            f"as {path.parent.parent}, or look at it with: iterppo inspect {path}"
        )
    own = _round(path)
    rounds = [own] if own.places else []
    for folder in _folders(path):
        if not (folder / MANIFEST).exists() and (found := _round(folder)).places:
            rounds.append(found)
    rounds.sort(key=lambda one: (one.number is not None, one.number or 0, one.name))
    manifests = [
        place.manifest for one in rounds for place in one.places.values() if place.manifest
    ]
    if not manifests:
        damaged = [place for one in rounds for place in one.places.values()]
        why = damaged[0].trouble if damaged else "no artifact in it."
        raise ArtifactError(f"{path}: nothing to report: {why} A run has rounds, as {path}/000.")
    return Run(path, tuple(rounds), tuple(manifests))


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir() and each.name[0] != ".")


def _round(path: Path) -> Round:
    places = {
        folder.name: _place(folder) for folder in _folders(path) if (folder / MANIFEST).exists()
    }
    hidden = (each.name for each in path.iterdir() if each.is_dir() and each.name[0] == ".")
    begun = sorted({name.split(".")[1] for name in hidden} & _ARTIFACTS)
    return Round(path.resolve().name, path, _in_order(places), tuple(begun))


def _in_order(places: dict[str, Place]) -> dict[str, Place]:
    """By the order of the stages; what no stage of the table writes comes last."""
    order = [slot.place for stage in STAGES.values() for slot in stage.writes]
    return dict(
        sorted(
            places.items(),
            key=lambda item: (order.index(item[0]) if item[0] in order else len(order), item[0]),
        )
    )


def _place(path: Path) -> Place:
    try:
        manifest = read_manifest(path)
        for name, record in manifest.files.items():
            file = path / name
            if not file.is_file():
                raise ArtifactError(f"{file}: missing. Make the artifact again with --force.")
            if file.stat().st_size != record.size_bytes:
                raise ArtifactError(
                    f"{file}: {file.stat().st_size} bytes where {MANIFEST} says "
                    f"{record.size_bytes}. Make the artifact again with --force."
                )
    except ArtifactError as error:
        return Place(path.name, path, None, str(error))
    return Place(path.name, path, manifest)
