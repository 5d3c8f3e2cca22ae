"""Conversations -> turns: joining, cutting after the outcome, rewards, as columns.

    LogConversation + Label -> rows of trajectories@2

Consecutive messages of one side are joined (paper, footnote 1). The reward r_{i+1} = o_{i+1} is
credited to the transition out of the last (s_i, a_i) before the outcome, whether a customer's or a
business's message carries it. Messages after it are cut: the conversation ended there (absorbing).
A conversation whose outcome was reached before any decision has no turns.

Many conversations are worked on together, column by column, their messages laid end to end. Shapes:
C conversations, M messages, S sides (consecutive messages of one role), T turns; `owner` is the
conversation that each belongs to.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema
from iterppo.logs.censoring import is_censored
from iterppo.logs.outcomes import Label, combine, from_conversation, from_marks
from iterppo.logs.records import LogConversation, LogMessage
from iterppo.logs.suggestions import Adoptions, derive_adoptions, said_together, text_or_none
from iterppo.logs.time_columns import time_column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]


class Cut(NamedTuple):
    """A conversation, and what is known of its end."""

    conversation: LogConversation
    label: Label
    censored: bool
    split: str
    facts: str | None = None


@dataclass(frozen=True)
class _Sides:
    """Consecutive messages of one role. `spoken` are the messages that take part: not cut, and
    either with a text or a decision of the assistant."""

    spoken: Array
    """Indices of messages."""
    start_S: Array
    """Where in `spoken` each side begins."""
    owner_S: Array
    is_customer_S: Array
    texts: list[str | None]
    num_cut: int
    num_blank: int

    def messages_of(self, side: int) -> Array:
        """Indices of the messages that a side was joined from."""
        end = self.start_S[side + 1] if side + 1 < len(self.start_S) else len(self.spoken)
        return self.spoken[self.start_S[side] : end]

    def last_message_S(self) -> Array:
        """Index of each side's last message."""
        import numpy as np

        return self.spoken[np.append(self.start_S[1:], len(self.spoken))[: len(self.start_S)] - 1]


@dataclass(frozen=True)
class _Turns:
    """c_i and m_i of each turn, as indices of sides; -1 where there is none."""

    owner_T: Array
    customer_T: Array
    business_T: Array
    after_T: Array
    """c_{i+1} where it came with the outcome."""


class TurnTable:
    """Turns of many conversations."""

    def __init__(self, adoptions: Adoptions | None = None) -> None:
        self.adoptions = adoptions or Adoptions()
        self.counts: Counter[str] = Counter()
        self.num_messages = 0
        self._cuts: list[Cut] = []

    def add(self, cut: Cut) -> None:
        """Append a conversation."""
        self._cuts.append(cut)
        self.num_messages += len(cut.conversation.messages)

    def __len__(self) -> int:
        return len(self._cuts)

    def take(self) -> pa.Table:
        """The turns of what was added since the last call, as a table of trajectories@2; what
        became of the messages is added to `counts`."""
        cuts, self._cuts, self.num_messages = self._cuts, [], 0
        messages = [message for cut in cuts for message in cut.conversation.messages]
        sides = _join(cuts, messages)
        turns = _pair(cuts, sides)
        self._count(cuts, len(messages), sides, turns)
        time_M = time_column([message.time for message in messages])
        self.counts["conversations_with_times_backwards"] += _count_backwards(time_M, sides)
        return _table(cuts, messages, time_M, sides, turns, self.adoptions)

    def _count(self, cuts: Sequence[Cut], num_messages: int, sides: _Sides, turns: _Turns) -> None:
        import numpy as np

        has_turns_C = np.zeros(len(cuts), dtype=bool)
        has_turns_C[turns.owner_T] = True
        counts = self.counts
        counts["messages"] += num_messages
        counts["messages_ignored"] += sum(cut.conversation.ignored for cut in cuts)
        counts["messages_cut_after_outcome"] += sides.num_cut
        counts["messages_blank"] += sides.num_blank
        counts["messages_joined"] += len(sides.spoken) - len(sides.owner_S)
        counts["sides"] += len(sides.owner_S)
        counts["turns"] += len(turns.owner_T)
        counts["conversations"] += len(cuts)
        counts["conversations_without_turns"] += int(np.sum(~has_turns_C))
        with_turns = list(itertools.compress(cuts, has_turns_C.tolist()))
        censored = sum(cut.censored for cut in with_turns)
        counts["conversations_censored"] += censored
        counts["conversations_terminal"] += len(with_turns) - censored
        counts["outcomes"] += sum(bool(cut.label.reached) for cut in with_turns)
        for split, number in Counter(cut.split for cut in with_turns).items():
            counts[f"conversations_{split}"] += number


def _join(cuts: Sequence[Cut], messages: Sequence[LogMessage]) -> _Sides:
    """Leave out what was cut and what is blank, and join what is left by role."""
    import numpy as np

    num_M = len(messages)
    num_messages_C = np.fromiter((len(cut.conversation.messages) for cut in cuts), np.int64)
    owner_M = np.repeat(np.arange(len(cuts)), num_messages_C)
    last_kept_C = np.fromiter(
        (num_M if cut.label.position is None else cut.label.position for cut in cuts), np.int64
    )
    start_C = np.cumsum(num_messages_C) - num_messages_C
    kept_M = np.arange(num_M) <= (start_C + last_kept_C)[owner_M]
    content = [message.content for message in messages]
    blank_M = np.fromiter([not text or text.isspace() for text in content], bool, num_M)
    silent_M = blank_M.copy()
    for number in np.flatnonzero(blank_M & kept_M).tolist():
        silent_M[number] = not messages[number].is_decision
    spoken = np.flatnonzero(kept_M & ~silent_M)
    is_customer_M = np.fromiter([m.role == "customer" for m in messages], bool, num_M)
    owner, is_customer = owner_M[spoken], is_customer_M[spoken]
    begins = np.ones(len(spoken), dtype=bool)
    begins[1:] = (owner[1:] != owner[:-1]) | (is_customer[1:] != is_customer[:-1])
    start_S = np.flatnonzero(begins)
    length_S = np.diff(start_S, append=len(spoken))
    texts: list[str | None] = [content[number] for number in spoken[start_S].tolist()]
    for side in np.flatnonzero(blank_M[spoken[start_S]]).tolist():
        texts[side] = None  # a decision after which nothing was sent
    for side in np.flatnonzero(length_S > 1).tolist():
        start = start_S[side]
        parts = (content[number] for number in spoken[start : start + length_S[side]].tolist())
        texts[side] = "\n".join(text for text in parts if text and not text.isspace()) or None
    return _Sides(
        spoken=spoken,
        start_S=start_S,
        owner_S=owner[start_S],
        is_customer_S=is_customer[start_S],
        texts=texts,
        num_cut=int(np.sum(~kept_M)),
        num_blank=int(np.sum(kept_M & silent_M)),
    )


def _pair(cuts: Sequence[Cut], sides: _Sides) -> _Turns:
    """A turn begins with a customer's side, or with the business where it opens."""
    import numpy as np

    num_S = len(sides.owner_S)
    opens_S = np.ones(num_S, dtype=bool)
    opens_S[1:] = sides.owner_S[1:] != sides.owner_S[:-1]
    first_T = np.flatnonzero(sides.is_customer_S | opens_S)
    num_T = len(first_T)
    last_T = np.append(first_T[1:], num_S)[:num_T] - 1
    owner_T = sides.owner_S[first_T]
    customer_T = np.where(sides.is_customer_S[first_T], first_T, -1)
    business_T = np.where(sides.is_customer_S[last_T], -1, last_T)
    # A closing customer message is a state in which the business stopped responding, unless the
    # outcome came with it: then no decision followed.
    closes_T = np.ones(num_T, dtype=bool)
    closes_T[:-1] = owner_T[1:] != owner_T[:-1]
    reached_C = np.fromiter((bool(cut.label.reached) for cut in cuts), bool, len(cuts))
    is_after_T = closes_T & (business_T < 0) & reached_C[owner_T]
    after_T = np.full(num_T, -1)
    after_T[:-1] = np.where(
        is_after_T[1:] & (owner_T[1:] == owner_T[:-1]), customer_T[1:], after_T[:-1]
    )
    is_turn_T = ~is_after_T
    return _Turns(
        owner_T[is_turn_T], customer_T[is_turn_T], business_T[is_turn_T], after_T[is_turn_T]
    )


def _count_backwards(time_M: pa.Array, sides: _Sides) -> int:
    """Conversations that have a message which is older than one before it. Their order stays that
    of the log: clocks err more often than what writes messages down."""
    import numpy as np
    import pyarrow as pa

    if time_M.null_count == len(time_M):
        return 0
    is_known = time_M.is_valid().to_numpy(zero_copy_only=False)[sides.spoken]
    moments = time_M.cast(pa.int64()).fill_null(0).to_numpy()[sides.spoken][is_known]
    owner = np.repeat(sides.owner_S, np.diff(sides.start_S, append=len(sides.spoken)))[is_known]
    is_backwards = (moments[1:] < moments[:-1]) & (owner[1:] == owner[:-1])
    return len(np.unique(owner[1:][is_backwards]))


def _table(
    cuts: Sequence[Cut],
    messages: Sequence[LogMessage],
    time_M: pa.Array,
    sides: _Sides,
    turns: _Turns,
    adoptions: Adoptions,
) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    schema = arrow_schema(ROWS["trajectories"])
    num_T, owner_T = len(turns.owner_T), turns.owner_T
    conversations = [cut.conversation for cut in cuts]
    num_turns_C = np.bincount(owner_T, minlength=len(cuts))
    end_C = np.cumsum(num_turns_C)
    has_turns_C = num_turns_C > 0
    last_C = end_C[has_turns_C] - 1
    reached_C = np.fromiter((bool(cut.label.reached) for cut in cuts), bool, len(cuts))
    censored_C = np.fromiter((cut.censored for cut in cuts), bool, len(cuts))
    reward_T, done_T = np.zeros(num_T), np.zeros(num_T, dtype=bool)
    reward_T[last_C] = reached_C[has_turns_C]
    done_T[last_C] = ~censored_C[has_turns_C]
    text_S = pa.array(sides.texts, pa.string())
    time_S = time_M.take(pa.array(sides.last_message_S()))
    sent = _pick(sides.texts, turns.business_T)
    columns: dict[str, Any] = {
        "turn": np.arange(num_T) - (end_C - num_turns_C)[owner_T] + 1,
        "customer": _take(text_S, turns.customer_T),
        "sent": sent,
        "outcome_before": np.zeros(num_T, dtype=bool),
        "reward": reward_T,
        "done": done_T,
        "censored": censored_C[owner_T],
        "customer_after": _take(text_S, turns.after_T),
        "customer_time": _take(time_S, turns.customer_T),
        "sent_time": _take(time_S, turns.business_T),
    }
    columns |= _suggestions(messages, sides, turns, sent, adoptions)
    owner = pa.array(owner_T)
    of_conversation: dict[str, list[Any]] = {
        "split": [cut.split for cut in cuts],
        "facts": [cut.facts for cut in cuts],
    }
    for name in ("conversation_id", "policy_version", "persona", "customer_id", "business_id"):
        of_conversation[name] = [getattr(one, name) or None for one in conversations]
    for name, values in of_conversation.items():
        column = pa.array(values, schema.field(name).type).take(owner)
        own = columns.get(name)
        columns[name] = column if own is None else _coalesce(own, column)
    return pa.table([_as_array(columns[f.name], f.type, num_T) for f in schema], schema=schema)


def _suggestions(
    messages: Sequence[LogMessage],
    sides: _Sides,
    turns: _Turns,
    sent: Sequence[str | None],
    adoptions: Adoptions,
) -> dict[str, Any]:
    """The columns of a_i; None for a column without values."""
    import numpy as np

    suggestion_M = [message.suggestion for message in messages]
    given_M = [message.adoption for message in messages]
    fields: dict[str, list[Any]] = {
        "suggestion_logprob": [message.suggestion_logprob for message in messages],
        "policy_version": [message.policy_version or None for message in messages],
        "persona": [message.persona or None for message in messages],
    }
    knows_M = [
        suggestion is not _UNSET or given is not _UNSET
        for suggestion, given in zip(suggestion_M, given_M, strict=True)
    ]
    knows_any = any(knows_M)
    fields = {name: values for name, values in fields.items() if any(v is not None for v in values)}
    columns: dict[str, Any] = dict.fromkeys(_ABOUT_SUGGESTIONS)
    if not knows_any and not fields:
        return columns
    # Nearly every side is one message; what several say together is worked out one by one.
    first_S = sides.spoken[sides.start_S]
    first_T = np.where(turns.business_T < 0, -1, first_S[turns.business_T])
    length_S = np.diff(sides.start_S, append=len(sides.spoken))
    several = np.flatnonzero((turns.business_T >= 0) & (length_S[turns.business_T] > 1)).tolist()
    together = {
        turn: said_together([messages[n] for n in sides.messages_of(turns.business_T[turn])])
        for turn in several
    }
    columns |= {name: _pick(values, first_T) for name, values in fields.items()}
    for turn, said in together.items():
        for name in fields:
            columns[name][turn] = getattr(said, name.removeprefix("suggestion_"))
    if knows_any:
        is_answer_S = ~sides.is_customer_S
        spoken_by_business = sides.spoken[np.repeat(is_answer_S, length_S)]
        owner = np.repeat(sides.owner_S, length_S)[np.repeat(is_answer_S, length_S)]
        knows_C = np.zeros(int(sides.owner_S.max(initial=-1)) + 1, dtype=bool)
        knows_C[owner[np.asarray(knows_M)[spoken_by_business]]] = True
        suggestion = [text_or_none(value) for value in _pick(suggestion_M, first_T)]
        given = [value or None for value in _pick(given_M, first_T)]
        for turn, said in together.items():
            suggestion[turn], given[turn] = said.suggestion, said.adoption
        columns["adoption"], columns["edit_distance"] = derive_adoptions(
            suggestion, sent, given, knows_C[turns.owner_T].tolist(), adoptions
        )
        columns["suggestion"] = suggestion
    return columns


_UNSET = msgspec.UNSET
_ABOUT_SUGGESTIONS = (
    "suggestion",
    "adoption",
    "edit_distance",
    "suggestion_logprob",
    "policy_version",
    "persona",
)


def _pick(values: Sequence[Any], index_T: Array) -> list[Any]:
    """Values by index; None for -1."""
    if len(index_T) and index_T.min() >= 0:
        return [values[index] for index in index_T.tolist()]
    return [None if index < 0 else values[index] for index in index_T.tolist()]


def _take(values: pa.Array, index_T: Array) -> pa.Array:
    """Values by index; null for -1."""
    import pyarrow as pa

    return values.take(pa.array(index_T, mask=index_T < 0))


def _coalesce(own: list[Any], default: pa.Array) -> pa.Array:
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.coalesce(pa.array(own, default.type), default)


def _as_array(values: Any, type_: pa.DataType, length: int) -> pa.Array:
    import pyarrow as pa

    if values is None:
        return pa.nulls(length, type_)
    if isinstance(values, list):
        return pa.array(values, type_)
    return (values if isinstance(values, pa.Array) else pa.array(values)).cast(type_)


def turns_of(conversation: LogConversation) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The turns of one conversation by its own labels, as rows, and what was counted on the way."""
    label = combine([from_marks([conversation])[0], from_conversation([conversation])[0]])
    table = TurnTable()
    table.add(Cut(conversation, label, is_censored(conversation, label, None), "train"))
    return table.take().to_pylist(), table.counts
