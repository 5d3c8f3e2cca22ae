"""Logs cut by a clock, simulated: the mean return of the ended conversations is biased, the
weighted one is not.

Conversations start at any time; a log holds what was written by the cutoff. What the process pays
is known exactly, so that it can be seen how often an interval covers it.
"""

import functools
import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from iterppo.artifact import ArtifactWriter
from iterppo.config import IngestConfig, ReturnsConfig
from iterppo.logs.censoring import Clock, is_censored
from iterppo.logs.conversations import Cut, TurnTable
from iterppo.logs.outcomes import from_marks
from iterppo.logs.records import LogConversation, LogMessage
from iterppo.rl.return_batches import Weighting, count_seen, pay
from iterppo.stages.returns import run

CUTOFF = datetime(2026, 6, 1, tzinfo=UTC)
NUM_LOGS = 100
NUM_CONVERSATIONS = 800
"""Half of them begin before the cutoff."""


@dataclass(frozen=True)
class Process:
    """How conversations go, and how they are logged; times in hours."""

    window: float
    """Conversations begin so long before the cutoff at most, or as long after it."""
    idle: float
    business_gap: float
    """Mean time until the business answers; it never takes twice as long,"""
    customer_gap: float
    """nor does the customer: a silence of `idle` is an end."""
    unanswered: float
    """Probability, at every turn, that the business stops responding,"""
    leaves: tuple[float, ...]
    """that the customer does, by turn, after the business's message,"""
    buys: tuple[float, ...]
    """and that the customer's next message states the outcome."""

    def mean_return(self, gamma: float) -> float:
        """E G_1."""
        going, total = 1.0, 0.0
        for turn, (leaves, buys) in enumerate(zip(self.leaves, self.buys, strict=True)):
            going *= 1 - self.unanswered
            total += going * buys * gamma**turn
            going *= 1 - leaves - buys
        return total

    def hold(self, name: str, time: datetime, chance: random.Random) -> LogConversation:
        """One conversation, whole."""
        messages = [LogMessage("customer", "Hello?", time)]
        for leaves, buys in zip(self.leaves, self.buys, strict=True):
            if chance.random() < self.unanswered:
                break
            time += timedelta(hours=self.business_gap * chance.uniform(0, 2))
            messages.append(LogMessage("business", "Shall we visit?", time))
            fate = chance.random()
            if fate < leaves:
                break
            time += timedelta(hours=self.customer_gap * chance.uniform(0, 2))
            reached = fate < leaves + buys
            messages.append(LogMessage("customer", "Yes.", time, outcome=1 if reached else None))
            if reached:
                break
        else:
            messages.pop()  # whoever has not bought by the last turn leaves
        return LogConversation(name, messages)

    def log(self, seed: int) -> pa.Table:
        """Turns as `ingest` makes them of what was written by the cutoff."""
        chance = random.Random(seed)
        clock = Clock(CUTOFF, timedelta(hours=self.idle))
        turns = TurnTable()
        for number in range(NUM_CONVERSATIONS):
            start = CUTOFF + timedelta(hours=chance.uniform(-self.window, self.window))
            if start > CUTOFF:
                continue
            conversation = self.hold(str(number), start, chance)
            conversation.messages = clock.before_cutoff(conversation.messages)
            (label,) = from_marks([conversation])
            censored = is_censored(conversation, label, clock)
            turns.add(Cut(conversation, label, censored, "train"))
        return turns.take()


PATIENCE_PAYS = Process(
    window=24,
    idle=4,
    business_gap=0.5,
    customer_gap=1.5,
    unanswered=0.03,
    leaves=(0.35, 0.3, 0.2, 0.1, 0.05, 0.05, 0.05, 0.05, 0.05, 0.05),
    buys=(0.0, 0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6),
)
"""Only long conversations pay, and those are cut most often: the ended ones pay too little."""

SILENCE_IS_LONG = Process(
    window=120,
    idle=36,
    business_gap=0.3,
    customer_gap=0.5,
    unanswered=0.1,
    leaves=(0.3, 0.2, 0.2, 0.2, 0.2, 0.2),
    buys=(0.05, 0.1, 0.15, 0.2, 0.2, 0.2),
)
"""An outcome is known within the hour, a failure after a day and a half: the ended ones pay too
much."""

IDS = {PATIENCE_PAYS: "only long conversations pay", SILENCE_IS_LONG: "failures are known late"}


@functools.cache
def logs(process: Process) -> list[pa.Table]:
    return [process.log(seed) for seed in range(NUM_LOGS)]


def until(process: Process) -> np.datetime64:
    return np.datetime64((CUTOFF - timedelta(hours=process.idle)).replace(tzinfo=None), "us")


def estimates(
    process: Process, gamma: float, fate_known_until: np.datetime64 | None
) -> list[dict[str, float]]:
    """The metrics of every log."""
    found = []
    for turns in logs(process):
        cap = ReturnsConfig().max_weight
        seen = count_seen(turns, fate_known_until)
        weighting = Weighting(seen, fate_known_until, max_weight=cap)
        found.append(pay(turns, gamma=gamma, weighting=weighting).moments.metrics(weighting))
    return found


def num_covering(found: list[dict[str, float]], name: str, truth: float) -> int:
    return sum(each[f"{name}_low"] <= truth <= each[f"{name}_high"] for each in found)


@pytest.mark.parametrize("gamma", [1.0, 0.9])
@pytest.mark.parametrize(
    ("process", "sign"), [(PATIENCE_PAYS, -1), (SILENCE_IS_LONG, 1)], ids=IDS.values()
)
def test_the_naive_mean_is_biased_by_censoring_and_the_weighted_one_is_not(
    process: Process, sign: int, gamma: float
) -> None:
    truth = process.mean_return(gamma)

    found = estimates(process, gamma, until(process))

    naive = np.array([each["mean_return_naive"] for each in found])
    assert np.sum(sign * (naive - truth) > 0) >= 95
    assert num_covering(found, "mean_return_naive", truth) <= 40
    assert num_covering(found, "mean_return_weighted", truth) >= 90
    # Nor is there a bias that is too small to be missed by an interval: the mean of a hundred logs.
    weighted = np.array([each["mean_return_weighted"] for each in found])
    assert abs(weighted.mean() - truth) < 3 * weighted.std() / np.sqrt(NUM_LOGS)
    # The intervals are as wide as the estimates scatter.
    halves = [each["mean_return_weighted_high"] - each["mean_return_weighted"] for each in found]
    assert np.mean(halves) == pytest.approx(1.96 * weighted.std(), rel=0.2)


def test_weights_on_a_log_that_is_read_up_to_its_cut_mend_nothing() -> None:
    """Why the clock of the weights stops `idle` before the cutoff."""
    truth = SILENCE_IS_LONG.mean_return(1.0)

    found = estimates(SILENCE_IS_LONG, 1.0, None)

    assert num_covering(found, "mean_return_naive", truth) <= 40
    assert num_covering(found, "mean_return_weighted", truth) <= 40


def test_the_stage_finds_the_clock_in_the_trajectories_that_ingest_made(tmp_path: Path) -> None:
    turns, process = logs(SILENCE_IS_LONG)[0], SILENCE_IS_LONG
    ingested = IngestConfig(cutoff=CUTOFF.isoformat(), idle=f"{process.idle:g}h")
    with ArtifactWriter(
        tmp_path / "trajectories", kind="trajectories", stage="ingest", config=ingested, inputs={}
    ) as writer:
        writer.write_table(turns)

    made = run(
        ReturnsConfig(gamma=0.9), trajectories=tmp_path / "trajectories", out=tmp_path / "returns"
    )

    assert made.metrics == pytest.approx(estimates(process, 0.9, until(process))[0])
    assert made.counts["turns_too_recent"] > 0
