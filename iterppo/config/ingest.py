"""Settings of ingest: formats, outcomes and who labels them, censoring, splits, redaction."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from iterppo.config.base import (
    Duration,
    Moment,
    Pattern,
    Settings,
    Share,
    StageConfig,
    parse_duration,
)


class ByMarks(Settings):
    """Outcomes from the `outcome` of messages."""

    by: Literal["marks"]


class ByConversation(Settings):
    """Outcomes from the `outcome` of the conversation as a whole."""

    by: Literal["conversation"]


class ByPattern(Settings):
    """Outcomes from what customers write."""

    by: Literal["pattern"]
    pattern: Pattern
    """Regular expression (Python's), searched in every message of the customer."""


class ByClassifier(Settings):
    """Outcomes from a fitted text classifier, on what customers write."""

    by: Literal["classifier"]
    model: str
    """Hugging Face folder of a sequence-classification model."""
    label: str = ""
    """The label that means the outcome; empty: the last one."""
    threshold: Share = 0.5
    """Probability from which on it is believed."""


class ByEvents(Settings):
    """Outcomes from a file of events: purchases, bookings."""

    by: Literal["events"]
    file: str
    """JSON Lines, CSV or Parquet, one event a row: a path, glob or URL."""
    join: Literal["conversation_id", "customer_id"] = "conversation_id"
    """What an event and a conversation have in common. A customer's event counts for one
    conversation only: of those that had begun and whose window was not over, the last."""
    key_column: str = ""
    """The file's column of that id; empty: it is called as `join`."""
    time_column: str = "time"
    """The file's column of the time; empty: it has none, which a join on customers does not
    allow."""
    time_format: str = "iso"
    """As `mapping.time_format`."""
    time_zone: str = "UTC"
    """Zone of times without one, as `Europe/Berlin`."""
    window: Duration = "0s"
    """An event counts until so long after the conversation's last message. `0s`: not after it where
    events are joined on customers, without limit where on conversations."""

    @model_validator(mode="after")
    def _check(self) -> ByEvents:
        if self.join == "customer_id" and not self.time_column:
            raise ValueError("events joined on customers need a time_column")
        if parse_duration(self.window) and not self.time_column:
            raise ValueError("a window needs a time_column")
        if self.time_format not in ("iso", "s", "ms", "us", "ns") and "%" not in self.time_format:
            raise ValueError("time_format is iso, s, ms, us, ns, or a pattern as %d/%m/%Y %H:%M")
        if self.time_column == (self.key_column or self.join):
            raise ValueError("key_column and time_column are one and the same")
        return self


Outcomes = Annotated[
    ByMarks | ByConversation | ByPattern | ByClassifier | ByEvents, Field(discriminator="by")
]


class EventMapping(Settings):
    """How the rows of an event log are read, one message a row."""

    columns: dict[
        Literal[
            "conversation_id",
            "role",
            "content",
            "time",
            "message_id",
            "outcome",
            "unfinished",
            "suggestion",
            "adoption",
            "suggestion_logprob",
            "policy_version",
            "persona",
            "customer_id",
            "business_id",
        ],
        str,
    ] = {}
    """Our name = theirs, where they differ: `content = "body"`; `time = ""`: the log has none."""
    roles: dict[str, Literal["customer", "business", "ignore"]] = {
        "customer": "customer",
        "user": "customer",
        "business": "business",
        "agent": "business",
        "assistant": "business",
        "system": "ignore",
    }
    """What the values of `role` mean."""
    adoptions: dict[
        str, Literal["verbatim", "edited", "influenced", "rejected", "abstained", "not_shown"]
    ] = {}
    """What the values of `adoption` mean, where they are not ours."""
    time_format: str = "iso"
    """`iso`; `s`, `ms`, `us` or `ns` since 1970; or a pattern as `%d/%m/%Y %H:%M` (strptime)."""
    time_zone: str = "UTC"
    """Zone of times without one, as `Europe/Berlin`."""

    @field_validator("columns")
    @classmethod
    def _check_needed(cls, value: dict[str, str]) -> dict[str, str]:
        for name in ("conversation_id", "role", "content"):
            if value.get(name) == "":
                raise ValueError(f"{name} = '' names no column; write what yours is called")
        return value


class IngestConfig(StageConfig):
    """Logs to trajectories."""

    format: Literal["auto", "conversations", "openai", "sharegpt", "events"] = "auto"
    """Format of the logs; `auto`: recognised, file by file."""
    mapping: EventMapping = EventMapping()
    """How an event log is read."""
    outcomes: list[Outcomes] = [ByMarks(by="marks"), ByConversation(by="conversation")]
    """Who says whether the outcome was reached: the earliest position that any of them names."""
    cutoff: Moment | Literal[""] = ""
    """When the log was cut, as 2026-05-31T00:00:00Z; with `idle`, tells which conversations are
    open. Empty: only the log's own marks tell."""
    idle: Duration = "0s"
    """A conversation whose last message is younger than this at the cutoff is open."""
    edited_up_to: Share = 0.5
    """Edit distance (divided by the longer length) up to which a suggestion counts as edited."""
    influenced_up_to: Share = 0.5
    """Edit distance up to which it counts as influenced; farther, as rejected."""
    facts: list[str] = []
    """Names in a conversation's `meta` that the policy may see; all others it never does."""
    heldout: Share = 0.2
    """Share of the conversations kept out of every fit, chosen by a hash of seed and key."""
    split_by: Literal["conversation", "customer", "business", "opening"] = "conversation"
    """What shares a split: a conversation; all of a customer's or a business's; all that open with
    the same message."""
    redact: bool = False
    """Mask e-mail addresses, phone numbers and card numbers before anything is written."""
    redact_patterns: dict[str, Pattern] = {}
    """More to mask where `redact` is true: name = regular expression; what it finds becomes
    [NAME]."""
    max_reject_rate: Share = 0.01
    """Share of the lines that may be rejected; beyond it the stage ends with exit status 3."""

    @model_validator(mode="after")
    def _check(self) -> IngestConfig:
        needs_clock = any(isinstance(o, ByEvents) and o.window != "0s" for o in self.outcomes)
        if self.cutoff and parse_duration(self.idle).total_seconds() <= 0:
            raise ValueError("cutoff needs idle: how long a silence ends a conversation, as 24h")
        if not self.cutoff and (self.idle != "0s" or needs_clock):
            raise ValueError(
                "idle, or a window of events, needs cutoff: when the logs were cut, as "
                "2026-05-31T00:00:00Z"
            )
        if self.influenced_up_to < self.edited_up_to:
            raise ValueError("influenced_up_to lies below edited_up_to")
        if self.redact_patterns and not self.redact:
            raise ValueError("redact_patterns mask nothing without redact = true (--redact)")
        return self
