"""`returns` from trajectories on disk: all rows, in order; the clock that ingest went by; and what
the manifest says."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from iterppo.artifact import ArtifactWriter, Manifest, open_artifact, writing
from iterppo.config import ByConversation, ByEvents, CreditConfig, IngestConfig, ReturnsConfig
from iterppo.contracts import ROWS
from iterppo.contracts.base import arrow_schema
from iterppo.errors import ArtifactError, UsageError
from iterppo.rl.returns import monte_carlo_returns
from iterppo.stages.returns import run

CUTOFF = datetime(2026, 6, 1, tzinfo=UTC)
BY_CONVERSATION = ByConversation(by="conversation")


def trajectories(
    out: Path,
    columns: dict[str, Any],
    *,
    ingested: IngestConfig | None = None,
    rows_per_group: int = 10_000,
) -> Path:
    """An artifact of turns that have these columns; the others are empty."""
    num_turns = len(columns["turn"])
    empty = {"outcome_before": False, "done": False, "split": "train"}
    filled = {name: [value] * num_turns for name, value in empty.items()} | columns
    schema = arrow_schema(ROWS["trajectories"])
    table = pa.table(
        [
            pa.array(filled[field.name], field.type)
            if field.name in filled
            else pa.nulls(num_turns, field.type)
            for field in schema
        ],
        schema=schema,
    )
    with ArtifactWriter(
        out, kind="trajectories", stage="ingest", config=ingested or IngestConfig(), inputs={}
    ) as writer:
        for start in range(0, num_turns, rows_per_group):
            writer.write_table(table.slice(start, rows_per_group))
    return out


def returns(source: Path, **settings: Any) -> tuple[Manifest, list[dict[str, Any]]]:
    out = source.parent / "returns"
    made = run(ReturnsConfig(**settings), trajectories=source, out=out)
    return made, list(open_artifact(out, "returns").rows())


@pytest.mark.parametrize("weights", ["kaplan-meier", "none"])
def test_a_log_of_many_batches_is_paid_conversation_by_conversation(
    weights: str, tmp_path: Path
) -> None:
    chance = np.random.default_rng(0)
    lengths = chance.geometric(0.2, size=4_000)
    lengths[900] = 70_000  # longer than a batch
    censored_N, reached_N = chance.random((2, len(lengths))) < [[0.2], [0.4]]
    rewards = [
        [0.0] * (length - 1) + [float(r)] for length, r in zip(lengths, reached_N, strict=True)
    ]
    columns = {
        "conversation_id": np.repeat([f"c{number}" for number in range(len(lengths))], lengths),
        "turn": np.concatenate([np.arange(length) + 1 for length in lengths]),
        "reward": np.concatenate(rewards),
        "censored": np.repeat(censored_N, lengths),
    }
    source = trajectories(tmp_path / "trajectories", columns, rows_per_group=7_001)

    made, rows = returns(source, gamma=0.99, weights=weights)

    expected: list[tuple[float | None, int | None]] = []
    for paid, censored in zip(rewards, censored_N, strict=True):
        known = zip(monte_carlo_returns(paid, gamma=0.99), range(len(paid), 0, -1), strict=True)
        expected += [(None, None)] * len(paid) if censored else known
    assert [(row["return"], row["horizon"]) for row in rows] == expected
    for name, values in columns.items():
        if name != "censored":
            assert [row[name] for row in rows] == values.tolist()
    num_known = int(lengths[~censored_N].sum())
    assert made.counts == {
        "conversations": 4_000,
        "conversations_censored": int(censored_N.sum()),
        "turns": len(rows),
        "turns_with_return": num_known,
        "turns_censored": len(rows) - num_known,
        "turns_too_recent": 0,
        "turns_capped": made.counts["turns_capped"],
    }
    weight_N = {row["conversation_id"]: row["weight"] for row in rows}
    assert [weight_N[f"c{number}"] > 0 for number in range(4_000)] == (~censored_N).tolist()
    if weights == "none":
        assert set(weight_N.values()) == {0.0, 1.0}


def test_parts_and_processes_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths = np.random.default_rng(1).integers(1, 9, size=300)
    columns = {
        "conversation_id": np.repeat([f"c{number}" for number in range(300)], lengths),
        "turn": np.concatenate([np.arange(length) + 1 for length in lengths]),
        "reward": np.arange(lengths.sum()) % 7 / 7,
        "censored": np.repeat(np.arange(300) % 3 == 0, lengths),
    }
    whole = trajectories(tmp_path / "whole", columns)
    monkeypatch.setattr(writing, "_ROWS_PER_PART", 100)
    cut = trajectories(tmp_path / "cut", columns, rows_per_group=7)
    num_stretches = len(open_artifact(cut).stretches())
    assert 1 < num_stretches < len(open_artifact(cut).parts())

    made = [
        run(ReturnsConfig(), trajectories=source, out=tmp_path / f"{number}", workers=workers)
        for number, (source, workers) in enumerate([(whole, 1), (cut, 1), (cut, 2)])
    ]

    in_one_part, in_parts, in_processes = (
        open_artifact(tmp_path / str(number), "returns") for number in range(3)
    )
    assert list(in_parts.rows()) == list(in_one_part.rows())
    assert len(in_parts.parts()) == num_stretches
    assert in_processes.manifest.digest == in_parts.manifest.digest
    assert made[0].counts == made[1].counts == made[2].counts
    assert made[0].metrics == pytest.approx(made[1].metrics)
    assert made[1].metrics == made[2].metrics


def one_turn_each(hours_before_cutoff: list[float]) -> dict[str, Any]:
    """Conversations of a turn, all over, of which the last message is so old."""
    return {
        "conversation_id": [f"c{number}" for number in range(len(hours_before_cutoff))],
        "turn": [1] * len(hours_before_cutoff),
        "reward": [1.0] * len(hours_before_cutoff),
        "censored": [False] * len(hours_before_cutoff),
        "customer_time": [CUTOFF - timedelta(hours=hours + 1) for hours in hours_before_cutoff],
        "sent_time": [CUTOFF - timedelta(hours=hours) for hours in hours_before_cutoff],
    }


def purchases(window: str) -> ByEvents:
    return ByEvents(by="events", file="purchases.csv", window=window)


@pytest.mark.parametrize(
    ("ingested", "has_weight"),
    [
        pytest.param(IngestConfig(), [True, True, True, True], id="no cutoff"),
        pytest.param(
            IngestConfig(cutoff="2026-06-01T00:00:00Z", idle="24h"),
            [False, True, True, True],
            id="a cutoff",
        ),
        pytest.param(
            IngestConfig(cutoff="2026-06-01", idle="1d"),
            [False, True, True, True],
            id="a cutoff without a zone is in UTC",
        ),
        pytest.param(
            IngestConfig(cutoff="2026-06-01T02:00:00+02:00", idle="30h"),
            [False, False, True, True],
            id="a cutoff elsewhere",
        ),
        pytest.param(
            IngestConfig(
                cutoff="2026-06-01T00:00:00Z",
                idle="24h",
                outcomes=[BY_CONVERSATION, purchases("2d"), purchases("3h")],
            ),
            [False, False, False, True],
            id="events may come later than a message",
        ),
    ],
)
def test_a_return_has_weight_where_a_failure_would_be_known_by_the_cutoff(
    ingested: IngestConfig, has_weight: list[bool], tmp_path: Path
) -> None:
    columns = one_turn_each([23.99, 24, 36, 48])
    source = trajectories(tmp_path / "trajectories", columns, ingested=ingested)

    made, rows = returns(source)

    assert [row["weight"] > 0 for row in rows] == has_weight
    assert [row["return"] for row in rows] == [1.0] * 4
    assert made.counts["turns_too_recent"] == has_weight.count(False)
    assert made.counts["turns_with_return"] == 4


def test_trajectories_of_the_first_version_have_no_clock(tmp_path: Path) -> None:
    source = Path(__file__).parent / "data" / "artifacts" / "trajectories-v1"

    made = run(ReturnsConfig(), trajectories=source, out=tmp_path / "returns")

    rows = list(open_artifact(tmp_path / "returns", "returns").rows())
    # Of two conversations one is open in its first turn: the ended one stands for both.
    assert [row["weight"] for row in rows] == [2.0, 2.0, 0.0]
    assert [row["return"] for row in rows] == [0.99, 1.0, None]
    assert made.metrics["mean_return_weighted"] == 0.99


def test_the_manifest_says_what_the_weights_do(tmp_path: Path) -> None:
    columns = one_turn_each([48] * 8) | {
        "reward": [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0],
        "censored": [False] * 5 + [True] * 3,
    }
    source = trajectories(tmp_path / "trajectories", columns)

    made, rows = returns(source, max_weight=1.5)

    # Five of eight ended: each would stand for 1.6.
    assert [row["weight"] for row in rows] == [1.5] * 5 + [0.0] * 3
    assert made.counts["turns_capped"] == 5
    assert made.metrics["weight_max"] == 1.5
    assert made.metrics["effective_sample_size"] == pytest.approx(5)
    assert made.metrics["mean_return_naive"] == pytest.approx(3 / 5)
    assert made.metrics["mean_return_weighted"] == pytest.approx(3 / 5)
    half = 1.959964 * np.std([1, 1, 1, 0, 0], ddof=1) / np.sqrt(5)
    assert made.metrics["mean_return_naive_low"] == pytest.approx(3 / 5 - half)
    assert made.metrics["mean_return_naive_high"] == pytest.approx(3 / 5 + half)


def test_a_log_without_an_end_has_no_mean_and_no_weights(tmp_path: Path) -> None:
    columns = one_turn_each([48, 48]) | {"censored": [True, True]}

    made, rows = returns(trajectories(tmp_path / "trajectories", columns))

    assert [(row["return"], row["weight"]) for row in rows] == [(None, 0.0)] * 2
    assert made.metrics["mean_return_naive"] is None
    assert made.metrics["mean_return_weighted"] is None


def test_a_log_without_a_turn_has_no_returns(tmp_path: Path) -> None:
    columns = {name: values[:0] for name, values in one_turn_each([48]).items()}

    made, rows = returns(trajectories(tmp_path / "trajectories", columns))

    assert (made.rows, rows) == (0, [])
    assert made.counts == {}
    assert made.metrics["mean_return_naive"] is None


# --- rewards of turns ---


def credit(
    out: Path,
    columns: dict[str, Any],
    reward_T: list[float | None],
    *,
    rows_per_group: int = 10_000,
) -> Path:
    """An artifact of the same turns, with these rewards."""
    schema = arrow_schema(ROWS["credit"])
    num_turns = len(reward_T)
    filled: dict[str, Any] = {
        "conversation_id": columns["conversation_id"],
        "turn": columns["turn"],
        "num_tokens": [1] * num_turns,
        "normalised_reward": reward_T,
        "split": ["train"] * num_turns,
    }
    table = pa.table(
        [
            pa.array(filled[field.name], field.type)
            if field.name in filled
            else pa.nulls(num_turns, field.type)
            for field in schema
        ],
        schema=schema,
    )
    with ArtifactWriter(
        out, kind="credit", stage="credit", config=CreditConfig(), inputs={}
    ) as writer:
        for start in range(0, num_turns, rows_per_group):
            writer.write_table(table.slice(start, rows_per_group))
    return out


def test_returns_of_credit_are_those_of_the_rewards_of_turns(tmp_path: Path) -> None:
    columns: dict[str, Any] = {
        "conversation_id": ["a", "a", "a", "b", "c", "c"],
        "turn": [1, 2, 3, 1, 1, 2],
        "reward": [0.0, 0.0, 1.0, 0.0, 0.0, 0.0],
        "censored": [False, False, False, False, True, True],
    }
    source = trajectories(tmp_path / "trajectories", columns)
    paid = credit(tmp_path / "credit", columns, [0.25, 0.5, 0.25, -2.0, None, None])

    made = run(
        ReturnsConfig(gamma=0.5, rewards="credit", weights="none"),
        trajectories=source,
        credit=paid,
        out=tmp_path / "returns",
    )

    rows = list(open_artifact(tmp_path / "returns", "returns").rows())
    assert [row["reward"] for row in rows] == [0.25, 0.5, 0.25, -2.0, 0.0, 0.0]
    assert [row["return"] for row in rows] == [0.5625, 0.625, 0.25, -2.0, None, None]
    assert [row["weight"] for row in rows] == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0]
    assert made.inputs["credit"].kind == "credit"


def test_paid_with_the_outcomes_themselves_the_returns_are_those_of_outcomes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writing, "_ROWS_PER_PART", 100)
    lengths = np.random.default_rng(2).integers(1, 9, size=200)
    columns: dict[str, Any] = {
        "conversation_id": np.repeat([f"c{number}" for number in range(200)], lengths),
        "turn": np.concatenate([np.arange(length) + 1 for length in lengths]),
        "reward": np.arange(lengths.sum()) % 7 / 7,
        "censored": np.repeat(np.arange(200) % 3 == 0, lengths),
    }
    source = trajectories(tmp_path / "trajectories", columns, rows_per_group=7)
    same = columns["reward"].tolist()
    paid = credit(tmp_path / "credit", columns, same, rows_per_group=45)
    assert len(open_artifact(source).stretches()) > 1
    assert len(open_artifact(paid).parts()) != len(open_artifact(source).parts())

    for rewards, workers in (("outcomes", 1), ("credit", 1), ("credit", 2)):
        run(
            ReturnsConfig(rewards=rewards),  # type: ignore[arg-type]  # a test's tuple of strings
            trajectories=source,
            credit=paid,
            out=tmp_path / f"{rewards} {workers}",
            workers=workers,
        )

    plain, credited, in_processes = (
        open_artifact(tmp_path / name, "returns") for name in ("outcomes 1", "credit 1", "credit 2")
    )
    assert list(credited.rows()) == list(plain.rows())
    assert in_processes.manifest.digest == credited.manifest.digest


@pytest.mark.parametrize(
    "changed",
    [
        {"conversation_id": ["a", "a", "z"]},
        {"conversation_id": ["a", "a", "b", "b"], "turn": [1, 2, 1, 2]},
        {"conversation_id": ["a", "a"], "turn": [1, 2]},
    ],
    ids=["another conversation", "a turn more", "a turn less"],
)
def test_credit_of_other_turns_is_refused_in_a_line(
    changed: dict[str, Any], tmp_path: Path
) -> None:
    columns: dict[str, Any] = {
        "conversation_id": ["a", "a", "b"],
        "turn": [1, 2, 1],
        "reward": [0.0, 1.0, 0.0],
        "censored": [False] * 3,
    }
    source = trajectories(tmp_path / "trajectories", columns)
    other = columns | changed
    paid = credit(tmp_path / "credit", other, [0.5] * len(other["turn"]))

    with pytest.raises(ArtifactError, match=r"its turns are not those .* Run: iterppo credit"):
        run(
            ReturnsConfig(rewards="credit"),
            trajectories=source,
            credit=paid,
            out=tmp_path / "returns",
        )


def test_credit_that_was_never_made_is_asked_for_in_a_line(tmp_path: Path) -> None:
    source = trajectories(tmp_path / "trajectories", one_turn_each([48]))

    with pytest.raises(UsageError, match="Run: iterppo credit, or name --credit"):
        run(ReturnsConfig(rewards="credit"), trajectories=source, out=tmp_path / "returns")


def test_an_ended_conversation_without_a_reward_is_a_mistake_of_ours(tmp_path: Path) -> None:
    columns = one_turn_each([48])
    source = trajectories(tmp_path / "trajectories", columns)
    paid = credit(tmp_path / "credit", columns, [None])

    with pytest.raises(ValueError, match="a turn without a reward"):
        run(
            ReturnsConfig(rewards="credit"),
            trajectories=source,
            credit=paid,
            out=tmp_path / "returns",
        )
