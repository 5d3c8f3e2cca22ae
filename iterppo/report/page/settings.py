"""What was set otherwise: against the round before, or, for a first round, against the defaults.

configuration of each stage, from the manifests -> Changes
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from iterppo.pipeline import STAGES
from iterppo.report.page.run import Round, Run

_ABSENT = "–"


@dataclass(frozen=True)
class Change:
    """One setting."""

    name: str
    """`ppo.clip`"""
    before: str
    after: str


@dataclass(frozen=True)
class Changes:
    """All of a round."""

    against: str
    """What the round is compared with."""
    changes: tuple[Change, ...]
    stages: tuple[str, ...]
    """Stages that were compared."""


def read_changes(run: Run, one: Round) -> Changes:
    """The settings of a round that differ from the numbered round before it."""
    own = _settings(one)
    earlier = [each for each in run.numbered if each.number is not None]
    before = earlier[earlier.index(one) - 1] if one in earlier and earlier.index(one) else None
    base = (
        _settings(before)
        if before is not None
        else {stage: STAGES[stage].config().model_dump(mode="json", by_alias=True) for stage in own}
    )
    stages = [stage for stage in own if stage in base]
    changes = [
        change for stage in stages for change in _differences(stage, base[stage], own[stage])
    ]
    if before is None:  # what a release before did not know yet was not set otherwise
        changes = [change for change in changes if change.after != _ABSENT]
    against = f"round {before.name}" if before is not None else "the defaults"
    if before is not None:
        old, new = _versions(before), _versions(one)
        changes += [
            Change(name, old[name], new[name])
            for name in new
            if name in old and old[name] != new[name]
        ]
    return Changes(against, tuple(changes), tuple(stages))


def _settings(one: Round) -> dict[str, Mapping[str, Any]]:
    """Configuration of each stage that made something here."""
    found: dict[str, Mapping[str, Any]] = {}
    for place in one.places.values():
        if place.manifest is not None and place.manifest.stage in STAGES:
            found.setdefault(place.manifest.stage, place.manifest.config)
    return {stage: found[stage] for stage in STAGES if stage in found}


def _versions(one: Round) -> dict[str, str]:
    """iterppo and the libraries, as the last artifact of a round notes them."""
    made = [place.manifest for place in one.places.values() if place.manifest is not None]
    if not made:
        return {}
    last = max(made, key=lambda manifest: manifest.created_at)
    return {"iterppo": last.iterppo_version, **last.libraries}


def _differences(
    stage: str, before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[Change]:
    old, new = dict(_flat(before)), dict(_flat(after))
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield Change(f"{stage}.{name}", _told(old, name), _told(new, name))


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _told(values: Mapping[str, Any], name: str) -> str:
    return json.dumps(values[name], ensure_ascii=False) if name in values else _ABSENT
