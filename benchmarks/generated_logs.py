"""Logs and trajectories that benchmarks are run on: the same bytes for the same size and seed.

What a real log is like is taken from three public sets of chats (craigslist, STAR, CaSiNo: 4,788
conversations with 79,576 messages):

                            mean    5 %   25 %   50 %   75 %   95 %   99 %
    messages a conversation   17      5     10     14     20     38     44
    characters a message      58      5     25     45     79    142    226
    bytes a line           2,660

and a log made here has

    messages a conversation   16      5      9     13     20     36     54
    characters a message      59     12     27     45     74    154    258
    bytes a line           2,650 (with suggestions, without facts)

Both are drawn from lognormal distributions. Texts are slices of a text of made-up words, Zipf's law
gives their frequencies; zstd makes them 2.3 times smaller, the real ones 2.9 to 4.2 times. Every
second conversation has suggestions: three in five are sent verbatim, one in five is edited, one is
not taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa

from iterppo.artifact import ArtifactWriter
from iterppo.config import IngestConfig
from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema

_CONVERSATIONS_AT_ONCE = 2_000
_WORDS_AT_ONCE = 400_000
_FIRST_TIME_S = 1_750_000_000
_LETTERS = "etaoinshrdlucmfwypvbgkjqxz"
_RARE = ["🙂", "größer", "café", "naïve", "→", "☹️"]


def write_log(path: Path, num_bytes: int, *, seed: int = 0) -> None:
    """Write conversations in the neutral format until the file has about that size."""
    rng = np.random.default_rng(seed)
    words = _vocabulary(rng)
    frequency = 1 / (np.arange(len(words)) + 2.7)
    cumulative = np.cumsum(frequency / frequency.sum())
    written = number = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        while written < num_bytes:
            chosen = np.searchsorted(cumulative, rng.random(_WORDS_AT_ONCE))
            text = " ".join(words[chosen].tolist())
            for line in _lines(rng, text, number):
                written += file.write(line)
                number += 1
                if written >= num_bytes:
                    break


def _vocabulary(rng: np.random.Generator) -> np.ndarray:
    """Words by rank: frequent ones are short."""
    frequency = 1 / np.arange(2, len(_LETTERS) + 2)
    frequency /= frequency.sum()
    lengths = np.clip(rng.poisson(1.5 + 0.6 * np.log(np.arange(20_000) + 2)), 1, 14)
    letters = rng.choice(list(_LETTERS), int(lengths.sum()), p=frequency)
    ends = np.cumsum(lengths)
    words = ["".join(letters[end - n : end]) for end, n in zip(ends, lengths, strict=True)]
    return np.array([*words[:300], *_RARE, *words[300:]], dtype=object)


def _lines(rng: np.random.Generator, text: str, first_number: int) -> Iterator[str]:
    num_messages = np.clip(rng.lognormal(np.log(14), 0.58, _CONVERSATIONS_AT_ONCE), 1, 120)
    for number, length in enumerate(num_messages.astype(int).tolist(), start=first_number):
        yield _line(rng, text, number, length)


def _line(rng: np.random.Generator, text: str, number: int, num_messages: int) -> str:
    lengths = np.clip(rng.lognormal(np.log(45), 0.75, num_messages), 2, 2_000).astype(int)
    starts = rng.integers(0, len(text) - 10_000, num_messages)
    seconds = _FIRST_TIME_S + 7 * number + np.cumsum(rng.exponential(45, num_messages)).astype(int)
    is_business = (np.cumsum(rng.random(num_messages) < 0.95) + rng.integers(2)) % 2 == 1
    chances = rng.random(num_messages).tolist()
    outcome, when, is_open = rng.random(3) < (0.5, 0.3, 0.05)
    # The outcome is reached at the end, or, in three of ten, in the middle.
    reached = num_messages // 2 if when else num_messages - 1
    messages = []
    for turn, (start, length, moment, business, chance) in enumerate(
        zip(
            starts.tolist(),
            lengths.tolist(),
            seconds.tolist(),
            is_business.tolist(),
            chances,
            strict=True,
        )
    ):
        content = text[start : start + length].strip() or "ok"
        if chance > 0.98:
            content += "\\n" + text[start + length : start + length + 20].strip()
        time = datetime.fromtimestamp(moment, UTC).isoformat()[:19]
        role = "business" if business else "customer"
        message = f'{{"role": "{role}", "content": "{content}", "time": "{time}Z"'
        if business and number % 2:
            suggestion = content
            if chance < 0.2:
                suggestion = content[: length // 2] + text[start : start + length // 2]
            elif chance < 0.4:
                suggestion = text[start + 2_000 : start + 2_000 + length]
            message += f', "suggestion": "{suggestion}", "suggestion_logprob": {-30 * chance:.4f}'
        if outcome and turn >= reached:
            message += ', "outcome": 1'
        elif not outcome and not is_open and turn == num_messages - 1:
            message += ', "outcome": 0'
        messages.append(message + "}")
    return (
        f'{{"conversation_id": "c-{number:08d}", "messages": [{", ".join(messages)}], '
        f'"unfinished": {"true" if is_open and not outcome else "false"}, '
        f'"policy_version": "policy-7", "customer_id": "customer-{number * 7_919 % 1_000_003}"}}\n'
    )


def write_trajectories(out: Path, num_turns: int, *, seed: int = 0) -> None:
    """Write an artifact of at least so many turns, without texts: `returns` reads none.

    A conversation has 8 turns in the mean, one in ten is censored, of the others two in five have
    their outcome.
    """
    rng = np.random.default_rng(seed)
    schema = arrow_schema(ROWS["trajectories"])
    config = IngestConfig()
    written = num_conversations = 0
    with ArtifactWriter(
        out, kind="trajectories", stage="ingest", config=config, inputs={}
    ) as writer:
        while written < num_turns:
            length_N = rng.geometric(1 / 8, 8_192)
            num_T = int(length_N.sum())
            last_N = np.cumsum(length_N) - 1
            censored_N = rng.random(len(length_N)) < 0.1
            reward_T, done_T = np.zeros(num_T), np.zeros(num_T, dtype=bool)
            reward_T[last_N] = ~censored_N & (rng.random(len(length_N)) < 0.4)
            done_T[last_N] = ~censored_N
            numbers = np.arange(num_conversations, num_conversations + len(length_N))
            columns = {
                "conversation_id": np.repeat([f"c-{n:08d}" for n in numbers.tolist()], length_N),
                "turn": np.arange(num_T) - np.repeat(last_N + 1 - length_N, length_N) + 1,
                "reward": reward_T,
                "done": done_T,
                "censored": np.repeat(censored_N, length_N),
                "outcome_before": np.zeros(num_T, dtype=bool),
                "split": np.full(num_T, "train"),
            }
            arrays = [
                pa.array(columns[field.name]).cast(field.type)
                if field.name in columns
                else pa.nulls(num_T, field.type)
                for field in schema
            ]
            writer.write_table(pa.table(arrays, schema=schema))
            written += num_T
            num_conversations += len(length_N)
