"""Turns as a person reads them: what the customer wrote, what was suggested, what was sent, and
what is known of it by now.

    trajectories, and where a round has them returns and q, of the same turns -> conversations
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iterppo.artifact import MANIFEST, Artifact, Stretch, locate, open_artifact, read_manifest
from iterppo.errors import ArtifactError

_WIDTH = 300
_LABEL = 11
_BESIDE = {"returns": ("return", "weight"), "q": ("q", "q_spread", "v")}


def turns_of(artifact: Artifact) -> Artifact | None:
    """The trajectories whose turns the artifact is about; itself, where it is one."""
    if artifact.manifest.kind == "trajectories":
        return artifact
    record = artifact.manifest.inputs.get("trajectories")
    if record is None or artifact.manifest.kind not in _BESIDE:
        return None
    path, found = locate(record, near=artifact.path)
    if path is None or found != "found":
        return None
    try:
        return open_artifact(path, "trajectories", verify=False)
    except ArtifactError:
        return None


def beside(turns: Artifact, *, folder: Path) -> dict[str, Artifact]:
    """Returns and q of these very turns that lie in the folder, by kind."""
    found = {}
    for kind in _BESIDE:
        if not (folder / kind / MANIFEST).is_file():
            continue
        try:
            record = read_manifest(folder / kind, kind).inputs.get("trajectories")
            if record is not None and record.digest == turns.manifest.digest:
                found[kind] = open_artifact(folder / kind, kind, verify=False)
        except ArtifactError:
            continue
    return found


def conversation_rows(source: Stretch, conversation: str) -> list[dict[str, Any]]:
    """The rows of one conversation, which are neighbours; every batch before them is passed by."""
    found: list[dict[str, Any]] = []
    for batch in source.batches():
        chosen = batch.filter(pc.equal(batch.column("conversation_id"), conversation))
        found += chosen.to_pylist()
        if found and not chosen.num_rows:
            break
    return found


def with_more(turns: Sequence[dict[str, Any]], more: Mapping[str, Stretch]) -> list[dict[str, Any]]:
    """Turns with the columns that returns and q have for them; of those without, none."""
    joined = [dict(turn) for turn in turns]
    for kind, source in more.items():
        columns = _BESIDE[kind]
        known = _by_turn(source, {turn["conversation_id"] for turn in turns}, columns)
        for turn in joined:
            turn |= known.get((turn["conversation_id"], turn["turn"]), {})
    return joined


def conversation_lines(turns: Iterable[Mapping[str, Any]], *, whole: bool) -> list[str]:
    """Turns, a head for every conversation; long messages are cut unless `whole`."""
    lines = []
    for name, group in itertools.groupby(turns, key=lambda turn: turn["conversation_id"]):
        members = list(group)
        lines.append(f"conversation {printable(name)} ({_fate(members)})")
        for turn in members:
            lines += _turn_lines(turn, whole=whole)
    return lines


def log_lines(conversation: Any, *, whole: bool) -> list[str]:
    """A conversation of a log, as its line has it."""
    outcome = (
        "outcome unknown" if conversation.outcome is None else f"outcome {conversation.outcome}"
    )
    unfinished = ", unfinished" if conversation.unfinished else ""
    lines = [f"conversation {printable(conversation.conversation_id)} ({outcome}{unfinished})"]
    for message in conversation.messages:
        if message.knows_suggestion and isinstance(message.suggestion, str):
            lines += message_lines("suggested", message.suggestion, whole=whole)
        lines += message_lines(str(message.role), message.content, whole=whole)
        if isinstance(message.adoption, str):
            lines.append(f"    adoption {message.adoption}")
    return lines


def printable(text: str) -> str:
    """Text of a log without what a terminal would obey.

    >>> printable("a\\x1b[2Jb π")
    'a\\\\x1b[2Jb π'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _turn_lines(turn: Mapping[str, Any], *, whole: bool) -> Iterator[str]:
    moment = turn.get("customer_time") or turn.get("sent_time")
    yield f"  turn {turn['turn']}" + ("" if moment is None else f", {moment:%Y-%m-%d %H:%M} UTC")
    if turn["customer"] is None:
        yield f"    {'customer':<{_LABEL}}(the business opened)"
    else:
        yield from message_lines("customer", turn["customer"], whole=whole)
    if turn["suggestion"] is not None:
        yield from message_lines("suggested", turn["suggestion"], whole=whole)
    elif turn["adoption"] == "abstained":
        yield f"    {'suggested':<{_LABEL}}(nothing: it abstained)"
    if turn["sent"] is None:
        yield f"    {'sent':<{_LABEL}}(nothing)"
    else:
        yield from message_lines("sent", turn["sent"], whole=whole)
    if turn["customer_after"] is not None:
        yield from message_lines("customer", turn["customer_after"], whole=whole)
    yield f"    {_numbers(turn)}"


def _numbers(turn: Mapping[str, Any]) -> str:
    parts = []
    if turn["adoption"] is not None:
        distance = turn["edit_distance"]
        parts.append(turn["adoption"] + ("" if distance is None else f" (distance {distance:.2f})"))
    parts.append(f"reward {turn['reward']:g}")
    if "weight" in turn:
        paid = turn["return"]
        parts.append("return unknown" if paid is None else f"return {paid:.3f}")
    if turn.get("q") is not None:
        spread = turn.get("q_spread")
        parts.append(f"Q̂ {turn['q']:.3f}" + ("" if spread is None else f" ± {spread:.3f}"))
    if turn.get("v") is not None:
        parts.append(f"V̂ {turn['v']:.3f}")
    return ", ".join(parts)


def _fate(turns: Sequence[Mapping[str, Any]]) -> str:
    last = turns[-1]
    if last["censored"]:
        fate = "still open when the log was cut"
    elif not last["done"]:
        fate = "more turns follow"
    else:
        fate = "outcome reached" if last["reward"] else "ended without the outcome"
    return f"{last['split']}, {fate}"


def message_lines(label: str, text: str, *, whole: bool) -> list[str]:
    """A text of one or several lines behind a label."""
    shown = text if whole or len(text) <= _WIDTH else f"{text[:_WIDTH]} …"
    first, *others = shown.split("\n")
    return [
        f"    {label:<{_LABEL}}{printable(first)}",
        *(f"    {'':<{_LABEL}}{printable(line)}" for line in others),
    ]


def _by_turn(
    source: Stretch, ids: set[str], columns: Sequence[str]
) -> dict[tuple[str, int], dict[str, Any]]:
    known: dict[tuple[str, int], dict[str, Any]] = {}
    seen: set[str] = set()
    wanted = pa.array(sorted(ids), type=pa.string())
    for batch in source.batches(["conversation_id", "turn", *columns]):
        chosen = batch.filter(pc.is_in(batch.column("conversation_id"), value_set=wanted))
        if seen == ids and not chosen.num_rows:
            break
        for row in chosen.to_pylist():
            seen.add(row["conversation_id"])
            place = (row["conversation_id"], row["turn"])
            known[place] = {name: row[name] for name in columns}
    return known


def common_folder(path: Path) -> Path:
    """The round that an artifact lies in."""
    return Path(os.path.abspath(path)).parent
