"""Whether the artifacts of a run are up to date: what their stages would say, asked without running
them.

An artifact is fresh where the stage that made it, given the same settings and what lies today where
its inputs lay, would say `up to date`: the same records of inputs and the same fingerprint decide
(`iterppo.execution`). Settings are taken from the manifest: what a configuration file holds by now
is not considered.
"""

from __future__ import annotations

import copy
import glob
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from iterppo.artifact import (
    MANIFEST,
    InputRecord,
    Manifest,
    fingerprint,
    is_elsewhere,
    is_up_to_date,
    open_artifact,
    standing,
)
from iterppo.artifact.placing import begun_beside, is_held, owner_of
from iterppo.errors import ArtifactError, IterPPOError
from iterppo.execution import input_records
from iterppo.pipeline import BEHAVIOUR, STAGES, Stage

State = Literal[
    "fresh", "stale", "unknown", "damaged", "running", "half-written", "interrupted", "missing"
]
_WORST_FIRST: tuple[State, ...] = (
    "running",
    "damaged",
    "half-written",
    "interrupted",
    "missing",
    "stale",
    "unknown",
    "fresh",
)


@dataclass(frozen=True)
class Freshness:
    """The state of an artifact, and why it is not fresh."""

    path: Path
    state: State
    stage: str
    reasons: tuple[str, ...] = ()


def run_freshness(run: Path) -> dict[str, dict[str, list[Freshness]]]:
    """Per round and stage the artifacts that are there, or should be.

    `run` holds rounds, or is one. A place that an optional input names and that nobody made is not
    listed.

    Raises:
        ArtifactError: If it is not there, or holds no round.
    """
    if not run.is_dir():
        raise ArtifactError(f"{run}: not found, expected a run. Check the path.")
    rounds = [run] if is_round(run) else [path for path in _folders(run) if is_round(path)]
    if not rounds:
        raise ArtifactError(
            f"{run}: holds no round. Name a run, as runs/shop, or a round, as runs/shop/000."
        )
    return {
        (path.name or str(path.resolve().name)): round_freshness(path)
        for path in sorted(rounds, key=lambda path: path.name)
    }


def round_freshness(folder: Path) -> dict[str, list[Freshness]]:
    """The artifacts of a round by the stage that makes them, those beyond the convention too."""
    found: dict[str, list[Freshness]] = {name: [] for name in STAGES}
    conventional = {slot.place for stage in STAGES.values() for slot in stage.writes}
    for stage in STAGES.values():
        for slot in stage.writes:
            found[stage.name].append(freshness(folder / slot.place, stage.name))
    for path in _folders(folder):
        if path.name not in conventional and (path / MANIFEST).is_file():
            one = freshness(path, "")
            found.setdefault(one.stage, []).append(one)
    return found


def worst(states: list[Freshness]) -> State:
    """The state of a stage: that of the artifact which is worst off."""
    return min((one.state for one in states), key=_WORST_FIRST.index, default="missing")


def is_round(folder: Path) -> bool:
    """Whether artifacts lie in the folder, finished or not, in places of the convention."""
    names = {slot.place for stage in STAGES.values() for slot in stage.writes}
    return any(
        (folder / name / MANIFEST).is_file() or next(folder.glob(f".{name}.*"), None) is not None
        for name in names
    )


def freshness(path: Path, stage: str) -> Freshness:
    """What the stage would say of its artifact at `path`."""
    running, half = leftovers(path)
    if running:
        reason = f"{owner_of(running[0])} is at work on it"
        return Freshness(path, "running", stage, (reason,))
    if not (path / MANIFEST).is_file():
        if half:
            return Freshness(path, "half-written", stage, (f"{half[0].name} was left behind",))
        if path.is_dir():
            return Freshness(path, "half-written", stage, (f"it has no {MANIFEST}",))
        if (kept := training_checkpoint(path)) is not None:
            reason = f"the stage goes on from {kept.name}"
            return Freshness(path, "interrupted", stage, (reason,))
        return Freshness(path, "missing", stage)
    try:
        manifest = open_artifact(path).manifest
    except ArtifactError as error:
        return Freshness(path, "damaged", stage, (str(error),))
    stage = stage or manifest.stage
    if manifest.stage not in STAGES:
        return Freshness(path, "unknown", stage, (f"no stage is called {manifest.stage}",))
    return Freshness(path, *_compared(path, manifest))


def leftovers(path: Path) -> tuple[list[Path], list[Path]]:
    """Folders in which an artifact is being written: of runs that are at work, and of those that
    were killed."""
    begun = begun_beside(path)
    held = [one for one in begun if is_held(one)]
    return held, [one for one in begun if one not in held]


def training_checkpoint(path: Path) -> Path | None:
    """What a training that was killed goes on from."""
    return next(iter(sorted(path.parent.glob(f".{path.name}.checkpoint*"))), None)


def _compared(path: Path, manifest: Manifest) -> tuple[State, str, tuple[str, ...]]:
    stage = STAGES[manifest.stage]
    reasons: list[str] = []
    given: dict[str, Any] = {"logs": []}
    arguments: dict[str, Path | None] = {slot.name: None for slot in stage.reads}
    unknown: list[str] = []
    files: dict[str, tuple[Path, Path]] = {}
    made_in = _made_in(stage, manifest, near=path)
    for name, record in manifest.inputs.items():
        there = None if is_elsewhere(record) else _lies_today(record, near=path, made_in=made_in)
        if is_elsewhere(record):
            unknown.append(f"its input {name}, {record.path}, is not looked up from here")
        elif there is None:
            reasons.append(f"its input {name}, {record.path}, is not there any more")
        elif name in arguments:
            arguments[name] = there
        elif name.startswith("log "):
            given["logs"].append(str(there))
        elif name.startswith("earlier ") and name.endswith(" trajectories"):
            given.setdefault("earlier", []).append(there.parent)
        elif name.startswith("environment "):
            given.setdefault("environment", []).append(there)
        else:
            files[name] = (Path(record.path), there)
    if reasons or unknown:
        return ("stale" if reasons else "unknown"), stage.name, (*reasons, *unknown)
    try:
        config = _in_its_places(manifest.config, files)
        records = _records_today(stage, arguments, given, config)
    except (IterPPOError, OSError, ValidationError) as error:
        first = str(error).splitlines()[0]
        return "stale", stage.name, (f"its stage would not take its inputs: {first}",)
    if is_up_to_date(path, fingerprint(stage.name, manifest.config, records)):
        return "fresh", stage.name, ()
    for name in sorted({*records, *manifest.inputs}):
        now, then = records.get(name), manifest.inputs.get(name)
        if now is None or then is None or now.digest != then.digest:
            reasons.append(f"its input {name} changed since")
    if not reasons:
        reasons.append("the code of iterppo changed since")
    return "stale", stage.name, tuple(reasons)


def _made_in(stage: Stage, manifest: Manifest, *, near: Path) -> Path | None:
    """The round, as it was named, that most of the inputs lay in which by convention lie there.

    None where the artifact lies in another round than they do and is no copy of one beside them: it
    was made of that round's inputs, as π_0 is of `scripted/trajectories`.
    """
    records = [
        manifest.inputs[slot.name]
        for slot in stage.reads
        if slot.place != BEHAVIOUR and slot.name in manifest.inputs
    ]
    rounds = Counter(Path(record.path).parent for record in records)
    made_in = next((folder for folder, _ in rounds.most_common(1)), None)
    of_it = (record for record in records if Path(record.path).parent == made_in)
    there = next((path for one in of_it if (path := standing(one, near=near)) is not None), None)
    if there is None or there.parent.resolve() == near.parent.resolve():
        return made_in
    return made_in if (there.parent / near.name).exists() else None


def _lies_today(record: InputRecord, *, near: Path, made_in: Path | None) -> Path | None:
    """What lies where an input lay, seen from the artifact.

    A round, or a run, that was copied has inputs of its own. They count, whatever they hold by now:
    the stage would read them, although the ones that it was copied from may still be as they were.
    """
    named = Path(record.path)
    own: Path | None = None
    if named.parent == made_in:
        own = near.parent / named.name
    elif made_in is not None and named.parent.parent == made_in.parent:  # of a round before it
        own = near.absolute().parent.parent / named.parent.name / named.name
    return own if own is not None and own.exists() else standing(record, near=near)


def _records_today(
    stage: Stage, arguments: dict[str, Path | None], given: dict[str, Any], config: dict[str, Any]
) -> dict[str, InputRecord]:
    """The records of the inputs, as the stage itself makes them."""
    if stage.name == "ingest":
        from iterppo.logs.sources import find_logs

        given = {"logs": find_logs(given["logs"], None)}
    return input_records(stage, arguments, given, stage.config.model_validate(config))


def _in_its_places(
    config: Mapping[str, Any], files: Mapping[str, tuple[Path, Path]]
) -> dict[str, Any]:
    """The configuration with the files that it names where they were found: a relative path in it
    begins in the folder that the stage ran in, which need not be this one.

    `files` are, by the names of the records, how each file was named and where it lies.
    """
    placed = copy.deepcopy(dict(config))
    models = [("classifier {name}", each) for each in placed.get("classifiers", ())]
    for number, outcome in enumerate(placed.get("outcomes", ())):
        if one := files.get(f"outcome {number}, file 0"):
            outcome["file"] = _pattern_at(outcome["file"], *one)
        models.append((f"outcome {number}", outcome))
    models.append(("model", placed))
    for record, table in models:
        if one := files.get(f"{record.format(**table)} 0"):
            table["model"] = str(one[1].parent)
    if one := files.get("lexicon 0"):
        placed["lexicon"] = str(one[1])
    return placed


def _pattern_at(pattern: str, named: Path, there: Path) -> str:
    """The path or glob as which `named` was found, for where it lies today."""
    parts = Path(pattern).parts
    if named == there or len(parts) != len(named.parts):  # `**` stands for any number of them
        return pattern
    pairs = zip(reversed(named.parts), reversed(there.parts), strict=False)
    num_same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    folder = there.parents[num_same - 1]
    return str(Path(glob.escape(str(folder)), *parts[-num_same:]))


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != ".")
