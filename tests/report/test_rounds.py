"""What `iterppo rounds` says of finished, half-finished and missing rounds."""

from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import ArtifactWriter
from iterppo.config import ReturnsConfig
from iterppo.errors import ArtifactError
from iterppo.report.rounds import HEADER, round_line, round_result, rounds_of


def make(folder: Path, name: str, kind: str, **metrics: Any) -> None:
    with ArtifactWriter(
        folder / name, kind=kind, stage="returns", config=ReturnsConfig(), inputs={}
    ) as writer:
        counts = {"outcomes": 3, "conversations_terminal": 12} if kind == "trajectories" else {}
        writer.counts.update(counts)
        writer.metrics.update(metrics)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Round 000 whole, 001 with its log only, and folders that are none."""
    log = {"outcome_rate": 0.25, "outcome_rate_low": 0.2, "outcome_rate_high": 0.31}
    make(tmp_path / "000", "log", "log", **log)
    make(tmp_path / "000", "trajectories", "trajectories")
    make(tmp_path / "000", "returns", "returns", mean_return_weighted=0.24)
    make(tmp_path / "000", "q", "q", verdict="weak")
    make(tmp_path / "000", "policy", "policy", watched_kl_kept=0.5, kl_last=0.9)
    make(tmp_path / "001", "trajectories", "trajectories")
    make(tmp_path / "scripted", "log", "log")
    (tmp_path / "002").mkdir()
    return tmp_path


def test_a_run_has_its_numbered_rounds_in_order(run: Path) -> None:
    make(run / "10", "log", "log")

    assert [place.name for place in rounds_of(run)] == ["000", "001", "10"]
    assert rounds_of(run / "000") == [run / "000"]


def test_a_whole_round_in_a_line(run: Path) -> None:
    result = round_result(run / "000")
    line = round_line(result)

    assert result["seconds"] >= 0
    assert line.startswith(
        "000         0.250 [0.200, 0.310]      0.240     weak                    0.50 nat  "
    )
    assert HEADER.index("return") == line.index("0.240")
    assert HEADER.index("time") == line.index("nat") + 5


def test_a_kl_that_rounds_to_nothing_has_no_sign(run: Path) -> None:
    result = round_result(run / "000") | {"kl": -0.001}

    assert " 0.00 nat " in round_line(result)


def test_a_round_of_real_logs_counts_conversations_that_ended(run: Path) -> None:
    result = round_result(run / "001")

    assert result["success"] == 0.25
    assert result["low"] is result["return"] is result["verdict"] is result["kl"] is None
    assert round_line(result).split()[:5] == ["001", "0.250", "–", "–", "–"]


def test_what_q_learned_of_earlier_rounds_is_told(run: Path) -> None:
    place = run / "001"
    with ArtifactWriter(
        place / "q", kind="q", stage="returns", config=ReturnsConfig(), inputs={}
    ) as writer:
        writer.count("turns_earlier", 9120)
        writer.metrics["verdict"] = "usable"
    result = round_result(place)

    assert result["turns_earlier"] == 9120
    assert "–         usable, +9,120 turns    –  " in round_line(result)
    assert round_result(run / "000")["turns_earlier"] == 0


def test_a_damaged_artifact_is_told_of_and_hides_no_other(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "000" / "policy" / "manifest.json").write_text("junk", encoding="utf-8")
    result = round_result(run / "000")

    assert result["verdict"] == "weak"
    assert result["kl"] is None
    assert capsys.readouterr().err.count("policy") == 1


@pytest.mark.parametrize(
    ("name", "said"), [("nowhere", "not found"), ("002", "no round lies here")]
)
def test_what_is_no_run_is_said(run: Path, name: str, said: str) -> None:
    with pytest.raises(ArtifactError, match=said):
        rounds_of(run / name)
