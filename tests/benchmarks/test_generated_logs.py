"""What benchmarks are run on: the same every time, and nothing in it is rejected."""

from pathlib import Path

import pytest

from benchmarks.generated_logs import write_log, write_trajectories
from iterppo.artifact import open_artifact
from iterppo.config import IngestConfig
from iterppo.logs.sources import LogFile
from iterppo.stages import ingest


def test_a_generated_log_has_its_size_and_is_the_same_every_time(tmp_path: Path) -> None:
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    write_log(first, 200_000)
    write_log(again, 200_000)
    write_log(other, 200_000, seed=1)

    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert first.stat().st_size == pytest.approx(200_000, abs=20_000)


def test_ingest_takes_every_line_of_a_generated_log(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    write_log(log, 1_000_000)

    made = ingest.run(
        IngestConfig(),
        logs=[LogFile(log.name, str(log))],
        out=tmp_path / "trajectories",
        rejects=tmp_path / "rejects",
        workers=1,
    )

    assert made.counts["rejects"] == 0
    assert made.counts["lines_taken"] == len(log.read_bytes().splitlines())
    for name in ("outcomes", "conversations_censored", "messages_joined", "messages_blank"):
        assert (made.counts[name] > 0) == (name != "messages_blank")
    fates = [row["adoption"] for row in open_artifact(tmp_path / "trajectories").rows(["adoption"])]
    suggested = [fate for fate in fates if fate not in (None, "not_shown")]
    # Three standard errors of the 1,400 suggestions are 0.04.
    assert suggested.count("verbatim") / len(suggested) == pytest.approx(0.6, abs=0.04)
    assert {"edited", "rejected"} <= set(suggested)


def test_generated_trajectories_have_turns_that_count_and_outcomes(tmp_path: Path) -> None:
    write_trajectories(tmp_path / "turns", 100_000)

    artifact = open_artifact(tmp_path / "turns", "trajectories")
    rows = list(artifact.conversations(["conversation_id", "turn", "reward", "done", "censored"]))
    assert artifact.manifest.rows >= 100_000
    for turns in rows:
        assert [row["turn"] for row in turns] == list(range(1, len(turns) + 1))
        assert not any(row["reward"] or row["done"] for row in turns[:-1])
        assert turns[-1]["done"] != turns[-1]["censored"]
    assert 0 < sum(turns[-1]["reward"] for turns in rows) < len(rows)
