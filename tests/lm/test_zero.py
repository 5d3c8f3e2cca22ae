"""What DeepSpeed is told by its file, and what by the stage's configuration."""

import json
from pathlib import Path
from typing import Any

import pytest

from iterppo.errors import UsageError
from iterppo.lm.zero import engine_settings

ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, content: dict[str, Any]) -> Path:
    file = folder / "zero.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    return file


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_the_files_that_come_along_are_understood(
    stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    file = ROOT / "configs" / "deepspeed" / f"zero{stage}.json"
    found = engine_settings(file, stage="fit-q")

    assert found["zero_optimization"]["stage"] == stage
    assert found["train_batch_size"] == 4
    assert found["train_micro_batch_size_per_gpu"] == 1
    assert "auto" not in json.dumps(found)


def test_the_configuration_decides_what_is_computed_and_the_file_where(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        {
            "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto", "overlap_comm": True},
            "optimizer": {"type": "SGD"},
            "scheduler": {"type": "WarmupLR"},
            "gradient_clipping": 7.0,
            "gradient_accumulation_steps": 8,
        },
    )
    found = engine_settings(file, stage="fit-q")

    assert found["zero_optimization"] == {"stage": 3, "overlap_comm": True}
    assert found["gradient_clipping"] == 1.0
    assert found["gradient_accumulation_steps"] == 1
    assert not {"optimizer", "scheduler"} & found.keys()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_weights_of_another_precision_are_refused_with_what_to_do(
    precision: str, tmp_path: Path
) -> None:
    file = written(tmp_path, {precision: {"enabled": True}})

    with pytest.raises(UsageError, match=rf"{precision}\.enabled is true.*fit-q\.bf16 = true"):
        engine_settings(file, stage="fit-q")
