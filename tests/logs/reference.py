"""What `ingest` and `returns` mean, written slowly and plainly: dictionaries, one conversation
after the other, sums as the paper has them. The columns of whole batches are tested against it.

    lines of a log -> Log(rows, counts, rejects)

c_1, m_1, …, c_n, m_n: consecutive messages of one side are one. A turn is (c_i, m_i). The outcome
o_i says whether the customer stated the wanted behaviour within c_1 … c_i; the reward of the
transition out of (s_i, a_i) is r_{i+1} = o_{i+1}; the conversation ends there. The return is
G_i = Σ_j γ^j r_{i+j+1}.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

Message = dict[str, Any]
Row = dict[str, Any]


@dataclass(frozen=True)
class Rules:
    """What the configuration says."""

    cutoff: datetime | None = None
    idle: timedelta = timedelta()
    edited_up_to: float = 0.5
    influenced_up_to: float = 0.5
    split_by: str = "conversation"
    heldout: float = 0.2
    seed: int = 0


@dataclass
class Log:
    """What became of every line."""

    rows: list[Row] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    rejects: list[tuple[int, str]] = field(default_factory=list)
    """Line, and why."""


def read_log(lines: Iterable[bytes], rules: Rules) -> Log:
    """Every line, in order: blank, rejected, a copy, or taken."""
    log = Log()
    first_with: dict[str, bytes] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        log.counts["lines"] += 1
        conversation, reason = parse(line, rules)
        identity = str(conversation.get("conversation_id"))
        if not reason and identity in first_with:
            if first_with[identity] == line:
                log.counts["copies"] += 1
                continue
            reason = "was there before"
        if reason:
            log.counts["rejects"] += 1
            log.rejects.append((number, reason))
            continue
        first_with[identity] = line
        log.counts["lines_taken"] += 1
        rows, counts = read_conversation(conversation, rules)
        log.rows += rows
        log.counts += counts
    return log


def parse(line: bytes, rules: Rules) -> tuple[dict[str, Any], str]:
    """The conversation of a line, or a word of what is wrong with it."""
    try:
        conversation = json.loads(line.decode())
    except ValueError:
        return {}, "not "
    if not isinstance(conversation, dict):
        return {}, "not a JSON object"
    messages = conversation.get("messages")
    if not conversation.get("conversation_id"):
        return {}, "conversation_id: is empty"
    if not isinstance(messages, list):
        return {}, "messages: Field required"
    for message in messages:
        if message["role"] not in ("customer", "business"):
            return {}, "role"
        try:
            moment_of(message)
        except ValueError:
            return {}, "time"
    if conversation.get("outcome") == 0 and any(m.get("outcome") == 1 for m in messages):
        return {}, "outcome: is 0"
    if rules.split_by in ("customer", "business"):
        name = f"{rules.split_by}_id"
        if not conversation.get(name):
            return {}, f"{name}: is missing"
    return conversation, ""


def read_conversation(conversation: dict[str, Any], rules: Rules) -> tuple[list[Row], Counter[str]]:
    """The turns of a conversation, and what became of its messages."""
    counts: Counter[str] = Counter(conversations=1)
    all_messages: list[Message] = conversation["messages"]
    messages = [
        message
        for number, message in enumerate(all_messages)
        if rules.cutoff is None or not is_after(rules.cutoff, all_messages[: number + 1])
    ]
    counts["messages"] = len(messages)
    counts["messages_after_cutoff"] = len(all_messages) - len(messages)
    if counts["messages_after_cutoff"]:
        conversation = conversation | {"outcome": None, "unfinished": None, "meta": None}

    is_reached, is_known, kept = until_outcome(messages, conversation.get("outcome"))
    counts["messages_cut_after_outcome"] = len(messages) - len(kept)
    is_censored = not is_reached and is_open(conversation, messages, is_known, rules)

    spoken = [m for m in kept if not is_blank(m.get("content")) or is_decision(m)]
    counts["messages_blank"] = len(kept) - len(spoken)
    moments = [moment for m in spoken if (moment := moment_of(m)) is not None]
    if moments != sorted(moments):
        counts["conversations_with_times_backwards"] = 1
    sides = join(spoken)
    counts["sides"] = len(sides)
    counts["messages_joined"] = len(spoken) - len(sides)

    turns, after = pair(sides, is_reached)
    rows = []
    for number, (customer, business) in enumerate(turns, start=1):
        is_last = number == len(turns)
        rows.append(
            {
                "conversation_id": str(conversation["conversation_id"]),
                "turn": number,
                "customer": text_of(customer),
                "sent": text_of(business),
                "customer_after": text_of(after) if is_last else None,
                "outcome_before": False,
                "reward": 1.0 if is_last and is_reached else 0.0,
                "done": is_last and not is_censored,
                "censored": is_censored,
                "customer_time": moment_of(customer[-1]) if customer else None,
                "sent_time": moment_of(business[-1]) if business else None,
                "split": split_of(conversation, rules),
                "customer_id": conversation.get("customer_id") or None,
                "business_id": conversation.get("business_id") or None,
                "facts": None,
            }
            | suggestion_of(business, spoken, conversation, rules)
        )
    counts["turns"] = len(rows)
    if not rows:
        counts["conversations_without_turns"] = 1
    else:
        counts["conversations_censored" if is_censored else "conversations_terminal"] = 1
        counts["outcomes"] = int(is_reached)
        counts[f"conversations_{rows[0]['split']}"] = 1
    return rows, counts


def is_after(cutoff: datetime, messages: list[Message]) -> bool:
    """Whether the last message is later; without a time it is as late as the one before."""
    moments = [moment for message in messages if (moment := moment_of(message)) is not None]
    return bool(moments) and moments[-1] > cutoff


def until_outcome(
    messages: list[Message], of_conversation: int | None
) -> tuple[bool, bool, list[Message]]:
    """Whether the outcome was reached, whether anything was said of it, and what had been written
    by then."""
    for number, message in enumerate(messages):
        if message.get("outcome") == 1:
            return True, True, messages[: number + 1]
    is_marked = any(message.get("outcome") is not None for message in messages)
    return of_conversation == 1, is_marked or of_conversation is not None, messages


def is_open(
    conversation: dict[str, Any], messages: list[Message], is_known: bool, rules: Rules
) -> bool:
    """Whether a conversation without outcome could still have got one when the log was cut."""
    unfinished = conversation.get("unfinished")
    if unfinished is None:
        unfinished = (conversation.get("meta") or {}).get("unfinished")
    if unfinished:
        return True
    moments = [moment for message in messages if (moment := moment_of(message)) is not None]
    if rules.cutoff and moments:
        return rules.cutoff - max(moments) < rules.idle
    return not is_known


def is_blank(text: Any) -> bool:
    """Whether it says nothing."""
    return not isinstance(text, str) or not text.strip()


def is_decision(message: Message) -> bool:
    """Whether the assistant did something, although nothing was sent."""
    if message["role"] != "business" or message.get("adoption") == "not_shown":
        return False
    return message.get("adoption") is not None or not is_blank(message.get("suggestion"))


def join(spoken: list[Message]) -> list[list[Message]]:
    """Consecutive messages of one side."""
    sides: list[list[Message]] = []
    for message in spoken:
        if sides and sides[-1][0]["role"] == message["role"]:
            sides[-1].append(message)
        else:
            sides.append([message])
    return sides


def pair(
    sides: list[list[Message]], is_reached: bool
) -> tuple[list[tuple[list[Message], list[Message]]], list[Message]]:
    """(c_i, m_i) of every turn, either of which may be missing; and what the customer wrote when
    the outcome came, after which there was nothing to decide."""
    turns: list[tuple[list[Message], list[Message]]] = []
    after: list[Message] = []
    for number, side in enumerate(sides):
        if side[0]["role"] == "business":
            if number == 0:
                turns.append(([], side))
            continue
        if number + 1 < len(sides):
            turns.append((side, sides[number + 1]))
        elif is_reached:
            after = side
        else:
            turns.append((side, []))
    return turns, after


def text_of(side: list[Message]) -> str | None:
    """What a side says."""
    texts = [message["content"] for message in side if not is_blank(message["content"])]
    return "\n".join(texts) if texts else None


def suggestion_of(
    business: list[Message], spoken: list[Message], conversation: dict[str, Any], rules: Rules
) -> Row:
    """The columns of a_i."""
    suggested = [m["suggestion"] for m in business if not is_blank(m.get("suggestion"))]
    suggestion = "\n".join(suggested) if suggested else None
    sent = text_of(business)
    logprobs = [
        m["suggestion_logprob"] for m in business if m.get("suggestion_logprob") is not None
    ]
    fates = {m["adoption"] for m in business if m.get("adoption") is not None}
    knows = any(m["role"] == "business" and ("suggestion" in m or "adoption" in m) for m in spoken)
    distance = None
    if suggestion is not None and sent is not None:
        distance = edits(suggestion, sent) / max(len(suggestion), len(sent))
    if not knows:
        adoption = None
    elif len(fates) == 1:
        (adoption,) = fates
    elif suggestion is None:
        adoption = "not_shown"
    elif suggestion.split() == (sent or "").split():
        adoption = "verbatim"
    elif distance is None:
        adoption = "rejected"
    elif distance <= rules.edited_up_to:
        adoption = "edited"
    elif distance <= rules.influenced_up_to:
        adoption = "influenced"
    else:
        adoption = "rejected"
    if adoption in ("abstained", "not_shown"):
        suggestion = distance = None
    row: Row = {
        "suggestion": suggestion,
        "adoption": adoption,
        "edit_distance": distance,
        "suggestion_logprob": sum(logprobs) if logprobs else None,
    }
    for name in ("policy_version", "persona"):
        named = [m[name] for m in business if m.get(name)]
        row[name] = named[0] if named else conversation.get(name) or None
    return row


def edits(first: str, second: str) -> int:
    """Levenshtein's distance."""
    before = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        now = [i]
        for j, b in enumerate(second, start=1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (a != b)))
        before = now
    return before[-1]


def moment_of(message: Message) -> datetime | None:
    """When it was written; without a zone it is UTC."""
    time = message.get("time")
    if time is None:
        return None
    if isinstance(time, str):
        moment = datetime.fromisoformat(time)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return datetime.fromtimestamp(time, UTC)


def split_of(conversation: dict[str, Any], rules: Rules) -> str:
    """Held out or not, by SHA-256 of what shares a split."""
    if rules.split_by == "conversation":
        key = str(conversation["conversation_id"])
    elif rules.split_by == "opening":
        said = [m["content"] for m in conversation["messages"] if not is_blank(m["content"])]
        key = " ".join(said[0].casefold().split()) if said else ""
    else:
        key = conversation[f"{rules.split_by}_id"]
    digits = hashlib.sha256(f"{rules.seed}:{key}".encode()).hexdigest()[:14]
    return "heldout" if int(digits, 16) / 16**14 < rules.heldout else "train"


def returns(rewards: list[float], gamma: float) -> list[float]:
    """G_i = Σ_j γ^j r_{i+j+1}, summed as it stands."""
    return [
        sum(gamma**j * rewards[i + j] for j in range(len(rewards) - i)) for i in range(len(rewards))
    ]
