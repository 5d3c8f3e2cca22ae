"""Which conversation an event counts for, and at which message."""

import pickle
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.config import ByEvents
from iterppo.errors import DataError, UsageError
from iterppo.logs.conversations import Cut, TurnTable
from iterppo.logs.outcome_events import (
    ConversationSpans,
    EventTable,
    attribute,
    from_events,
    load_events,
)
from iterppo.logs.outcomes import Label, from_conversation, from_marks, label_all
from iterppo.logs.records import LogConversation, LogMessage
from tests.logs import lines
from tests.logs.ingesting import ingested_in_pieces, line

START = datetime(2026, 5, 1, 10, tzinfo=UTC)
MANY = 40


def at(minute: float | None) -> datetime | None:
    return None if minute is None else START + timedelta(minutes=minute)


def conversation(
    identity: str, *minutes: float | None, customer: str | None = None
) -> LogConversation:
    """The customer and the business in turn, at these minutes."""
    messages = [
        LogMessage("business" if n % 2 else "customer", f"message {n}", time=at(minute))
        for n, minute in enumerate(minutes)
    ]
    return LogConversation(identity, messages, customer_id=customer)


class Files:
    """Writes events to a file and labels conversations by it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, *events: tuple[str, float | None], key: str = "conversation_id") -> Path:
        path = self.folder / "events.csv"
        rows = [f"{identity},{at(minute) or ''}\n" for identity, minute in events]
        path.write_text(f"{key},time\n{''.join(rows)}")
        return path

    def table(
        self, *events: tuple[str, float | None], cutoff: float | None = None, **settings: Any
    ) -> tuple[EventTable, ByEvents]:
        file = self.write(*events, key=settings.get("join", "conversation_id"))
        config = ByEvents(by="events", file=str(file), **settings)
        return load_events(config, cutoff=at(cutoff)), config

    def labels(
        self,
        conversations: Sequence[LogConversation],
        *events: tuple[str, float | None],
        cutoff: float | None = None,
        **settings: Any,
    ) -> list[Label]:
        table, config = self.table(*events, cutoff=cutoff, **settings)
        if config.join == "customer_id":
            window = timedelta(minutes=float(config.window.rstrip("ms")))
            table = attribute(table, spans_of(conversations), window=window)
        return from_events(table, config)(conversations)


def spans_of(conversations: Sequence[LogConversation]) -> ConversationSpans:
    spans = ConversationSpans()
    for one in conversations:
        spans.add(one)
    return spans


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


# --- joined on conversations ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("minute", "label"),
    [
        pytest.param(-1, Label(True, -1), id="before the first message: nothing to decide"),
        pytest.param(0, Label(True, 0), id="with the first message"),
        pytest.param(4.9, Label(True, 0), id="just before the second"),
        pytest.param(5, Label(True, 1), id="with the second"),
        pytest.param(99, Label(True, 2), id="long after the last"),
        pytest.param(None, Label(True), id="at an unknown time"),
    ],
)
def test_an_event_is_at_the_last_message_that_is_not_later(
    files: Files, minute: float | None, label: Label
) -> None:
    assert files.labels([conversation("c", 0, 5, 9)], ("c", minute), ("d", 1)) == [label]


def test_the_earliest_event_counts(files: Files) -> None:
    events = [("c", 9), ("c", None), ("c", 6), ("c", 99)]

    assert files.labels([conversation("c", 0, 5, 9)], *events) == [Label(True, 1)]


@pytest.mark.parametrize(
    ("events", "label"),
    [
        pytest.param([("c", 19)], Label(True, 2), id="at its end"),
        pytest.param([("c", 19.1)], Label(False), id="just after it"),
        pytest.param([("c", 19.1), ("c", 3)], Label(True, 0), id="one before and one after"),
        pytest.param([("c", 19.1), ("c", None)], Label(True), id="one at an unknown time"),
    ],
)
def test_after_the_window_an_event_does_not_count(
    files: Files, events: list[tuple[str, float | None]], label: Label
) -> None:
    assert files.labels([conversation("c", 0, 5, 9)], *events, window="10m") == [label]


@pytest.mark.parametrize("window", ["0s", "10m"])
def test_messages_without_times_know_the_outcome_as_a_whole(files: Files, window: str) -> None:
    conversations = [conversation("c", None, None), conversation("e")]

    assert files.labels(conversations, ("c", 5), ("e", 5), window=window) == [Label(True)] * 2


def test_without_an_event_and_without_times_nobody_knows_whether_the_window_is_over(
    files: Files,
) -> None:
    conversations = [conversation("c", None, None), conversation("d", 0, None)]

    assert files.labels(conversations, ("x", 5), window="10m") == [Label(None), Label(False)]
    assert files.labels(conversations, ("x", 5)) == [Label(False), Label(False)]


@pytest.mark.parametrize(
    ("minutes", "position"),
    [
        pytest.param((0, None, 9), 1, id="untimed: with the one before"),
        pytest.param((None, 0, 9), 1, id="untimed at the start"),
        pytest.param((0, 7, 4, 9), 2, id="times that run backwards"),
    ],
)
def test_incomplete_times_are_made_the_best_of(
    files: Files, minutes: tuple[float | None, ...], position: int
) -> None:
    assert files.labels([conversation("c", *minutes)], ("c", 5)) == [Label(True, position)]


def test_events_after_the_cutoff_have_not_happened(files: Files) -> None:
    table, _ = files.table(("c", 5), ("d", 6), ("d", 30), ("e", None), cutoff=6)
    conversations = [conversation("c", 0), conversation("d", 0), conversation("e", 0)]

    assert (len(table), table.dropped.after_cutoff) == (3, 1)
    labels = files.labels(conversations, ("c", 5), ("d", 30), ("e", None), cutoff=6)
    assert labels == [Label(True, 0), Label(False), Label(True)]


def test_numbered_conversations_are_found_by_their_numbers(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"thread": 17, "paid": 0}\n')
    config = ByEvents(by="events", file=str(path), key_column="thread", time_column="paid")

    label = from_events(load_events(config, cutoff=None), config)

    assert label([conversation("17", 5), conversation("18", 5)]) == [Label(True, -1), Label(False)]


def test_before_the_first_message_an_event_leaves_no_turns(files: Files) -> None:
    opened_by_business = LogConversation("c", [LogMessage("business", "hello", time=at(5))])
    conversations = [conversation("b", 0, 1), opened_by_business, conversation("d", 0, 1)]
    labels = files.labels(conversations, ("c", 0))

    table = TurnTable()
    for one, label in zip(conversations, labels, strict=True):
        table.add(Cut(one, label, censored=False, split="train"))

    rows = table.take().to_pylist()
    assert [(row["conversation_id"], row["reward"]) for row in rows] == [("b", 0.0), ("d", 0.0)]
    assert table.counts["messages_cut_after_outcome"] == 1


def test_an_event_that_never_came_makes_a_known_zero_of_a_silent_conversation(
    files: Files,
) -> None:
    table, config = files.table(("c", 5))
    conversations = [conversation("c", 0, 5), conversation("d", 0, 5)]
    conversations[1].messages[1].outcome = 0

    for silent in (from_marks, from_conversation):
        labels = label_all(
            [*conversations, conversation("e", 0)], [silent, from_events(table, config)]
        )
        assert labels == [Label(True, 1), Label(False), Label(False)]


def test_the_earlier_of_mark_and_event_is_the_outcome(files: Files) -> None:
    table, config = files.table(("c", 5))
    marked = [conversation("c", 0, 3, 5, 9), conversation("c", 0, 3, 5, 9)]
    marked[0].messages[1].outcome = 1
    marked[1].messages[3].outcome = 1

    labels = label_all(marked, [from_marks, from_events(table, config)])

    assert labels == [Label(True, 1), Label(True, 2)]


# --- joined on customers -------------------------------------------------------------------------


def of_customers(
    files: Files,
    conversations: Sequence[LogConversation],
    *events: tuple[str, float],
    window: str = "10m",
    cutoff: float | None = None,
) -> list[Label]:
    return files.labels(conversations, *events, join="customer_id", window=window, cutoff=cutoff)


@pytest.mark.parametrize(
    ("minute", "label"),
    [
        pytest.param(-0.1, Label(False), id="before the first message"),
        pytest.param(0, Label(True, 0), id="with the first message"),
        pytest.param(7, Label(True, 1), id="between two messages"),
        pytest.param(19, Label(True, 2), id="at the end of the window"),
        pytest.param(19.1, Label(False), id="after it"),
    ],
)
def test_a_customers_event_counts_from_the_first_message_to_the_end_of_the_window(
    files: Files, minute: float, label: Label
) -> None:
    conversations = [conversation("c", 0, 5, 9, customer="a")]

    assert of_customers(files, conversations, ("a", minute)) == [label]


def test_the_last_touch_gets_the_event(files: Files) -> None:
    conversations = [
        conversation("first", 0, 30, customer="a"),
        conversation("second", 10, 12, customer="a"),
        conversation("third", 40, customer="a"),
        conversation("another's", 15, customer="b"),
    ]

    labels = of_customers(files, conversations, ("a", 20))

    assert labels == [Label(False), Label(True, 1), Label(False), Label(False)]


def test_a_longer_conversation_gets_what_comes_after_the_window_of_a_later_one(
    files: Files,
) -> None:
    conversations = [
        conversation("long", 0, 30, customer="a"),
        conversation("short", 10, 12, customer="a"),
    ]

    labels = of_customers(files, conversations, ("a", 20), ("a", 25), ("a", 23))

    assert labels == [Label(True, 0), Label(True, 1)]


def test_of_two_that_began_together_the_smaller_id_gets_the_event(files: Files) -> None:
    conversations = [
        conversation(identity, 0, 5, customer="a") for identity in ("c-10", "c-1", "é", "c-2")
    ]

    labels = of_customers(files, conversations, ("a", 7))

    assert labels == [Label(False), Label(True, 1), Label(False), Label(False)]


def test_nothing_is_known_without_a_customer_or_without_times(files: Files) -> None:
    conversations = [
        conversation("c", 0, 5),
        conversation("d", None, None, customer="a"),
        conversation("e", 0, None, customer="nobody"),
    ]

    assert of_customers(files, conversations, ("a", 3)) == [Label(None), Label(None), Label(False)]


def test_a_customers_event_after_the_cutoff_has_not_happened(files: Files) -> None:
    conversations = [conversation("c", 0, customer="a")]

    assert of_customers(files, conversations, ("a", 3), ("a", 1), cutoff=2) == [Label(True, 0)]
    with pytest.raises(DataError, match="before the cutoff"):
        of_customers(files, conversations, ("a", 3), cutoff=2)


def test_a_conversation_that_was_refused_does_not_get_its_namesakes_event(files: Files) -> None:
    taken, refused = (
        conversation("c", 0, 5, customer="a"),
        conversation("c", 100, 105, customer="a"),
    )
    table, config = files.table(("a", 106), join="customer_id", window="10m")
    attributed = attribute(table, spans_of([taken, refused]), window=timedelta(minutes=10))

    assert from_events(attributed, config)([taken]) == [Label(False)]


def test_spans_of_several_processes_are_one_whatever_their_order(files: Files) -> None:
    conversations = [
        conversation(f"c{n}", n, n + 4, customer="ab"[n % 2]) for n in (5, 3, 1, 4, 2, 0)
    ]
    table, config = files.table(("a", 6), ("b", 7), join="customer_id", window="3m")
    window = timedelta(minutes=3)

    def merged(*parts: Sequence[LogConversation]) -> EventTable:
        spans = ConversationSpans()
        for part in parts:
            spans.merge(pickle.loads(pickle.dumps(spans_of(part))))
        return attribute(table, spans, window=window)

    whole = attribute(table, spans_of(conversations), window=window)
    for parts in ([[], conversations[2:], conversations[:2]], [conversations[::-1]]):
        again = merged(*parts)
        assert np.array_equal(again.keys, whole.keys)
        assert np.array_equal(again.times, whole.times)
    assert [label.reached for label in from_events(whole, config)(conversations)] == [
        True, False, False, True, False, False,
    ]  # fmt: skip


MINUTES = st.integers(0, MANY)
SPAN = st.tuples(st.sampled_from("ab"), MINUTES, MINUTES)


@given(
    drawn=st.lists(SPAN, max_size=8),
    events=st.lists(st.tuples(st.sampled_from("abc"), MINUTES), min_size=1, max_size=8),
    window=st.integers(0, 15),
)
def test_attribution_is_what_its_definition_says(
    tmp_path_factory: pytest.TempPathFactory,
    drawn: list[tuple[str, int, int]],
    events: list[tuple[str, int]],
    window: int,
) -> None:
    conversations = [
        conversation(f"c{n}", *sorted(minutes), customer=customer)
        for n, (customer, *minutes) in enumerate(drawn)
    ]
    files = Files(tmp_path_factory.getbasetemp())

    labels = of_customers(files, conversations, *events, window=f"{window}m")

    first_event: dict[str, int] = {}
    for customer, minute in sorted(events, key=lambda event: event[1]):
        holding = [
            (-min(minutes), f"c{n}")
            for n, (whose, *minutes) in enumerate(drawn)
            if whose == customer and min(minutes) <= minute <= max(minutes) + window
        ]
        if holding:
            first_event.setdefault(min(holding)[1], minute)
    assert labels == [
        Label(True, sum(minute <= first_event[f"c{n}"] for minute in minutes) - 1)
        if f"c{n}" in first_event
        else Label(False)
        for n, (_, *minutes) in enumerate(drawn)
    ]


# --- the table -----------------------------------------------------------------------------------


def test_the_table_knows_its_ids_and_cannot_be_changed(files: Files) -> None:
    table, config = files.table(*((f"c{n}", n) for n in range(50)))
    copy = pickle.loads(pickle.dumps(table))

    for one in (table, copy):
        assert len(one) == 50
        assert [f"c{n}" in one for n in range(100)] == [True] * 50 + [False] * 50
        with pytest.raises(ValueError, match="read-only"):
            one.times[0] = 1
    conversations = [conversation(f"c{n}", 0, 30) for n in range(100)]
    assert from_events(copy, config)(conversations) == from_events(table, config)(conversations)


@pytest.mark.parametrize("num_events", [0, 50])
def test_a_shared_table_is_pickled_as_its_path(
    files: Files, tmp_path: Path, num_events: int
) -> None:
    table, _ = files.table(*((f"c{n}", n) for n in range(50)), join="customer_id")
    if not num_events:
        table = attribute(table, ConversationSpans(), window=timedelta())
    assert len(table) == num_events

    pickled = pickle.dumps(table.shared(tmp_path / "shared"))
    copy = pickle.loads(pickled)

    assert len(pickled) < 500
    assert copy.join == table.join
    assert np.array_equal(copy.keys, table.keys)
    assert np.array_equal(copy.times, table.times)
    assert [f"c{n}" in copy for n in range(100)] == [n < num_events for n in range(100)]


# --- what became of the events -------------------------------------------------------------------


def counted(folder: Path, content: bytes, *events: tuple[str, float], **settings: Any) -> list[int]:
    """Events read, joined, unknown, outside of windows and after the cutoff, of an ingest; several
    processes count the same as one."""
    file = Files(folder).write(*events, key=settings.get("join", "conversation_id"))
    config = {
        "outcomes": [{"by": "events", "file": str(file), **settings}],
        "cutoff": str(at(1_000)),
        "idle": "10m",
    }
    runs = [
        ingested_in_pieces(
            folder / f"{workers}", {"a.jsonl": content}, 10, workers=workers, **config
        )
        for workers in (1, 2)
    ]
    names = ["", "_joined", "_unknown", "_outside_windows", "_after_cutoff"]
    found, again = [[run.counts[f"outcome_events{name}"] for name in names] for run in runs]
    assert found == again
    return found


def test_ingest_counts_what_became_of_the_events_of_conversations(tmp_path: Path) -> None:
    hello = lines.customer("hi", time=str(at(0)))
    copied = line("c", hello)
    refused = line("r", lines.customer("hi", time="yesterday"))
    content = copied + line("d", hello) + copied + line("c", lines.customer("ho")) + refused

    events = [("c", 5.0), ("c", 6.0), ("x", 5.0), ("r", 5.0), ("c", 2_000.0)]

    assert counted(tmp_path, content, *events) == [5, 2, 2, 0, 1]


def test_ingest_counts_what_became_of_the_events_of_customers(tmp_path: Path) -> None:
    content = b"".join(
        line(f"c{n}", lines.customer("hi", time=str(at(n))), customer_id=who)
        for n, who in enumerate("ab")
    )

    events = [("a", 5.0), ("a", 6.0), ("a", 500.0), ("b", 0.0), ("x", 5.0), ("a", 2_000.0)]

    assert counted(tmp_path, content, *events, join="customer_id", window="10m") == [6, 2, 1, 2, 1]


# --- conversations that are refused --------------------------------------------------------------


def of_buyer(identity: str, minute: float, text: str = "hi", **fields: Any) -> bytes:
    """A conversation of the customer a, of one minute."""
    messages = [
        lines.customer(text, time=str(at(minute))),
        lines.business("hello", time=str(at(minute + 1))),
    ]
    return line(identity, *messages, **{"outcome": None, "customer_id": "a", **fields})


def bought(folder: Path, content: bytes, minute: float, **settings: Any) -> dict[str, float]:
    """What each conversation is worth where the customer a buys at this minute."""
    folder.mkdir(exist_ok=True)
    file = Files(folder).write(("a", minute), key="customer_id")
    events = {"by": "events", "file": str(file), "join": "customer_id", "window": "30m"}
    config = {"outcomes": [events], "cutoff": str(at(1_000)), "idle": "10m", **settings}
    runs = [
        ingested_in_pieces(
            folder / f"{workers}", {"a.jsonl": content}, 10, workers=workers, **config
        )
        for workers in (1, 2)
    ]
    found, again = ({row["conversation_id"]: row["reward"] for row in run.rows} for run in runs)
    joined = {run.counts["outcome_events_joined"] for run in runs}
    assert found == again
    assert joined == {sum(found.values())}
    return found


LATER: dict[str, Any] = {"identity": "later", "minute": 20, "business_id": "b"}


@pytest.mark.parametrize(
    ("later", "settings"),
    [
        pytest.param({"business_id": None}, {"split_by": "business"}, id="no key of the split"),
        pytest.param({"meta": {"note": "x" * 10_001}}, {"facts": ["note"]}, id="a long fact"),
        pytest.param(
            {"meta": {"note": "x" * 9_993 + " a@b.co"}},
            {"facts": ["note"], "redact": True},
            id="a fact that is too long when it is masked",
        ),
        pytest.param({"business_id": "b" * 1_001}, {}, id="a long name"),
        pytest.param({"identity": "other"}, {}, id="an id that was there before"),
    ],
)
def test_a_purchase_goes_to_the_last_conversation_that_is_taken(
    tmp_path: Path, later: dict[str, Any], settings: dict[str, Any]
) -> None:
    other = of_buyer("other", 0, customer_id="z", business_id="b")
    earlier = of_buyer("earlier", 10, business_id="b")

    taken = bought(tmp_path / "taken", other + earlier + of_buyer(**LATER), 25, **settings)
    refused = bought(
        tmp_path / "refused", other + earlier + of_buyer(**LATER | later), 25, **settings
    )

    assert taken == {"other": 0, "earlier": 0, "later": 1}
    assert refused == {"other": 0, "earlier": 1}


def test_a_purchase_after_a_line_that_was_mended_goes_to_the_mended_line(tmp_path: Path) -> None:
    broken = of_buyer("c", 0, customer_id="z").replace(b"2026-05-01", b"tomorrow")

    assert bought(tmp_path, broken + of_buyer("c", 20), 25) == {"c": 1}


def test_a_purchase_that_only_a_refused_conversation_could_get_is_not_called_joined(
    tmp_path: Path,
) -> None:
    content = of_buyer("c", 0, customer_id="z") + of_buyer("c", 20)

    assert bought(tmp_path, content, 25) == {"c": 0}


def test_a_purchase_goes_to_a_conversation_of_an_event_log_that_is_taken(tmp_path: Path) -> None:
    rows = [
        f"{identity},{role},hi,{at(minute + n)},a,{business}\n"
        for identity, minute, business in (("earlier", 10, "b"), ("later", 20, ""))
        for n, role in enumerate(("customer", "business"))
    ]
    content = "conversation_id,role,content,time,customer_id,business_id\n" + "".join(rows)

    assert bought(tmp_path, content.encode(), 25, split_by="business") == {"earlier": 1}


# --- how they are read ---------------------------------------------------------------------------


def test_times_are_read_as_the_configuration_says(tmp_path: Path) -> None:
    path = tmp_path / "events.csv"
    path.write_text("conversation_id,time\nc,01.05.2026 12:05\n")
    config = ByEvents(
        by="events", file=str(path), time_format="%d.%m.%Y %H:%M", time_zone="Europe/Berlin"
    )

    label = from_events(load_events(config, cutoff=None), config)

    assert label([conversation("c", 0, 5, 6)]) == [Label(True, 1)]


def test_a_time_zone_that_is_none_is_refused(files: Files) -> None:
    with pytest.raises(UsageError, match="outcomes: time_zone: 'Berlin' is none"):
        files.table(("c", 1), time_zone="Berlin")


def test_events_may_lie_in_several_files(tmp_path: Path) -> None:
    for name, identity in (("a.csv", "c"), ("b.csv", "d")):
        (tmp_path / name).write_text(f"conversation_id\n{identity}\n")
    config = ByEvents(by="events", file=str(tmp_path / "*.csv"), time_column="")

    assert len(load_events(config, cutoff=None)) == 2


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param("conversation_id,time\n", "holds no event", id="no event"),
        pytest.param("conversation_id,time\nc,soon\n", "row 1: column 'time'", id="no time"),
        pytest.param(None, "no such", id="no file"),
    ],
)
def test_events_that_cannot_be_used_are_refused(
    tmp_path: Path, content: str | None, said: str
) -> None:
    path = tmp_path / "events.csv"
    if content is not None:
        path.write_text(content)

    with pytest.raises(DataError, match=said) as raised:
        load_events(ByEvents(by="events", file=str(path)), cutoff=None)
    assert str(raised.value).startswith(str(path))


def test_events_cannot_come_from_standard_input() -> None:
    with pytest.raises(UsageError, match="standard input"):
        load_events(ByEvents(by="events", file="-"), cutoff=None)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param({"join": "customer_id", "time_column": ""}, "need a time_column", id="join"),
        pytest.param({"window": "7d", "time_column": ""}, "a window needs", id="window"),
        pytest.param({"key_column": "time"}, "one and the same", id="one column"),
        pytest.param({"time_format": "rfc"}, "time_format is iso", id="time format"),
    ],
)
def test_settings_of_events_that_contradict_each_other_are_refused(
    settings: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        ByEvents(by="events", file="events.csv", **settings)


def test_events_of_customers_must_be_attributed_before_they_label(files: Files) -> None:
    table, config = files.table(("a", 1), join="customer_id")

    with pytest.raises(ValueError, match="attribute them first"):
        from_events(table, config)
