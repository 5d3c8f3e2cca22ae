"""The labellers that a configuration names."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from iterppo.config import (
    ByClassifier,
    ByConversation,
    ByEvents,
    ByMarks,
    ByPattern,
    IngestConfig,
)
from iterppo.logs.outcome_events import EventTable, from_events
from iterppo.logs.outcomes import (
    Labeller,
    from_classifier,
    from_conversation,
    from_marks,
    from_pattern,
)

Probabilities = Callable[[Sequence[str]], Sequence[float]]


def labellers_of(
    config: IngestConfig,
    tables: Sequence[EventTable],
    load_classifier: Callable[[ByClassifier], Probabilities],
) -> list[Labeller]:
    """Labellers in the configuration's order.

    Args:
        config: Names them.
        tables: Of every file of events that the configuration names.
        load_classifier: Makes a classifier.
    """
    tables_left = iter(tables)
    labellers: list[Labeller] = []
    for outcome in config.outcomes:
        match outcome:
            case ByMarks():
                labellers.append(from_marks)
            case ByConversation():
                labellers.append(from_conversation)
            case ByPattern():
                labellers.append(from_pattern(outcome.pattern))
            case ByClassifier():
                labellers.append(
                    from_classifier(load_classifier(outcome), threshold=outcome.threshold)
                )
            case ByEvents():
                labellers.append(from_events(next(tables_left), outcome))
    return labellers
