"""A log as what Q is fitted on: rendered conversations, with what is known of each turn."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from iterppo.lm.branches import Branch, branch_members
from iterppo.lm.q_fitting import Target
from iterppo.lm.q_function import QFunction
from iterppo.lm.rendering import Renderer, Segment, decisions
from iterppo.rl.q_targets import lambda_returns

_T = TypeVar("_T")


@dataclass(frozen=True)
class Turn:
    """A turn that has an action and fits the context."""

    row: Mapping[str, Any]
    """Of trajectories."""
    action: str
    return_: float | None
    weight: float
    state_key: str
    """The same for turns whose states are rendered alike."""


@dataclass(frozen=True)
class Conversation:
    """A conversation's turns and their rendering."""

    conversation_id: str
    split: str
    rows: Sequence[Mapping[str, Any]]
    """All turns, of trajectories."""
    rewards: Sequence[float]
    """Of all turns, of returns: outcomes, or the credit for them."""
    fates_known: Sequence[bool]
    """Whether the log shows what each turn led to."""
    segments: list[Segment]
    turns: list[list[Turn]]
    """By segment and end."""
    num_too_long: int
    num_without_action: int

    @property
    def unit(self) -> str:
        """What is independent of all else: the customer, where the log names them."""
        customer = self.rows[0].get("customer_id")
        return (
            f"conversation {self.conversation_id}" if customer is None else f"customer {customer}"
        )

    def kept_together(self, split_by: str) -> str:
        """What a split by this (`ingest.split_by`) never divides: equal for conversations that it
        keeps together. Of an opening the first line decides: of messages that follow one another
        the log's turns do not tell where the first one ended."""
        if split_by == "opening":
            texts = (row[who] or "" for row in self.rows for who in ("customer", "sent"))
            first = next((text.strip() for text in texts if text.strip()), "")
            return " ".join(first.partition("\n")[0].casefold().split())
        if split_by == "conversation":
            return self.conversation_id
        return str(self.rows[0].get(f"{split_by}_id"))

    def is_of(self, version: str) -> bool:
        """Whether this policy made all suggestions that it holds: it was trained before."""
        versions = {turn.row["policy_version"] for turns in self.turns for turn in turns}
        return versions == {version}

    def monte_carlo(self) -> Iterator[Target]:
        """Targets: the returns of the log."""
        for segment, turns in zip(self.segments, self.turns, strict=True):
            yield Target(
                self.conversation_id,
                segment,
                [math.nan if turn.return_ is None else turn.return_ for turn in turns],
                [0.0 if turn.return_ is None else turn.weight for turn in turns],
            )

    def bootstrapped(
        self, values: Mapping[int, Sequence[float]], *, gamma: float, lambda_: float
    ) -> Iterator[Target]:
        """Targets made of V⁻ of the next states, as `next_values` gives it.

        Every transition whose fate is known counts the same: see `lambda_returns`.
        """
        number = len(self.rows)
        unknown = [math.nan] * len(next(iter(values.values()), [math.nan]))
        targets, *of_members = (
            lambda_returns(
                self.rewards,
                own,
                [index == number - 1 for index in range(number)],
                self.fates_known,
                gamma=gamma,
                lambda_=lambda_,
            )
            for own in zip(*(values.get(i + 1, unknown) for i in range(number)), strict=True)
        )
        for segment in self.segments:
            found = [targets[index] for index, _ in segment.ends]
            yield Target(
                self.conversation_id,
                segment,
                found,
                [0.0 if math.isnan(target) else 1.0 for target in found],
                [[own[index] for own in of_members] for index, _ in segment.ends if of_members],
            )


def conversations_of(
    pairs: Iterable[tuple[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]]]],
    renderer: Renderer,
    *,
    system_prompt: str,
    max_tokens: int,
    fate_known_until: np.datetime64 | None,
    credited: bool = False,
) -> Iterator[Conversation]:
    """Render conversations, given as their rows of trajectories and of returns.

    Args:
        pairs: Rows of the same turns.
        renderer: Of Q.
        system_prompt: Of the policy.
        max_tokens: Q's context.
        fate_known_until: Where the log was cut by a clock, up to when it shows what followed a
            message (`iterppo.rl.censoring`).
        credited: Whether rewards are `iterppo credit`'s: of a censored conversation none is known,
            whereas outcomes are known of all turns that others follow.
    """
    for rows, paid in pairs:
        seen = list(decisions(rows, system_prompt=system_prompt))
        segments, too_long = renderer.segments(seen, max_tokens=max_tokens)
        yield Conversation(
            rows[0]["conversation_id"],
            rows[0]["split"],
            rows,
            [float(each["reward"]) for each in paid],
            [
                known and not (credited and row["censored"])
                for known, row in zip(_fates_known(rows, fate_known_until), rows, strict=True)
            ],
            segments,
            [
                [
                    Turn(
                        rows[index],
                        seen[index].action or "",
                        paid[index]["return"],
                        paid[index]["weight"],
                        _key(segment.ids[: state + 1]),
                    )
                    for (index, _), state in zip(segment.ends, segment.states, strict=True)
                ]
                for segment in segments
            ],
            len(too_long),
            sum(decision.action is None for decision in seen),
        )


def refuse_nothing_known(conversations: Sequence[Conversation], *, max_tokens: int) -> None:
    """Whatever the method: Q is fitted on, and compared with, returns that the log shows.

    Args:
        conversations: To fit on.
        max_tokens: Q's context, in which their turns had to fit.

    Raises:
        ValueError: If none of their turns has an action, fits and has a known return. It says which
            of these is to blame.
    """
    turns = [turn for c in conversations for each in c.turns for turn in each]
    too_long = sum(c.num_too_long for c in conversations)
    longer = f"longer than fit-q.max_tokens = {max_tokens}"
    if any(turn.return_ is not None and turn.weight > 0 for turn in turns):
        return
    if not turns and too_long:
        raise ValueError(f"all {too_long} training turns with an action are {longer}. Raise it")
    if not turns:
        raise ValueError(
            f"none of the {len(conversations)} training conversations has a turn with an action. "
            "Ingest more, or look at their suggestions"
        )
    left_out = f" ({too_long} more turns are {longer})" if too_long else ""
    raise ValueError(
        f"no training conversation has a known return: the {len(turns)} turns with an action are "
        f"of conversations that were open, or too recent, when the log was cut{left_out}. Look at "
        "ingest.outcomes, ingest.cutoff and ingest.idle, or wait until some have ended"
    )


def next_values(
    q: QFunction,
    conversations: Sequence[Conversation],
    actions: Mapping[tuple[str, int], Sequence[str]] | None,
) -> list[dict[int, list[float]]]:
    """V⁻ of the states of each conversation, by the turn's index: Q⁻'s, then that of each member.

    Args:
        q: Q⁻.
        conversations: Of the log.
        actions: By conversation and turn (from 1), what the policy to evaluate would do: V⁻ is the
            mean of their values. None: V⁻ is Q⁻ of the action that was logged.
    """
    if actions is None:
        flat = [segment for conversation in conversations for segment in conversation.segments]
        estimates = iter(q.estimates(flat))
        return [
            {
                index: [found.q, *found.members]
                for segment in conversation.segments
                for (index, _), found in zip(segment.ends, next(estimates), strict=True)
            }
            for conversation in conversations
        ]
    asked = of_actions(conversations, actions, lambda requests: branch_members(q, requests))
    known = [
        {n: [[v, *own] for v, own in each if not math.isnan(v)] for n, each in one.items()}
        for one in asked
    ]
    return [
        {
            n: [sum(column) / len(each) for column in zip(*each, strict=True)]
            for n, each in one.items()
            if each
        }
        for one in known
    ]


def of_actions(
    conversations: Sequence[Conversation],
    actions: Mapping[tuple[str, int], Sequence[str]],
    ask: Callable[[list[tuple[Segment, list[Branch]]]], list[list[_T]]],
) -> list[dict[int, list[_T]]]:
    """What is asked of other actions in the states of each conversation, all but the first, by the
    index of the turn.

    Args:
        conversations: Of the log.
        actions: By conversation and turn (from 1).
        ask: Of `lm.branches`.
    """
    requests: list[tuple[Segment, list[Branch]]] = []
    places: list[list[tuple[int, int]]] = []
    for number, c in enumerate(conversations):
        for segment in c.segments:
            chosen = [
                (end, index, action)
                for end, (index, _) in enumerate(segment.ends)
                if index > 0
                for action in actions.get((c.conversation_id, index + 1), ())
            ]
            requests.append((segment, [(end, action) for end, _, action in chosen]))
            places.append([(number, index) for _, index, _ in chosen])
    found: list[dict[int, list[_T]]] = [{} for _ in conversations]
    for answers, where in zip(ask(requests), places, strict=True):
        for answer, (number, index) in zip(answers, where, strict=True):
            found[number].setdefault(index, []).append(answer)
    return found


def _fates_known(rows: Sequence[Mapping[str, Any]], until: np.datetime64 | None) -> list[bool]:
    """What a turn led to is known where another turn follows, or the conversation has ended; by a
    clock, only of turns early enough for any fate to be known: of later ones, replies are known and
    silences are not."""
    early = [
        until is None
        or all(
            time is None or np.datetime64(time.replace(tzinfo=None), "us") <= until
            for time in (row["customer_time"], row["sent_time"])
        )
        for row in rows
    ]
    return [
        is_early and (number < len(rows) - 1 or not row["censored"])
        for number, (row, is_early) in enumerate(zip(rows, early, strict=True))
    ]


def _key(ids: Sequence[int]) -> str:
    return hashlib.blake2b(np.asarray(ids, dtype=np.int64).tobytes(), digest_size=12).hexdigest()
