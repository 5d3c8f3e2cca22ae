"""Logs that tests make up: strategies for hypothesis, and many conversations from a seed."""

from __future__ import annotations

import json
import random
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

from hypothesis import strategies as st

Conversation = dict[str, Any]

NOON = datetime(2026, 5, 1, 12, tzinfo=UTC)
ADOPTIONS = ("verbatim", "edited", "influenced", "rejected", "abstained", "not_shown")

# --- for hypothesis ------------------------------------------------------------------------------

TEXTS = st.sampled_from(["", " ", "\n\t", "a", "b\nc", "🙂 ok", "x\x00y", "  padded "]) | st.text(
    max_size=12
)
_SUGGESTIONS = st.fixed_dictionaries(
    {},
    optional={
        "suggestion": st.none() | TEXTS,
        "adoption": st.none() | st.sampled_from(ADOPTIONS),
        "suggestion_logprob": st.none() | st.sampled_from([-0.5, -2.25, 0.0]),
        "policy_version": st.sampled_from([None, "", "p1", "p2"]),
        "persona": st.sampled_from([None, "bold"]),
    },
)
_ZONES = [UTC, timezone(timedelta(hours=2)), timezone(-timedelta(hours=5, minutes=30))]


def _written(moment: datetime, style: str) -> Any:
    if style == "seconds":
        return moment.timestamp()
    if style == "naive":
        return moment.replace(tzinfo=None).isoformat()
    return moment.astimezone(_ZONES[moment.minute % 3]).isoformat()


@st.composite
def conversations(draw: st.DrawFn, identity: str, time_styles: list[str]) -> Conversation:
    """A conversation that can be taken: roles in any order, times in any order or none."""
    with_suggestions = draw(st.booleans())
    with_times = draw(st.booleans())
    messages = []
    for _ in range(draw(st.integers(0, 8))):
        message: dict[str, Any] = {
            "role": draw(st.sampled_from(["customer", "business"])),
            "content": draw(TEXTS),
        }
        mark = draw(st.sampled_from([None, None, None, None, 0, 1]))
        if mark is not None or draw(st.booleans()):
            message["outcome"] = mark
        if with_suggestions:
            message |= draw(_SUGGESTIONS)
        if with_times and draw(st.integers(0, 9)):
            moment = NOON + timedelta(seconds=draw(st.integers(-40_000, 40_000)))
            message["time"] = _written(moment, draw(st.sampled_from(time_styles)))
        messages.append(message)
    conversation: Conversation = {"conversation_id": identity, "messages": messages}
    is_marked = any(message.get("outcome") == 1 for message in messages)
    outcome = draw(st.sampled_from([None, 1] if is_marked else [None, 0, 1]))
    if outcome is not None:
        conversation["outcome"] = outcome
    others = {
        "unfinished": st.sampled_from([True, False, None]),
        "meta": st.sampled_from([None, {}, {"unfinished": True}, {"unfinished": None, "a": [1]}]),
        "policy_version": st.sampled_from(["p0", ""]),
        "persona": st.just("shy"),
        "customer_id": st.sampled_from(["k1", "k2"]),
        "business_id": st.sampled_from(["b1", ""]),
    }
    return conversation | draw(st.fixed_dictionaries({}, optional=others))


TIME_STYLES = st.sampled_from([["zone"], ["naive"], ["zone", "naive"], ["zone", "seconds"]])


@st.composite
def batches(draw: st.DrawFn) -> list[Conversation]:
    """Several conversations with ids of their own."""
    styles = draw(TIME_STYLES)
    return [draw(conversations(f"c{n}", styles)) for n in range(draw(st.integers(0, 6)))]


@st.composite
def log_lines(draw: st.DrawFn) -> list[bytes]:
    """Lines of a log: conversations, and everything else that a log has."""
    styles = draw(TIME_STYLES)
    lines: list[bytes] = []
    for number in range(draw(st.integers(0, 9))):
        kind = draw(st.sampled_from(["new", "new", "new", "same id", "copy", "blank", "broken"]))
        if kind == "blank":
            lines.append(draw(st.sampled_from([b"", b" \t"])))
        elif kind == "broken":
            lines.append(draw(st.sampled_from(BROKEN)))
        elif kind == "copy" and lines:
            lines.append(draw(st.sampled_from(lines)))
        else:
            identity = "c0" if kind == "same id" else f"c{number}"
            conversation = draw(conversations(identity, styles))
            lines.append(json.dumps(conversation, ensure_ascii=draw(st.booleans())).encode())
    return lines


BROKEN = [
    b"{",
    b"[1]",
    b'{"conversation_id": "c1"}',
    b'{"conversation_id": "", "messages": []}',
    b'{"conversation_id": "c1", "messages": [{"role": "robot", "content": "a"}]}',
    b'{"conversation_id": "c1", "customer_id": "k1", '
    b'"messages": [{"role": "customer", "content": "a", "time": "late"}]}',
    b'{"conversation_id": "c1", "outcome": 0, '
    b'"messages": [{"role": "customer", "content": "a", "outcome": 1}]}',
    b'{"conversation_id": "\xff", "messages": []}',
]

# --- many, from a seed ---------------------------------------------------------------------------

_WORDS = ["yes", "no", "kitchen", "bath", "price", "why", "🙂", "größer", "and", "call me"]


def many_conversations(
    number: int, seed: int, *, with_suggestions: bool = True
) -> list[Conversation]:
    """Conversations with everything that all formats can say: every message has a time, later than
    the one before it."""
    rng = random.Random(seed)
    made = []
    for index in range(number):
        messages: list[dict[str, Any]] = []
        moment = NOON + timedelta(minutes=rng.randrange(100_000))
        for _ in range(rng.choice([0, 1, 2, 3, 5, 8, 13])):
            moment += timedelta(seconds=rng.randrange(1, 5_000))
            role = rng.choice(["customer", "business"])
            content = " ".join(rng.choices(_WORDS, k=rng.randrange(12)))
            message = {"role": role, "content": content, "time": moment.isoformat()}
            if rng.random() < 0.05:
                message["outcome"] = 1
            if with_suggestions and role == "business":
                message["suggestion"] = rng.choice([content, f"{content} or not", None])
                message["adoption"] = None if message["suggestion"] else rng.choice(ADOPTIONS[3:])
            messages.append(message)
        conversation: Conversation = {
            "conversation_id": f"{seed}/{index}",
            "messages": messages,
            "unfinished": rng.random() < 0.2,
            "customer_id": f"customer {rng.randrange(1 + number // 3)}",
            "business_id": f"business {rng.randrange(1 + number // 10)}",
            "persona": rng.choice(["bold", "shy"]),
        }
        if messages:
            mark = messages[-1].setdefault("outcome", rng.choice([0, 0, 1]))
            conversation["unfinished"] &= not mark
        made.append(conversation)
    return made


def as_lines(conversations: list[Conversation]) -> list[bytes]:
    """The neutral format."""
    return [json.dumps(one, ensure_ascii=False).encode() for one in conversations]


_OTHER_SIDES = {
    "openai": {"customer": "user", "business": "assistant"},
    "sharegpt": {"customer": "human", "business": "gpt"},
}


def as_foreign_lines(conversations: list[Conversation], format_: str) -> list[bytes]:
    """OpenAI's or ShareGPT's lines, each of which begins with a system's message."""
    sides = _OTHER_SIDES[format_]
    role, text = ("role", "content") if format_ == "openai" else ("from", "value")
    lines = []
    for one in conversations:
        messages: list[dict[str, Any]] = [{role: "system", text: "Be kind."}]
        for message in one["messages"]:
            others = {k: v for k, v in message.items() if k not in ("role", "content")}
            messages.append({role: sides[message["role"]], text: message["content"], **others})
        line = {k: v for k, v in one.items() if k not in ("conversation_id", "messages")}
        name = "messages" if format_ == "openai" else "conversations"
        lines.append(json.dumps({"id": one["conversation_id"], **line, name: messages}).encode())
    return lines


def as_event_rows(conversations: list[Conversation], seed: int = 0) -> list[dict[str, Any]]:
    """Messages of all conversations in any order, one of a system to each conversation; what has no
    message is nowhere."""
    rows = []
    for one in conversations:
        of_all = {k: v for k, v in one.items() if k not in ("messages", "unfinished")}
        for message in one["messages"]:
            rows.append({**dict.fromkeys(EVENT_COLUMNS), **of_all, **message})
        if one["messages"]:
            rows[-1]["unfinished"] = one["unfinished"]
            rows.append({**rows[-1], "role": "system", "outcome": None, "unfinished": None})
    random.Random(seed).shuffle(rows)
    return rows


EVENT_COLUMNS = (
    "conversation_id",
    "role",
    "content",
    "time",
    "outcome",
    "unfinished",
    "suggestion",
    "adoption",
    "persona",
    "customer_id",
    "business_id",
)
