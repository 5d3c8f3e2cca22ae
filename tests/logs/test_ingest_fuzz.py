"""Lines that were damaged in every way: `ingest` rejects them with a reason, or takes them, and
the counts add up. ITERPPO_FUZZ_LINES says how many."""

import contextlib
import copy
import csv
import io
import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.logs import generated
from tests.logs.ingesting import ingested

NUM_LINES = int(os.environ.get("ITERPPO_FUZZ_LINES", "10000"))
LINES_PER_LOG = 2_000
FORMATS = ["conversations", "openai", "sharegpt", "events", "csv"]

# --- damage --------------------------------------------------------------------------------------

BYTES = [b'"', b"{", b"}", b"[", b"\\", b"\n", b"\r", b"\0", b"\xff", b"\xed\xa0\x80", b"\\ud83d",
         b"1e999", b"NaN", b"null", b"9" * 30, b"\xef\xbb\xbf", b"\xe2\x80\xa8"]  # fmt: skip
VALUES: list[Any] = [
    None, True, False, 0, 1, -1, 2, 0.5, 1e308, float("nan"), float("inf"), 10**18, 10**30, "", " ",
    "x", "0", "1", "\ud800", "a\0b", "customer", "user", "abstained", "2026-05-01T10:00:00Z",
    "2026-05-01T10:00:00+02:00", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00",
    1_777_629_600, 1_777_629_600_000, [], [1], {}, {"type": "text", "text": "y"},
    [{"type": "image"}],
]  # fmt: skip
Damage = Callable[[random.Random, list[bytes]], bytes]


def flip(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A few bytes are others."""
    line = bytearray(rng.choice(seeds))
    for _ in range(rng.randrange(1, 4)):
        line[rng.randrange(len(line))] ^= 1 << rng.randrange(8)
    return bytes(line)


def cut(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A part is missing."""
    line = rng.choice(seeds)
    start, end = sorted(rng.randrange(len(line) + 1) for _ in range(2))
    return line[:start] + (line[end:] if rng.random() < 0.5 else b"")


def splice(rng: random.Random, seeds: list[bytes]) -> bytes:
    """The beginning of one line, the end of another."""
    first, second = rng.choice(seeds), rng.choice(seeds)
    return first[: rng.randrange(len(first))] + second[rng.randrange(len(second)) :]


def insert(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Something that does not belong there."""
    line = rng.choice(seeds)
    place = rng.randrange(len(line) + 1)
    return line[:place] + rng.choice(BYTES) + line[place:]


def swap(rng: random.Random, seeds: list[bytes]) -> bytes:
    """Values of other types, and keys that are missing or doubled."""
    content = json.loads(rng.choice(seeds))
    for _ in range(rng.randrange(1, 4)):
        containers = list(_containers(content))
        container = rng.choice(containers)
        if not container:
            continue
        key = rng.choice(list(container) if isinstance(container, dict) else range(len(container)))
        if rng.random() < 0.2:
            del container[key]
        elif isinstance(container, list) and rng.random() < 0.3:
            container.append(container[key])
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(content, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def nest(rng: random.Random, seeds: list[bytes]) -> bytes:
    """A value that is nested more deeply than a stack is high, or nearly so."""
    line = rng.choice(seeds)
    place = rng.choice([place for place, byte in enumerate(line) if byte == ord(":")]) + 1
    depth = rng.choice([50, 900, 980, 990, 1_000, 5_000])
    return line[:place] + b"[" * depth + b"]" * depth + b', "x":' + line[place:]


def _containers(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _containers(inner)


OF_JSON: list[Damage] = [flip, cut, splice, insert, swap, swap, swap, swap, nest]
OF_CSV: list[Damage] = [flip, cut, splice, insert]

# --- the run -------------------------------------------------------------------------------------


def seeds_of(format_: str) -> tuple[bytes, list[bytes]]:
    """A header, and lines of a format to damage."""
    conversations = generated.many_conversations(30, seed=2)
    for one in conversations:
        one["meta"] = {"product": "kitchen", "budget": [9, {"least": 7.5}], "unfinished": False}
    if format_ == "conversations":
        return b"", generated.as_lines(conversations)
    if format_ in ("openai", "sharegpt"):
        return b"", generated.as_foreign_lines(conversations, format_)
    rows = generated.as_event_rows(conversations)
    if format_ == "events":
        return b"", [
            json.dumps(row | {"message_id": f"m-{n}"}).encode() for n, row in enumerate(rows)
        ]
    text = io.StringIO()
    writer = csv.DictWriter(text, generated.EVENT_COLUMNS, extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    header, *lines = text.getvalue().encode().splitlines(keepends=True)
    return header, [line.rstrip() for line in lines]


@contextlib.contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """Whatever takes longer hangs."""

    def stop(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("format_", FORMATS)
def test_ingest_takes_or_rejects_every_damaged_line(format_: str, tmp_path: Path) -> None:
    header, seeds = seeds_of(format_)
    damages = OF_CSV if format_ == "csv" else OF_JSON
    num_left = NUM_LINES // len(FORMATS)
    num_taken = num_rejected = 0
    while num_left > 0:
        rng = random.Random(f"{format_} {num_left}")
        lines = [
            rng.choice(damages)(rng, seeds) if rng.random() < 0.9 else rng.choice(seeds)
            for _ in range(min(num_left, LINES_PER_LOG))
        ]
        if header == b"" and format_ != "events":  # a conversation a line: most have their own id
            lines = [line.replace(b'"2/', b'"%d/' % (n % 500)) for n, line in enumerate(lines)]
        num_left -= len(lines)
        content = header + b"\n".join([*lines, rng.choice(seeds)])
        name = "a.csv" if format_ == "csv" else "a.jsonl"
        with no_longer_than(300):
            found = ingested(
                tmp_path,
                {name: content},
                format="events" if format_ == "csv" else format_,
                facts=["product", "budget"],
                cutoff="2026-06-01T00:00:00Z",
                idle="1d",
                redact=rng.random() < 0.25,
                split_by=rng.choice(["conversation", "opening", "customer"]),
            )
        if format_ != "csv":  # whose rows may go over several lines
            assert found.counts["lines"] == sum(map(bool, map(bytes.strip, content.split(b"\n"))))
        assert all(reason for _, reason in found.reasons())
        num_taken += found.counts["lines_taken"]
        num_rejected += found.counts["rejects"]
    assert min(num_taken, num_rejected) > NUM_LINES / len(FORMATS) / 20
