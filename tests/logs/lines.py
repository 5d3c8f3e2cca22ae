"""Lines of the neutral format, message by message, and the turns that they become."""

import json
from typing import Any

from iterppo.logs.conversations import turns_of
from iterppo.logs.records import parse_line

Message = dict[str, Any]
Rows = list[dict[str, Any]]


def said(role: str, content: str, **fields: Any) -> Message:
    return {"role": role, "content": content, **fields}


def customer(content: str, **fields: Any) -> Message:
    return said("customer", content, **fields)


def business(content: str, **fields: Any) -> Message:
    return said("business", content, **fields)


def line(*messages: Any, **fields: Any) -> bytes:
    return json.dumps({"conversation_id": "c", "messages": list(messages), **fields}).encode()


def turns(*messages: Message, **fields: Any) -> Rows:
    return turns_of(parse_line(line(*messages, **fields)))[0]


def columns(rows: Rows, *names: str) -> list[Any]:
    """The named columns of every row, or the values of the one."""
    return [
        row[names[0]] if len(names) == 1 else tuple(row[name] for name in names) for row in rows
    ]


C1, M1, C2, M2, C3, M3 = (
    customer("c1"),
    business("m1"),
    customer("c2"),
    business("m2"),
    customer("c3"),
    business("m3"),
)
REACHED = {"outcome": 1}
