"""A log of four conversations, and what a command that read it left behind."""

import json
from pathlib import Path
from typing import Any

EVERY_REJECT = ("--max-reject-rate", "1")
"""A broken line is not to end the stage."""


def conversation(name: str, *, outcome: int | None = 1, **fields: Any) -> str:
    messages = [
        {"role": "customer", "content": "hi"},
        {"role": "business", "content": "what do you need?"},
        {"role": "customer", "content": "a roof"},
        {"role": "business", "content": "we make roofs"},
    ]
    content = {"conversation_id": name, "messages": messages, "outcome": outcome, **fields}
    return json.dumps(content) + "\n"


def write_log() -> Path:
    """Two successes, a failure, an open conversation, in the current folder."""
    lines = [
        conversation("a"),
        conversation("b", outcome=0),
        conversation("c", unfinished=True, outcome=None),
        conversation("d"),
    ]
    Path("log.jsonl").write_text("".join(lines))
    return Path("log.jsonl")


def one_line(text: str) -> str:
    """The line that standard error holds, and nothing more."""
    assert text[-1:] == "\n", text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.rstrip("\n")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }
