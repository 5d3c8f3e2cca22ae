"""Whether a conversation reached its outcome, and at which message: labellers, and how they
combine.

A labeller looks at conversations and says of each: reached (and after which message, if it knows),
not reached, or nothing. The earliest message that any labeller names is the outcome; what follows
it is cut.

One labeller that says "reached" outweighs all that say "not reached": each looks in one place only
(a field, a word, a file of purchases), and not to have found the outcome there is weaker evidence
than to have found it elsewhere. So an `outcome` of 0 does not overrule a pattern that finds the
customer's order. A conversation of which nobody says anything, and that was not closed by the clock
(`iterppo.logs.censoring`), is censored: its outcome is unknown, not zero. Marks and fields are
silent where they are missing; a pattern, a classifier or a file of events never found is a zero.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from iterppo.logs.records import LogConversation


class Label(NamedTuple):
    """What a labeller says of a conversation."""

    reached: bool | None
    """None: it does not know."""
    position: int | None = None
    """Index of the message after which the outcome was reached; -1: before the first, so that no
    decision remained; None: at the end."""


Labeller = Callable[[Sequence[LogConversation]], list[Label]]

UNKNOWN = Label(None)
NOT_REACHED = Label(False)
REACHED = Label(True)


def combine(labels: Iterable[Label]) -> Label:
    """One label of several: reached where any says so, at the earliest message that is named.

    >>> combine([Label(False), Label(True, 4), Label(True), Label(True, 2)])
    Label(reached=True, position=2)
    >>> combine([Label(None), Label(False)]), combine([])
    (Label(reached=False, position=None), Label(reached=None, position=None))
    """
    found = UNKNOWN
    for label in labels:
        if label is not UNKNOWN:
            found = _stronger(found, label)
    return found


def _stronger(first: Label, second: Label) -> Label:
    """Of two labels the one that says more; of two equal ones the first."""
    if not second.reached:
        return second if first.reached is None else first
    if not first.reached or first.position is None:
        return second
    if second.position is None or first.position <= second.position:
        return first
    return second


def label_all(
    conversations: Sequence[LogConversation], labellers: Sequence[Labeller]
) -> list[Label]:
    """What all labellers together say of each conversation."""
    if not labellers:
        return [UNKNOWN] * len(conversations)
    labels, *others = [labeller(conversations) for labeller in labellers]
    for other in others:
        labels = [
            label if new is UNKNOWN else new if label is UNKNOWN else _stronger(label, new)
            for label, new in zip(labels, other, strict=True)
        ]
    return labels


def from_marks(conversations: Sequence[LogConversation]) -> list[Label]:
    """The `outcome` of messages: the first 1 is the position; only zeros: not reached."""
    labels = []
    for conversation in conversations:
        marks = [message.outcome for message in conversation.messages]
        if any(marks):
            labels.append(Label(True, marks.index(1)))
        else:
            labels.append(NOT_REACHED if 0 in marks else UNKNOWN)
    return labels


def from_conversation(conversations: Sequence[LogConversation]) -> list[Label]:
    """The `outcome` of the conversation as a whole."""
    return [_OF_FIELD[conversation.outcome] for conversation in conversations]


_OF_FIELD = {None: UNKNOWN, 0: NOT_REACHED, 1: REACHED}


def from_pattern(pattern: str) -> Labeller:
    """What the customer says: the first message in which the regular expression is found."""
    found = re.compile(pattern).search

    def label(conversations: Sequence[LogConversation]) -> list[Label]:
        return [
            next(
                (
                    Label(True, position)
                    for position, message in enumerate(conversation.messages)
                    if message.role == "customer" and found(message.content)
                ),
                NOT_REACHED,
            )
            for conversation in conversations
        ]

    return label


def from_classifier(
    probabilities: Callable[[Sequence[str]], Sequence[float]], *, threshold: float
) -> Labeller:
    """What a text classifier says: the first customer's message whose probability reaches the
    threshold.

    Args:
        probabilities: Texts to the probability that the outcome is stated in them.
        threshold: In [0, 1].
    """

    def label(conversations: Sequence[LogConversation]) -> list[Label]:
        places = [
            (number, position, message.content)
            for number, conversation in enumerate(conversations)
            for position, message in enumerate(conversation.messages)
            if message.role == "customer" and message.content and not message.content.isspace()
        ]
        labels = [NOT_REACHED] * len(conversations)
        found = probabilities([text for _, _, text in places]) if places else []
        for (number, position, _), probability in zip(places, found, strict=True):
            if probability >= threshold and not labels[number].reached:
                labels[number] = Label(True, position)
        return labels

    return label
