import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from iterppo.artifact import FileRecord
from iterppo.report.page.evaluation import Estimate, Guardrail, read_evaluation
from iterppo.report.page.run import Place
from tests.report.page.made_run import write

FILES = {"part-00000.parquet": FileRecord(sha256="", size_bytes=0)}


def evaluation(folder: Path, *, told: object, rows: list[dict[str, object]]) -> Place:
    """What `evaluate` leaves, as far as a page reads it."""
    made = write(folder / "made", "returns", "returns")
    pq.write_table(pa.Table.from_pylist(rows), folder / "part-00000.parquet")
    (folder / "evaluation.json").write_text(json.dumps(told), encoding="utf-8")
    metrics = {"gate": "hold", "gate_reason": "pressure got worse"}
    update = {"kind": "evaluation", "metrics": metrics, "files": FILES}
    return Place("evaluation", folder, made.model_copy(update=update))


def test_the_gate_the_estimates_and_the_guardrails_are_told(tmp_path: Path) -> None:
    told = {
        "gate": {
            "criteria": [{"name": "kl", "holds": True, "said": "KL 0.50 nat of 10"}],
            "warnings": ["log-probabilities differ"],
        },
        "guardrails": [
            {"name": "unknown_characters", "old": 0.125, "new": 0.25, "difference": 0.125,
             "low": 0.0625, "high": 0.1875, "fails": True},
            {"name": "length", "old": 8.0, "new": 8.0, "difference": 0.0, "low": float("nan"),
             "high": float("nan"), "fails": False},
        ],
    }  # fmt: skip
    rows: list[dict[str, object]] = [
        {"method": "wis", "logprobs": "logged", "reason": None, "value": 0.25, "value_low": 0.125,
         "value_high": 0.5, "difference": 0.0625, "difference_low": -0.125,
         "difference_high": 0.25, "num_conversations": 40, "effective_sample_size": 12.5},
        {"method": "fqe", "logprobs": None, "reason": "no Q was named", "value": None,
         "value_low": None, "value_high": None, "difference": None, "difference_low": None,
         "difference_high": None, "num_conversations": 0, "effective_sample_size": None},
    ]  # fmt: skip

    found = read_evaluation(evaluation(tmp_path, told=told, rows=rows))

    assert (found.gate, found.reason) == ("hold", "pressure got worse")
    assert found.criteria == ((True, "KL 0.50 nat of 10"),)
    assert found.estimates == (
        Estimate(
            "importance sampling, logged log-probabilities",
            "0.250 [0.125, 0.500]",
            "+0.062 [-0.125, +0.250]",
            "40 conversations, worth 12",
        ),
        Estimate("fitted Q", "", "", "no Q was named"),
    )
    assert found.guardrails == (
        Guardrail("unknown characters", "0.125", "0.250", "+0.125 [+0.062, +0.188]", True),
        Guardrail("length", "8.000", "8.000", "0.000", False),
    )
    assert found.warnings == ("log-probabilities differ",)
