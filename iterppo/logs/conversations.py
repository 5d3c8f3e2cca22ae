"""Conversations -> turns: joining, cutting after the outcome, rewards, as columns.

    LogConversation + Label -> rows of trajectories@2

Consecutive messages of one side are joined (paper, footnote 1). The reward r_{i+1} = o_{i+1} is
credited to the transition out of the last (s_i, a_i) before the outcome, whether a customer's or a
business's message carries it. Messages after it are cut: the conversation ended there (absorbing).
A conversation whose outcome was reached before any decision has no turns.

Many conversations are worked on together, column by column, their messages laid end to end. Shapes:
C conversations, M messages, B messages of the business, P messages that take part, S sides
(consecutive messages of one role), T turns; `owner` is the conversation that each belongs to.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema
from iterppo.logs.censoring import is_censored
from iterppo.logs.message_columns import Messages
from iterppo.logs.outcomes import Label, combine, from_conversation, from_marks
from iterppo.logs.records import LogConversation
from iterppo.logs.suggestions import Adoptions, derive_adoptions

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]


class Cut(msgspec.Struct, gc=False):
    """A conversation, and what is known of its end."""

    conversation: LogConversation
    label: Label
    censored: bool
    split: str
    facts: str | None = None


class TurnTable:
    """Turns of many conversations."""

    def __init__(self, adoptions: Adoptions | None = None) -> None:
        self.adoptions = adoptions or Adoptions()
        self.counts: Counter[str] = Counter()
        self.num_messages = 0
        self._waiting: list[Cut] = []
        self.num_waiting = 0
        """Messages that are not in columns yet."""
        self._messages: list[Messages] = []
        self._known: defaultdict[str, list[Any]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._known["length"]) + len(self._waiting)

    def add(self, *cuts: Cut) -> None:
        """Append conversations."""
        self._waiting += cuts
        num_messages = sum([len(cut.conversation.messages) for cut in cuts])
        self.num_messages += num_messages
        self.num_waiting += num_messages

    def lay_out(self, time_M: pa.Array | None = None) -> None:
        """Put what was added since the last call into columns, so that its objects can go; `time_M`
        are the times of its messages, where they are known already."""
        waiting, self._waiting, self.num_waiting = self._waiting, [], 0
        conversations = [cut.conversation for cut in waiting]
        self._messages.append(Messages.of(conversations, time_M))
        known = self._known
        known["length"] += [len(one.messages) for one in conversations]
        known["ignored"] += [one.ignored for one in conversations]
        known["position"] += [cut.label.position for cut in waiting]
        known["reached"] += [bool(cut.label.reached) for cut in waiting]
        known["censored"] += [cut.censored for cut in waiting]
        known["conversation_id"] += [one.conversation_id for one in conversations]
        known["split"] += [cut.split for cut in waiting]
        known["policy_version"] += [one.policy_version or None for one in conversations]
        known["persona"] += [one.persona or None for one in conversations]
        known["customer_id"] += [one.customer_id or None for one in conversations]
        known["business_id"] += [one.business_id or None for one in conversations]
        known["facts"] += [cut.facts for cut in waiting]

    def take(self) -> pa.Table:
        """The turns of what was added since the last call, as a table of trajectories@2; what
        became of the messages is added to `counts`."""
        if self._waiting or not self._messages:
            self.lay_out()
        messages, known = Messages.concatenate(self._messages), _Known.of(self._known)
        self._messages, self._known, self.num_messages = [], defaultdict(list), 0
        sides = _join(messages, known)
        turns = _pair(known, sides)
        self._count(messages, known, sides, turns)
        return _table(messages, known, sides, turns, self.adoptions)

    def _count(self, messages: Messages, known: _Known, sides: _Sides, turns: _Turns) -> None:
        import numpy as np

        has_turns_C = np.zeros(len(known.length_C), dtype=bool)
        has_turns_C[turns.owner_T] = True
        counts = self.counts
        counts["messages"] += len(messages)
        counts["messages_ignored"] += int(known.ignored_C.sum())
        counts["messages_cut_after_outcome"] += sides.num_cut
        counts["messages_blank"] += sides.num_blank
        counts["messages_joined"] += len(sides.message_P) - len(sides.owner_S)
        counts["sides"] += len(sides.owner_S)
        counts["turns"] += len(turns.owner_T)
        counts["conversations"] += len(has_turns_C)
        counts["conversations_without_turns"] += int(np.sum(~has_turns_C))
        censored = int(np.sum(known.censored_C & has_turns_C))
        counts["conversations_censored"] += censored
        counts["conversations_terminal"] += int(has_turns_C.sum()) - censored
        counts["conversations_with_times_backwards"] += _count_backwards(messages.time_M, sides)
        counts["outcomes"] += int(np.sum(known.reached_C & has_turns_C))
        with_turns = known.texts["split"].filter(has_turns_C)
        for one in with_turns.value_counts().to_pylist():
            counts[f"conversations_{one['values']}"] += one["counts"]


@dataclass(frozen=True)
class _Known:
    """What is known of conversations as a whole."""

    length_C: Array
    ignored_C: Array
    last_kept_C: Array
    """Number, within the conversation, of the last message that is not cut."""
    reached_C: Array
    censored_C: Array
    texts: dict[str, pa.Array]
    """By column of trajectories@2."""

    @classmethod
    def of(cls, columns: Mapping[str, Sequence[Any]]) -> _Known:
        """Columns as `TurnTable.lay_out` makes them."""
        import numpy as np
        import pyarrow as pa

        to_the_end = max(columns["length"], default=0)
        last_kept = [to_the_end if one is None else one for one in columns["position"]]
        names = (
            *("conversation_id", "split", "policy_version", "persona"),
            *("customer_id", "business_id", "facts"),
        )
        return cls(
            length_C=np.array(columns["length"], dtype=np.int64),
            ignored_C=np.array(columns["ignored"], dtype=np.int64),
            last_kept_C=np.array(last_kept, dtype=np.int64),
            reached_C=np.array(columns["reached"], dtype=bool),
            censored_C=np.array(columns["censored"], dtype=bool),
            texts={name: pa.array(columns[name], pa.string()) for name in names},
        )


@dataclass(frozen=True)
class _Sides:
    """Consecutive messages of one role. Only messages take part that are not cut, and that have
    a text or are a decision of the assistant."""

    message_P: Array
    """Which message it is."""
    side_P: Array
    end_S: Array
    """Where each side's messages end, among those that take part."""
    owner_S: Array
    is_customer_S: Array
    text_S: pa.Array
    """Null for a decision after which nothing was sent."""
    num_cut: int
    num_blank: int


@dataclass(frozen=True)
class _Turns:
    """c_i and m_i of each turn, as indices of sides; -1 where there is none."""

    owner_T: Array
    customer_T: Array
    business_T: Array
    after_T: Array
    """c_{i+1} where it came with the outcome."""


def _join(messages: Messages, known: _Known) -> _Sides:
    """Leave out what was cut and what is blank, and join what is left by role."""
    import numpy as np

    owner_M = np.repeat(np.arange(len(known.length_C)), known.length_C)
    start_C = np.cumsum(known.length_C) - known.length_C
    is_kept_M = np.arange(len(messages)) <= (start_C + known.last_kept_C)[owner_M]
    message_P = np.flatnonzero(is_kept_M & ~messages.is_silent_M)
    owner_P, is_customer_P = owner_M[message_P], messages.is_customer_M[message_P]
    begins_P = np.ones(len(message_P), dtype=bool)
    begins_P[1:] = (owner_P[1:] != owner_P[:-1]) | (is_customer_P[1:] != is_customer_P[:-1])
    start_S = np.flatnonzero(begins_P)
    side_P = np.cumsum(begins_P) - 1
    has_text_P = ~messages.is_blank_M[message_P]
    return _Sides(
        message_P=message_P,
        side_P=side_P,
        end_S=np.append(start_S[1:], len(message_P))[: len(start_S)],
        owner_S=owner_P[start_S],
        is_customer_S=is_customer_P[start_S],
        text_S=_joined(
            messages.content_M.take(message_P[has_text_P]), side_P[has_text_P], len(start_S)
        ),
        num_cut=int(np.sum(~is_kept_M)),
        num_blank=int(np.sum(is_kept_M & messages.is_silent_M)),
    )


def _joined(texts: pa.Array, side: Array, num_S: int) -> pa.Array:
    """Texts of each side, joined by a line break; null where it has none."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    num_texts_S = np.bincount(side, minlength=num_S)
    end_S = np.append(0, np.cumsum(num_texts_S)).astype(np.int32)
    lists = pa.ListArray.from_arrays(pa.array(end_S), texts, mask=pa.array(num_texts_S == 0))
    return pc.binary_join(lists, "\n")


def _pair(known: _Known, sides: _Sides) -> _Turns:
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
    is_after_T = closes_T & (business_T < 0) & known.reached_C[owner_T]
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
    is_known = time_M.is_valid().to_numpy(zero_copy_only=False)[sides.message_P]
    moments = time_M.cast(pa.int64()).fill_null(0).to_numpy()[sides.message_P][is_known]
    owner = sides.owner_S[sides.side_P][is_known]
    is_backwards = (moments[1:] < moments[:-1]) & (owner[1:] == owner[:-1])
    return len(np.unique(owner[1:][is_backwards]))


def _table(
    messages: Messages, known: _Known, sides: _Sides, turns: _Turns, adoptions: Adoptions
) -> pa.Table:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    schema = arrow_schema(ROWS["trajectories"])
    num_T, owner_T = len(turns.owner_T), turns.owner_T
    num_turns_C = np.bincount(owner_T, minlength=len(known.length_C))
    end_C = np.cumsum(num_turns_C)
    has_turns_C = num_turns_C > 0
    last_C = end_C[has_turns_C] - 1
    reward_T, done_T = np.zeros(num_T), np.zeros(num_T, dtype=bool)
    reward_T[last_C] = known.reached_C[has_turns_C]
    done_T[last_C] = ~known.censored_C[has_turns_C]
    time_S = messages.time_M.take(pa.array(sides.message_P[sides.end_S - 1]))
    sent = _take(sides.text_S, turns.business_T)
    columns: dict[str, Any] = {
        "turn": np.arange(num_T) - (end_C - num_turns_C)[owner_T] + 1,
        "customer": _take(sides.text_S, turns.customer_T),
        "sent": sent,
        "outcome_before": np.zeros(num_T, dtype=bool),
        "reward": reward_T,
        "done": done_T,
        "censored": known.censored_C[owner_T],
        "customer_after": _take(sides.text_S, turns.after_T),
        "customer_time": _take(time_S, turns.customer_T),
        "sent_time": _take(time_S, turns.business_T),
    }
    columns |= _suggestions(messages, sides, turns, sent, adoptions)
    for name, text_C in known.texts.items():
        if text_C.null_count == len(text_C):
            continue
        text_T = text_C.take(pa.array(owner_T))
        columns[name] = pc.coalesce(columns[name], text_T) if name in columns else text_T
    arrays = [columns.get(field.name) for field in schema]
    return pa.table(
        [
            pa.nulls(num_T, field.type) if array is None else pa.array(array).cast(field.type)
            for field, array in zip(schema, arrays, strict=True)
        ],
        schema=schema,
    )


def _suggestions(
    messages: Messages, sides: _Sides, turns: _Turns, sent: pa.Array, adoptions: Adoptions
) -> dict[str, pa.Array]:
    """The columns of a_i that the log has anything for.

    Q: messages of the business that take part. What those of one side say together: suggestions are
    joined as the messages are, log-probabilities added; a fate counts where all that name one name
    the same; of policies and personas the first counts.
    """
    import numpy as np
    import pyarrow as pa

    num_S = len(sides.owner_S)
    is_answer_P = ~sides.is_customer_S[sides.side_P]
    number_M = np.cumsum(~messages.is_customer_M) - 1
    number_Q, side_Q = number_M[sides.message_P[is_answer_P]], sides.side_P[is_answer_P]

    def said(name: str) -> tuple[pa.Array, Array]:
        """What is said, and by which side."""
        value_B = getattr(messages, name)
        if value_B.null_count == len(value_B):
            return value_B[:0], side_Q[:0]
        value_Q = value_B.take(pa.array(number_Q))
        return value_Q.drop_null(), side_Q[value_Q.is_valid().to_numpy(zero_copy_only=False)]

    columns: dict[str, pa.Array] = {}
    for name in ("policy_version", "persona"):
        values, side = said(f"{name}_B")
        if len(values):
            columns[name] = _take(_take(values, _first(side, num_S)), turns.business_T)
    logprobs, side = said("logprob_B")
    if len(logprobs):
        sum_S = np.bincount(side, logprobs.to_numpy(), minlength=num_S)
        logprob_S = pa.array(sum_S, mask=_first(side, num_S) < 0)
        columns["suggestion_logprob"] = _take(logprob_S, turns.business_T)
    owner_knows_C = np.zeros(int(sides.owner_S.max(initial=-1)) + 1, dtype=bool)
    owner_knows_C[sides.owner_S[side_Q[messages.knows_B[number_Q]]]] = True
    if owner_knows_C.any():
        fates, side = said("adoption_B")
        derived = derive_adoptions(
            _take(_joined(*said("suggestion_B"), num_S), turns.business_T),
            sent,
            _take(_unanimous(fates, side, num_S), turns.business_T),
            owner_knows_C[turns.owner_T],
            adoptions,
        )
        columns |= derived._asdict()
    return columns


def _first(side: Array, num_S: int) -> Array:
    """Where each side's first value stands; -1 where it has none."""
    import numpy as np

    first_S = np.full(num_S, -1)
    first_S[side[::-1]] = np.arange(len(side))[::-1]  # of several, the one written last stays
    return first_S


def _unanimous(values: pa.Array, side: Array, num_S: int) -> pa.Array:
    """The value of each side where all of its values are equal, else null."""

    first_S = _first(side, num_S)
    codes = values.dictionary_encode().indices.to_numpy()
    first_S[side[codes != codes[first_S[side]]]] = -1
    return _take(values, first_S)


def _take(values: pa.Array, index: Array) -> pa.Array:
    """Values by index; null for -1."""
    import pyarrow as pa

    return values.take(pa.array(index, mask=index < 0))


def turns_of(conversation: LogConversation) -> tuple[list[dict[str, Any]], Counter[str]]:
    """The turns of one conversation by its own labels, as rows, and what was counted on the way."""
    label = combine([from_marks([conversation])[0], from_conversation([conversation])[0]])
    table = TurnTable()
    table.add(Cut(conversation, label, is_censored(conversation, label, None), "train"))
    return table.take().to_pylist(), table.counts
