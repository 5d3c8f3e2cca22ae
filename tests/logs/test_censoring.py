"""Which conversations were open at the cutoff, and what silence tells."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iterppo.artifact import open_artifact
from iterppo.config import IngestConfig, parse_duration
from iterppo.config_loading import load_config
from iterppo.errors import UsageError
from iterppo.logs.censoring import Clock, fate_known_until, is_censored
from iterppo.logs.outcomes import Label, from_conversation
from iterppo.logs.records import LogConversation, parse_line
from iterppo.logs.sources import find_logs
from iterppo.pipeline import sections
from iterppo.stages import ingest

CUTOFF = datetime(2026, 5, 31, tzinfo=UTC)
CLOCK = Clock(CUTOFF, timedelta(hours=24))


def conversation(*times: str | None, **fields: Any) -> LogConversation:
    messages = [
        {"role": ("customer", "business")[n % 2], "content": f"m{n}", "time": time}
        for n, time in enumerate(times)
    ]
    return parse_line(json.dumps({"conversation_id": "c", "messages": messages, **fields}).encode())


@pytest.mark.parametrize(
    ("last", "is_open"),
    [
        pytest.param("2026-05-30T00:00:01Z", True, id="younger than the silence"),
        pytest.param("2026-05-30T00:00:00Z", False, id="as old"),
        pytest.param("2026-05-01T00:00:00Z", False, id="older"),
        pytest.param("2026-05-30T02:00:00+02:00", False, id="as old, in another zone"),
        pytest.param("2026-05-30T00:00:01", True, id="younger, without a zone"),
    ],
)
def test_a_conversation_is_open_while_its_last_message_is_young(last: str, is_open: bool) -> None:
    one = conversation("2026-04-30T00:00:00Z", last)

    assert is_censored(one, Label(None), CLOCK) is is_open
    assert is_censored(one, Label(False), CLOCK) is is_open


def test_the_youngest_message_counts_although_times_run_backwards() -> None:
    one = conversation("2026-05-30T12:00:00Z", "2026-05-01T00:00:00Z")

    assert is_censored(one, Label(None), CLOCK)


def test_an_outcome_is_known_however_young() -> None:
    young = conversation("2026-05-30T23:59:00Z", unfinished=True)

    assert not is_censored(young, Label(True), CLOCK)
    assert not is_censored(young, Label(True), None)


def test_what_the_log_calls_unfinished_is_open_however_old() -> None:
    assert is_censored(conversation("2020-01-01T00:00:00Z", unfinished=True), Label(False), CLOCK)


@pytest.mark.parametrize("clock", [None, CLOCK], ids=["without a clock", "without times"])
def test_without_a_clock_or_times_a_label_is_what_tells(clock: Clock | None) -> None:
    one = conversation(None, None)

    assert is_censored(one, Label(None), clock)
    assert not is_censored(one, Label(False), clock)


def test_a_silence_tells_nothing_where_nobody_knows_of_the_outcome() -> None:
    # Its customer is not known, so the file of purchases cannot say whether there was one.
    clock = Clock(CUTOFF, timedelta(hours=24), outcomes_elsewhere=True)
    old = conversation("2026-01-01T00:00:00Z")

    assert is_censored(old, Label(None), clock)
    assert not is_censored(old, Label(False), clock)


def test_messages_after_the_cutoff_are_as_if_not_yet_written() -> None:
    one = conversation("2026-05-01T00:00:00Z", None, "2026-05-31T00:00:00Z", "2026-05-31T00:00:01Z")

    kept = CLOCK.before_cutoff(one.messages)

    assert [message.content for message in kept] == ["m0", "m1", "m2"]


def test_a_message_without_a_time_goes_with_the_one_before() -> None:
    one = conversation(None, "2026-05-01T00:00:00Z", None, "2026-06-01T00:00:00Z", None, None)

    kept = CLOCK.before_cutoff(one.messages)

    assert [message.content for message in kept] == ["m0", "m1", "m2"]


@pytest.mark.parametrize("said", [{"outcome": 1}, {"outcome": 0}, {"unfinished": True}, {}])
@pytest.mark.parametrize(
    ("last", "is_open"),
    [("2026-05-30T12:00:00Z", True), ("2026-05-29T12:00:00Z", False)],
    ids=["young", "old"],
)
def test_how_a_conversation_ends_is_not_known_while_messages_are_to_come(
    said: dict[str, Any], last: str, is_open: bool
) -> None:
    one = conversation(last, "2026-06-01T00:00:00Z", None, **said)

    num_cut = CLOCK.cut(one)

    (label,) = from_conversation([one])
    assert (num_cut, label) == (2, Label(None))
    assert is_censored(one, label, CLOCK) is is_open


def test_how_a_conversation_ended_is_known_where_all_of_it_was_written() -> None:
    one = conversation("2026-05-30T12:00:00Z", None, outcome=1, unfinished=False)

    assert CLOCK.cut(one) == 0
    assert (one.outcome, one.unfinished) == (1, False)


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("90s", timedelta(seconds=90)),
        ("1.5h", timedelta(minutes=90)),
        ("2w", timedelta(days=14)),
        ("1d12h", timedelta(hours=36)),
    ],
)
def test_durations(text: str, duration: timedelta) -> None:
    assert parse_duration(text) == duration


@pytest.mark.parametrize("text", ["", "7", "d", "7 d", "-1d", "1y", "7days", "1" + "0" * 20 + "w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"duration|calendar"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"cutoff": "2026-05-31T00:00:00Z"}, "cutoff needs idle"),
        ({"idle": "24h"}, "needs cutoff"),
        ({"outcomes": [{"by": "events", "file": "x", "window": "7d"}]}, "needs cutoff"),
    ],
    ids=["a cutoff alone", "a silence alone", "a window alone"],
)
def test_half_a_clock_is_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        IngestConfig.model_validate(settings)


def test_an_ingest_with_a_clock_censors_cuts_and_counts(tmp_path: Path) -> None:
    logs = {
        "old": ["2026-05-01T10:00:00Z", "2026-05-01T11:00:00Z"],
        "young": ["2026-05-30T10:00:00Z", "2026-05-30T11:00:00Z"],
        "late": ["2026-05-01T10:00:00Z", "2026-06-02T11:00:00Z"],
    }
    log = tmp_path / "log.jsonl"
    with log.open("w") as stream:
        for name, times in logs.items():
            messages = [
                {"role": ("customer", "business")[n], "content": "hi", "time": time}
                for n, time in enumerate(times)
            ]
            said = {"outcome": 1} if name == "late" else {}
            stream.write(json.dumps({"conversation_id": name, "messages": messages, **said}) + "\n")
    config = IngestConfig(cutoff="2026-05-31T00:00:00Z", idle="24h")

    manifest = ingest.run(
        config,
        logs=find_logs([str(log)], None),
        out=tmp_path / "out",
        rejects=tmp_path / "rejects",
    )

    found = {
        row["conversation_id"]: (row["censored"], row["done"], row["sent"])
        for row in open_artifact(tmp_path / "out").rows()
    }
    assert found == {
        "old": (False, True, "hi"),
        "young": (True, False, "hi"),
        "late": (False, True, None),
    }
    assert manifest.counts["messages_after_cutoff"] == 1
    assert manifest.counts["outcomes"] == 0
    assert manifest.counts["conversations_censored"] == 1
    assert manifest.config["cutoff"] == "2026-05-31T00:00:00Z"


@pytest.mark.parametrize(
    "cutoff", ["0001-01-01T00:00:00+02:00", "9999-12-31T23:59:59-05:00"], ids=["before", "after"]
)
def test_a_cutoff_outside_of_the_calendar_of_utc_is_refused(cutoff: str) -> None:
    with pytest.raises(ValueError, match="lies outside of every calendar, seen from UTC"):
        IngestConfig(cutoff=cutoff, idle="24h")


@pytest.mark.parametrize("cutoff", ["2026-05-31T00:00:00Z", "0001-01-01T00:00:00"])
def test_a_silence_longer_than_the_calendar_leaves_no_fate_known(cutoff: str) -> None:
    config = IngestConfig(cutoff=cutoff, idle="1000000d")

    assert fate_known_until(config.model_dump(mode="json")) == np.datetime64("0001-01-01", "us")


def test_usage_of_the_clock_is_explained_on_one_line() -> None:
    with pytest.raises(UsageError, match="ingest: cutoff needs idle") as raised:
        load_config(
            "ingest",
            IngestConfig,
            settings=[("ingest", "cutoff", "2026-05-31T00:00:00Z")],
            sections=sections(),
        )
    assert "\n" not in str(raised.value)
