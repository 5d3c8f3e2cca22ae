"""Conversations on their way into a part: labelled, censored, redacted, cut into turns."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from iterppo.artifact import PartWriter
from iterppo.config import ByEvents, IngestConfig, parse_duration
from iterppo.errors import DataError
from iterppo.logs.censoring import Clock, is_censored
from iterppo.logs.conversations import Cut, TurnTable
from iterppo.logs.outcomes import Labeller, label_all
from iterppo.logs.records import LogConversation, as_time, parse_line, read_times
from iterppo.logs.rejects import Line, Rejects, redactor_of
from iterppo.logs.splits import split_key, split_of
from iterppo.logs.suggestions import Adoptions
from iterppo.logs.time_columns import time_column_of_texts

if TYPE_CHECKING:
    import pyarrow as pa

_MESSAGES_PER_GROUP = 65_536
_BYTES_PER_GROUP = 16 * 2**20
_BYTES_PER_BATCH = 2**19
"""Of lines that are objects at one time."""
_MAX_NAMES = 1_000
_MAX_FACTS = 10_000

COUNT_OF_FACT = "conversations_with_fact."
"""What the count of the conversations that have a fact begins with; its name follows."""


class Rules:
    """How conversations are taken: a configuration, and what is made of it once."""

    def __init__(self, config: IngestConfig, labellers: Sequence[Labeller]) -> None:
        self.config = config
        self.labellers = labellers
        self.clock = clock_of(config)
        self.redactor = redactor_of(config)
        self.adoptions = Adoptions(config.edited_up_to, config.influenced_up_to)
        self.needs_times = bool(self.clock) or any(isinstance(o, ByEvents) for o in config.outcomes)

    def takes(self, conversation: LogConversation) -> bool:
        """Whether a conversation is taken, if no other has its id. It is used up: times become
        datetimes, facts are masked."""
        if not read_times(conversation):
            return False
        try:
            self.key(conversation)
            if self.config.facts and isinstance(conversation.meta, dict):
                meta = {name: conversation.meta.get(name) for name in self.config.facts}
                facts_of(self.redactor.meta(meta) if self.redactor else meta, self.config.facts)
        except DataError:
            return False
        return True

    def key(self, conversation: LogConversation) -> str:
        """What decides a conversation's split.

        Raises:
            DataError: If the log does not have it, or names are too long.
        """
        _check_names(conversation)
        return split_key(conversation, self.config.split_by)


class _Waiting(msgspec.Struct, gc=False):
    """A conversation on its way, the lines that it came from, and its number in the task."""

    conversation: LogConversation
    split: str
    lines: Sequence[Line]
    number: int


class Taking:
    """Conversations on their way into a part: labelled, censored, redacted, cut into turns."""

    def __init__(self, rules: Rules, part: Path, rejects: Rejects) -> None:
        self.rules = rules
        self.rejects = rejects
        self.part = PartWriter(part, "trajectories")
        self.table = TurnTable(rules.adoptions)
        self.rejected: list[int] = []
        """Numbers of the conversations that could not be taken."""
        self._waiting: list[_Waiting] = []
        self._bytes_waiting = self._bytes_in_table = 0

    def __enter__(self) -> Taking:
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        if kind is None:
            self._label()
            self._write()
            self.part.__exit__(None, None, None)
        else:
            self.part.close()

    def add(
        self, conversation: LogConversation, lines: Sequence[Line], number: int, num_bytes: int
    ) -> None:
        """Take a conversation, or reject its lines."""
        config = self.rules.config
        try:
            key = self.rules.key(conversation)
        except DataError as error:
            self._reject(lines, number, str(error))
            return
        split = split_of(key, heldout=config.heldout, seed=config.seed)
        self._waiting.append(_Waiting(conversation, split, lines, number))
        self._bytes_waiting += num_bytes
        if self._bytes_waiting >= _BYTES_PER_BATCH:
            self._label()

    def _reject(self, lines: Sequence[Line], number: int, reason: str) -> None:
        self.rejected.append(number)
        self.rejects.add_all(lines, reason)

    def _label(self) -> None:
        waiting, time_M = self._with_times()
        rules, table = self.rules, self.table
        conversations = [one.conversation for one in waiting]
        clock = rules.clock
        nums_cut = [clock.cut(one) if clock else 0 for one in conversations]
        labels = label_all(conversations, rules.labellers)
        cuts: list[Cut] = []
        num_lines = num_after_cutoff = 0
        for one, label, num_cut in zip(waiting, labels, nums_cut, strict=True):
            conversation = one.conversation
            censored = is_censored(conversation, label, clock)
            if rules.redactor:
                rules.redactor.conversation(conversation)
            try:
                facts = facts_of(conversation.meta, rules.config.facts)
            except DataError as error:
                self._reject(one.lines, one.number, str(error))
                continue
            table.counts.update(COUNT_OF_FACT + name for name in _given(conversation.meta, rules))
            cuts.append(Cut(conversation, label, censored, one.split, facts))
            num_lines += len(one.lines)
            num_after_cutoff += num_cut
        table.add(*cuts)
        table.counts["lines_taken"] += num_lines
        table.counts["messages_after_cutoff"] += num_after_cutoff
        # Messages after the cutoff, and conversations whose facts cannot be written, are gone.
        is_whole = time_M is not None and len(time_M) == table.num_waiting
        table.lay_out(time_M if is_whole else None)
        self._bytes_in_table += self._bytes_waiting
        self._waiting, self._bytes_waiting = [], 0
        if table.num_messages >= _MESSAGES_PER_GROUP or self._bytes_in_table >= _BYTES_PER_GROUP:
            self._write()

    def _with_times(self) -> tuple[list[_Waiting], pa.Array | None]:
        """What waits, without the conversations whose times cannot be read; and the times of all
        messages, where Arrow reads them. Where it does not, or labellers look at times, messages
        have datetimes afterwards."""
        waiting = self._waiting
        texts = [message.time for one in waiting for message in one.conversation.messages]
        time_M = time_column_of_texts(texts)
        if time_M is not None and not self.rules.needs_times:
            return waiting, time_M
        readable = []
        for one in waiting:
            if read_times(one.conversation):
                readable.append(one)
                continue
            reason = "messages: a time cannot be read"
            try:
                parse_line(one.lines[0].raw)
            except DataError as error:
                reason = str(error)
            self._reject(one.lines, one.number, reason)
        return readable, time_M

    def _write(self) -> None:
        if len(self.table):
            self.part.write(self.table.take())
        self._bytes_in_table = 0


def clock_of(config: IngestConfig) -> Clock | None:
    """The configuration's clock; an event can still come as long as its window is open, so the
    silence that ends a conversation is not shorter than that."""
    if not config.cutoff:
        return None
    events = [outcome for outcome in config.outcomes if isinstance(outcome, ByEvents)]
    windows = (parse_duration(outcome.window) for outcome in events)
    return Clock(
        as_time(config.cutoff),
        max([parse_duration(config.idle), *windows]),
        outcomes_elsewhere=bool(events),
    )


def _given(meta: Any, rules: Rules) -> list[str]:
    """Names of facts that a conversation has."""
    if not isinstance(meta, dict):
        return []
    return [name for name in rules.config.facts if meta.get(name) is not None]


def facts_of(meta: Any, names: Sequence[str]) -> str | None:
    """The named facts of a conversation's meta, a line each; None where there is none.

    Raises:
        DataError: If one cannot be written.

    >>> facts_of({"product": "kitchen", "budget": 9000, "secret": 1}, ["product", "budget"])
    'product: kitchen\\nbudget: 9000'
    """
    if not names or not isinstance(meta, dict):
        return None
    lines = []
    for name in names:
        value = meta.get(name)
        if value is None:
            continue
        try:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(f"meta.{name}: half a character at {error.start}") from None
        except RecursionError:
            raise DataError(f"meta.{name}: is nested too deeply") from None
        if len(text) > _MAX_FACTS:  # every row repeats them
            raise DataError(f"meta.{name}: is longer than {_MAX_FACTS} characters")
        lines.append(f"{name}: {' '.join(text.split())}")
    return "\n".join(lines) or None


def _check_names(conversation: LogConversation) -> None:
    """Refuse names that are whole texts: every row repeats them, and rows there are thousands.

    Raises:
        DataError: If they are.
    """
    one = conversation
    length = len(one.conversation_id) + len(one.customer_id or "") + len(one.business_id or "")
    length += len(one.policy_version or "") + len(one.persona or "")
    if length > _MAX_NAMES:
        names = ("conversation_id", "customer_id", "business_id", "policy_version", "persona")
        longest = max(names, key=lambda name: len(getattr(one, name) or ""))
        raise DataError(
            f"{longest}: is too long, names have up to {_MAX_NAMES} characters together"
        )
