"""What was suggested then, and what the next policy suggests now, in the same states.

    policy (sampled completions) × q × trajectories -> cards, the most changed first

No model runs. The policy artifact holds the completions that were sampled while it was trained,
each with its Q̂; those of the last updates before the policy that was kept are nearly its own. They
answer prompts of training conversations, so Q̂ has seen how these went: what is compared is two
actions in one state, not the height of either.

Each artifact is read once, a batch at a time, and only what is shown is kept.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from iterppo.artifact import Artifact
from iterppo.report.page.run import Round

LAST_SHARE = 0.25
"""Of the updates up to the kept policy: those whose completions stand for it."""
MOST_PROMPTS = 200_000
MOST_CHARACTERS = 2_000
CANDIDATES_PER_CARD = 4


@dataclass(frozen=True)
class Message:
    """What somebody wrote."""

    who: str
    """customer or business."""
    text: str


@dataclass(frozen=True)
class Suggestion:
    """An action in the state."""

    text: str
    """Empty: abstained."""
    q: float
    times: int = 1
    """How often it was sampled."""


@dataclass(frozen=True)
class Card:
    """One state, with the action of then and those of now."""

    conversation_id: str
    turn: int
    before: tuple[Message, ...]
    """Messages that led there."""
    then: Suggestion
    then_is_sent: bool
    """The log has no suggestions: the sent message is the action."""
    adoption: str
    sent: str
    """What the business sent, where it differs."""
    now: tuple[Suggestion, ...]
    outcome: str
    """reached, not reached or open."""

    @property
    def q_now(self) -> float:
        """Mean over the samples."""
        return sum(each.q * each.times for each in self.now) / sum(each.times for each in self.now)

    @property
    def change(self) -> float:
        """Q̂ of now less Q̂ of then."""
        return self.q_now - self.then.q

    @property
    def kind(self) -> str:
        """For the filter: same where nothing else is suggested, else higher or lower."""
        if all(each.text == self.then.text for each in self.now):
            return "same"
        return "higher" if self.change > 0 else "lower"


@dataclass(frozen=True)
class Cards:
    """A round's cards."""

    cards: tuple[Card, ...]
    first_update: int
    last_update: int
    """The completions were sampled by policies that had had so many updates."""
    kept_update: int
    num_compared: int
    """Conversations in which both actions have a Q̂; the most changed ones are the cards."""


@dataclass
class _Pair:
    """A prompt's newest completions, and the Q̂ of its logged action."""

    step: int = -1
    completions: Counter[str] = field(default_factory=Counter)
    q: dict[str, float] = field(default_factory=dict)

    def add(self, step: int, completion: str, q: float) -> None:
        if step > self.step:
            self.step, self.completions, self.q = step, Counter(), {}
        if step == self.step:
            self.completions[completion] += 1
            self.q[completion] = q

    def mean_q(self) -> float:
        return sum(self.q[text] * n for text, n in self.completions.items()) / sum(
            self.completions.values()
        )


def read_cards(one: Round, *, most: int) -> Cards | None:
    """The most changed conversations of a round, one state of each; None where the round has no
    policy, Q or turns, or its policy no completions."""
    policy, q, turns = (one.whole(name) for name in ("policy", "q", "trajectories"))
    if policy is None or q is None or turns is None or policy.manifest is None:
        return None
    counts, metrics = policy.manifest.counts, policy.manifest.metrics
    steps = max(counts.get("optimiser_steps", 0) // max(counts.get("updates", 0), 1), 1)
    kept = metrics.get("kept_update")
    kept_update = int(kept) if isinstance(kept, float | int) else counts.get("updates", 0)
    last = max(kept_update - 1, 0)
    first = min(int(kept_update * (1 - LAST_SHARE)), last)
    pairs = _completions(policy.artifact(), first_step=first * steps, last_step=last * steps)
    if not pairs:
        return None
    chosen, num_compared = _most_changed(q.artifact(), pairs, most=most)
    cards = _cards(turns.artifact(), chosen, pairs)
    found = sorted(cards, key=lambda card: (-abs(card.change), card.conversation_id, card.turn))
    return Cards(tuple(_different(found, most)), first, last, kept_update, num_compared)


def _completions(policy: Artifact, *, first_step: int, last_step: int) -> dict[str, _Pair]:
    """The newest completions of each prompt between two steps, truncated ones left out: they are no
    actions."""
    pairs: dict[str, _Pair] = {}
    for batch in policy.batches(["step", "prompt_id", "completion", "truncated", "q"]):
        step = batch.column("step")
        within = pc.and_(pc.greater_equal(step, first_step), pc.less_equal(step, last_step))
        within = pc.and_(within, pc.invert(batch.column("truncated")))
        for row in pa.Table.from_batches([batch]).filter(within).to_pylist():
            pair = pairs.get(row["prompt_id"])
            if pair is None:
                if len(pairs) == MOST_PROMPTS:
                    continue
                pair = pairs[row["prompt_id"]] = _Pair()
            pair.add(row["step"], row["completion"], row["q"])
    return pairs


def _most_changed(
    q: Artifact, pairs: dict[str, _Pair], *, most: int
) -> tuple[dict[str, tuple[int, float]], int]:
    """Conversation -> its most changed turn and the Q̂ of then, for more of them than are shown;
    and how many conversations there were to choose from."""
    best: dict[str, tuple[float, int, float]] = {}
    for batch in q.batches(["conversation_id", "turn", "q"]):
        for conversation_id, turn, then in zip(
            *(batch.column(name).to_pylist() for name in ("conversation_id", "turn", "q")),
            strict=True,
        ):
            pair = pairs.get(f"{conversation_id}/{turn}")
            if pair is None:
                continue
            change = abs(pair.mean_q() - then)
            if conversation_id not in best or change > best[conversation_id][0]:
                best[conversation_id] = (change, turn, then)
    chosen = heapq.nsmallest(
        most * CANDIDATES_PER_CARD, best.items(), key=lambda item: (-item[1][0], item[0])
    )
    return {name: (turn, then) for name, (_, turn, then) in chosen}, len(best)


def _cards(
    turns: Artifact, chosen: dict[str, tuple[int, float]], pairs: dict[str, _Pair]
) -> Iterator[Card]:
    columns = ["conversation_id", "turn", "customer", "suggestion", "sent", "adoption"]
    columns += ["reward", "censored"]
    for rows in _conversations(turns, columns, set(chosen)):
        turn, q_then = chosen[rows[0]["conversation_id"]]
        at = next((n for n, row in enumerate(rows) if row["turn"] == turn), None)
        if at is None:
            continue
        row = rows[at]
        then_is_sent = row["adoption"] is None
        action = (row["sent"] if then_is_sent else row["suggestion"]) or ""
        pair = pairs[f"{row['conversation_id']}/{turn}"]
        yield Card(
            row["conversation_id"],
            turn,
            tuple(_messages(rows[:at], row["customer"])),
            Suggestion(_cut(action), q_then),
            then_is_sent,
            row["adoption"] or "",
            "" if row["sent"] in (None, action) else _cut(row["sent"]),
            tuple(
                Suggestion(_cut(text), pair.q[text], times)
                for text, times in sorted(pair.completions.items(), key=lambda x: (-x[1], x[0]))
            ),
            _outcome(rows),
        )


def _conversations(
    turns: Artifact, columns: list[str], wanted: set[str]
) -> Iterator[list[dict[str, Any]]]:
    """Whole conversations of these ids, in the artifact's order."""
    values = pa.array(sorted(wanted), pa.string())
    current: list[dict[str, Any]] = []
    for batch in turns.batches(columns):
        own = pc.is_in(batch.column("conversation_id"), value_set=values)
        for row in pa.Table.from_batches([batch]).filter(own).to_pylist():
            if current and row["conversation_id"] != current[0]["conversation_id"]:
                yield current
                current = []
            current.append(row)
    if current:
        yield current


def _messages(rows: Iterable[dict[str, Any]], last: str | None) -> Iterator[Message]:
    for row in rows:
        if row["customer"]:
            yield Message("customer", _cut(row["customer"]))
        if row["sent"]:
            yield Message("business", _cut(row["sent"]))
    if last:
        yield Message("customer", _cut(last))


def _outcome(rows: list[dict[str, Any]]) -> str:
    if any(row["reward"] > 0 for row in rows):
        return "reached"
    return "open" if rows[0]["censored"] else "not reached"


def _different(cards: Iterable[Card], most: int) -> Iterator[Card]:
    """The first cards, those left out that say what another one says: the same customer's message,
    the same actions."""
    seen: set[tuple[Any, ...]] = set()
    for card in cards:
        last = card.before[-1].text if card.before else ""
        says = (last, card.then.text, tuple(each.text for each in card.now))
        if says not in seen:
            seen.add(says)
            yield card
        if len(seen) == most:
            return


def _cut(text: str) -> str:
    if len(text) <= MOST_CHARACTERS:
        return text
    return f"{text[:MOST_CHARACTERS]} … ({len(text) - MOST_CHARACTERS} more characters)"
