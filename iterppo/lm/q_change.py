"""Two Q-functions on the same turns: what each says, where both can.

    q of round k − 1, q of round k, turns of a log -> values side by side

Each Q renders by its own tokenizer and for its own context, behind the system prompt of the policy
that it was fitted for: that is how it has met states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from iterppo.artifact import Artifact, locate_as_named
from iterppo.errors import ArtifactError, DataError
from iterppo.lm.policy import load_settings, prepare_libraries
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import decisions

Rows = Sequence[Mapping[str, Any]]
Place = tuple[int, int]
"""(number of the conversation, index of the turn in it)."""


@dataclass(frozen=True)
class QChange:
    """Values of the turns that both can score, in the order of the log; in discounted outcomes."""

    conversation_ids: list[str]
    previous: list[float]
    this: list[float]
    num_only_previous: int
    """Turns that are too long for the context of this Q, and not of the previous one's."""
    num_only_this: int
    num_neither: int


def q_change(previous: Artifact, this: Artifact, conversations: Sequence[Rows]) -> QChange:
    """Score every turn that has an action with both.

    Args:
        previous: Artifact of kind q, of the round before.
        this: Artifact of kind q.
        conversations: Rows of trajectories from turn 1 on.

    Raises:
        ArtifactError: If a Q cannot be loaded, or the policy that it was fitted for is gone.
        DataError: If there is no turn that both can score.
    """
    prepare_libraries()
    prompts = [_system_prompt(each) for each in (previous, this)]
    before, after = (
        _values(QFunction.load(each.path / "model"), conversations, system_prompt=prompt)
        for each, prompt in zip((previous, this), prompts, strict=True)
    )
    both = [p for p in before if before[p] is not None and after[p] is not None]
    if not both:
        raise DataError(
            f"{previous.path}, {this.path}: not one of {len(before)} turns fits the contexts of "
            "both. Fit Q with a larger fit-q.max_tokens."
        )
    return QChange(
        [str(conversations[number][0]["conversation_id"]) for number, _ in both],
        [value for place in both if (value := before[place]) is not None],
        [value for place in both if (value := after[place]) is not None],
        sum(before[p] is not None and after[p] is None for p in before),
        sum(before[p] is None and after[p] is not None for p in before),
        sum(before[p] is None and after[p] is None for p in before),
    )


def _system_prompt(q: Artifact) -> str:
    """Of the policy that Q was fitted for, which must still be what it was."""
    record = q.manifest.inputs.get("policy")
    if record is None:
        raise ArtifactError(
            f"{q.path}: its manifest does not name the policy that it was fitted for, and only it "
            "knows the system prompt of Q's states. Fit Q again."
        )
    path, found = locate_as_named(record, near=q.path)
    if path is None:
        raise ArtifactError(
            f"{record.path}: not found, the policy that {q.path} was fitted for, and only it knows "
            "the system prompt of Q's states. Put it back, or fit Q again."
        )
    if found == "changed":
        raise ArtifactError(
            f"{path}: changed since {q.path} was fitted for it, so the system prompt of Q's states "
            "is not known. Put it back, or fit Q again."
        )
    return load_settings(path).system_prompt


def _values(
    q: QFunction, conversations: Sequence[Rows], *, system_prompt: str
) -> dict[Place, float | None]:
    """Q̂ of every turn with an action; None where it exceeds the context."""
    q.use_accelerator()
    segments, numbers = [], []
    found: dict[Place, float | None] = {}
    for number, rows in enumerate(conversations):
        turns = list(decisions(rows, system_prompt=system_prompt))
        of_rows, _ = q.renderer.segments(turns, max_tokens=q.settings.max_tokens)
        segments += of_rows
        numbers += [number] * len(of_rows)
        found |= {(number, i): None for i, turn in enumerate(turns) if turn.action is not None}
    for number, segment, values in zip(numbers, segments, q.segment_values(segments), strict=True):
        for (index, _), value in zip(segment.ends, values, strict=True):
            found[number, index] = value
    return found
