"""The curves of a training run as one Parquet file: a row per logged step, a column per metric."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_training_log(file: Path, history: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Write the trainer's log; returns it by column. Wall-clock figures are left out: equal runs
    give equal bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [row for row in history if "q" in row]
    names = sorted(
        {name for row in rows for name, value in row.items() if isinstance(value, int | float)}
        - {"step", "step_time", "epoch", "train_runtime"}
    )
    columns = {
        name: [None if row.get(name) is None else float(row[name]) for row in rows]
        for name in names
    }
    table = pa.table(
        {"step": pa.array([row["step"] for row in rows], pa.int32())}
        | {name: pa.array(values, pa.float64()) for name, values in columns.items()}
    )
    pq.write_table(table, file, compression="zstd")
    return {
        name: [value for value in values if value is not None] for name, values in columns.items()
    }
