"""The messages of many conversations as columns.

    conversations, a batch at a time -> Messages -> concatenated

As objects, messages take several times the memory that they take in columns. So a batch goes into
columns as soon as it is labelled, and its objects go.

Shapes: M messages, laid end to end; B of them are the business's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from iterppo.logs.records import LogConversation
from iterppo.logs.time_columns import time_column

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Messages:
    """What messages say, and what the business's say of suggestions."""

    content_M: pa.Array
    is_customer_M: Array
    is_blank_M: Array
    is_silent_M: Array
    """Blank, and no decision of the assistant either."""
    time_M: pa.Array
    knows_B: Array
    """Whether the log says what was suggested, be it nothing."""
    suggestion_B: pa.Array
    """Null where it is blank, too."""
    adoption_B: pa.Array
    logprob_B: pa.Array
    policy_version_B: pa.Array
    persona_B: pa.Array

    def __len__(self) -> int:
        return len(self.content_M)

    @classmethod
    def of(cls, conversations: Sequence[LogConversation], time_M: pa.Array | None) -> Messages:
        """Those of a batch; times are made of what the messages have where none are given."""
        import pyarrow as pa
        import pyarrow.compute as pc

        messages = list(itertools.chain.from_iterable([one.messages for one in conversations]))
        content = [message.content for message in messages]
        content_M = pa.array(content, pa.string())
        is_empty_M = pc.equal(pc.binary_length(content_M), 0).to_numpy(zero_copy_only=False)
        is_blank_M = is_empty_M | _flags(map(str.isspace, content))
        is_silent_M = is_blank_M.copy()
        for number in is_blank_M.nonzero()[0].tolist():
            is_silent_M[number] = not messages[number].is_decision
        if time_M is None:
            time_M = time_column([message.time for message in messages])
        is_business = [message.role == "business" for message in messages]
        answers = list(itertools.compress(messages, is_business))
        suggestion = [message.suggestion for message in answers]
        adoption = [message.adoption for message in answers]
        return cls(
            content_M=content_M,
            is_customer_M=~_flags(is_business),
            is_blank_M=is_blank_M,
            is_silent_M=is_silent_M,
            time_M=time_M,
            knows_B=_are_set(suggestion) | _are_set(adoption),
            suggestion_B=_strings([v and not v.isspace() and v for v in suggestion]),
            adoption_B=_strings(adoption),
            logprob_B=pa.array([message.suggestion_logprob for message in answers], pa.float64()),
            policy_version_B=_strings([message.policy_version for message in answers]),
            persona_B=_strings([message.persona for message in answers]),
        )

    @classmethod
    def concatenate(cls, batches: Sequence[Messages]) -> Messages:
        """Those of several batches."""
        import numpy as np
        import pyarrow as pa

        if len(batches) == 1:
            return batches[0]
        columns = {}
        for field in fields(cls):
            parts = [getattr(batch, field.name) for batch in batches]
            is_numpy = isinstance(parts[0], np.ndarray)
            columns[field.name] = np.concatenate(parts) if is_numpy else pa.concat_arrays(parts)
        return cls(**columns)


def _flags(values: Iterable[bool]) -> Array:
    """Several times as fast as `np.array`."""
    import numpy as np

    return np.frombuffer(bytearray(values), dtype=bool)


def _are_set(values: list[Any]) -> Array:
    import numpy as np

    if values.count(UNSET) == len(values):  # as in most logs
        return np.zeros(len(values), dtype=bool)
    return _flags([value is not UNSET for value in values])


def _strings(values: list[Any]) -> pa.Array:
    """Texts; null for whatever is not true."""
    import pyarrow as pa

    if not any(values):
        return pa.nulls(len(values), pa.string())
    return pa.array([value or None for value in values], pa.string())
