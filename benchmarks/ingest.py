"""How fast `ingest` and `returns` are, beside what others need for less.

    python -m benchmarks.ingest [--quick] [--size-mb N] [--memory] [--record]

parse_ratio: time of a bare `orjson.loads` of every line / time of the whole stage `ingest` with one
worker, digests of the log and of the artifact included. Both in this process, pinned to one core,
in turns; CPU time, the best of several.

two_process_speedup: time of `iterppo ingest` with one worker / with two, the start of Python and of
the workers included, on the clock of the wall. two_process_ceiling: the same of two bare passes at
once, which have nothing in common but the machine: two cores that share a processor's units, or
that others use too, do not give twice the work of one.

peak_mb: memory of those commands, the larger one (`benchmarks.memory`); peak_mb_5x on a log of five
times the size.

returns_vs_duckdb: time of a DuckDB window query on the same Parquet, its result written to Parquet
/ time of the stage `returns`, weights included. returns_vs_duckdb_unwritten: where DuckDB only adds
its result up. DuckDB takes all cores; both are checked to have the same numbers.

The last line printed is a JSON object. `--record` writes it to `benchmarks/results/ingest.json`.
`--memory` measures that alone, which needs no quiet machine, and records it beside what was
measured before.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import orjson

from benchmarks.generated_logs import write_log, write_trajectories
from benchmarks.machine import machine, say
from benchmarks.memory import Run, run
from iterppo.artifact import open_artifact
from iterppo.config import IngestConfig, ReturnsConfig
from iterppo.logs.sources import LogFile
from iterppo.stages import ingest, returns

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "ingest.json"
GAMMA = 0.99
TOLERANCE = 1e-6


def main() -> None:
    """Measure, print, record."""
    parser = argparse.ArgumentParser(prog="benchmarks.ingest", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="256 MB and 2 million turns")
    parser.add_argument("--size-mb", type=int, help="size of the log (1000; quick: 256)")
    parser.add_argument("--memory", action="store_true", help="peak_mb and peak_mb_5x alone")
    parser.add_argument("--record", action="store_true", help=f"write {RESULT.relative_to(ROOT)}")
    options = parser.parse_args()
    size_mb = options.size_mb or (256 if options.quick else 1_000)
    num_turns = 2_000_000 if options.quick else 10_000_000
    found: dict[str, Any] = {"machine": machine(), "size_mb": size_mb, "turns": num_turns}
    with tempfile.TemporaryDirectory(prefix="iterppo-benchmark-") as name:
        folder = Path(name)
        log = folder / "log.jsonl"
        if not options.memory:
            found |= measure_returns(folder, num_turns, repeats=3)
        say(f"makes a log of {size_mb} MB")
        write_log(log, size_mb * 10**6)
        if not options.memory:
            found |= measure_parsing(log, folder, repeats=3)
            found |= measure_processes(log, folder, repeats=2)
        found["peak_mb"] = _peak_mb(log, folder)
        if not options.quick:
            say(f"makes a log of {5 * size_mb} MB")
            write_log(log, 5 * size_mb * 10**6)
            found["peak_mb_5x"] = _peak_mb(log, folder)
    found["load_after"] = os.getloadavg()[0]
    if options.memory:
        found = {
            name: found[name] for name in ("size_mb", "peak_mb", "peak_mb_5x") if name in found
        }
    if options.record:
        record(found, partial=options.memory)
    print(json.dumps(found))


def record(found: dict[str, Any], *, partial: bool) -> None:
    """Write what was found; where it is only a part, the rest stays as it was."""
    before = json.loads(RESULT.read_text(encoding="utf-8")) if partial else {}
    if partial and before["size_mb"] != found["size_mb"]:
        raise SystemExit(f"{RESULT} is of {before['size_mb']} MB: measure that size, or everything")
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(before | found, indent=2) + "\n", encoding="utf-8")


def _peak_mb(log: Path, folder: Path) -> int:
    return round(max(_ingest(log, folder, workers).peak_mb for workers in (1, 2)))


def measure_parsing(log: Path, folder: Path, *, repeats: int) -> dict[str, Any]:
    """The stage in units of a bare pass, on one core."""

    def stage() -> None:
        ingest.run(
            IngestConfig(),
            logs=[LogFile(log.name, str(log))],
            out=folder / "trajectories",
            rejects=folder / "rejects",
            workers=1,
        )

    def bare_pass() -> None:
        with log.open("rb") as file:
            for line in file:
                orjson.loads(line)

    say("reads it with orjson, and with ingest")
    with _one_core():
        bare, whole = _best([bare_pass, stage], repeats, clock=time.process_time)
    return {
        "parse_ratio": round(bare / whole, 3),
        "orjson_s": round(bare, 2),
        "ingest_s": round(whole, 2),
    }


def measure_processes(log: Path, folder: Path, *, repeats: int) -> dict[str, Any]:
    """The command with one worker and with two."""
    say("runs the command with one worker, and with two")
    runs = [[_ingest(log, folder, workers) for workers in (1, 2)] for _ in range(repeats)]
    one_s, two_s = (min(pair[number].wall_s for pair in runs) for number in (0, 1))
    bare = [[_bare_passes(log, number) for number in (1, 2)] for _ in range(repeats)]
    one_bare_s, two_bare_s = (min(pair[number] for pair in bare) for number in (0, 1))
    return {
        "two_process_speedup": round(one_s / two_s, 2),
        "two_process_ceiling": round(2 * one_bare_s / two_bare_s, 2),
        "one_worker_s": round(one_s, 2),
        "two_workers_s": round(two_s, 2),
    }


def _ingest(log: Path, folder: Path, workers: int) -> Run:
    command = [sys.executable, "-m", "iterppo", "ingest", str(log), "--workers", str(workers)]
    return run([*command, "--out", str(folder / "trajectories"), "--force"], cwd=ROOT)


def _bare_passes(log: Path, number: int) -> float:
    """Seconds that so many processes take for a pass each, at once."""
    command = [sys.executable, "-c", _BARE_PASS, str(log)]
    begun = time.perf_counter()
    for process in [subprocess.Popen(command) for _ in range(number)]:
        process.wait()
    return time.perf_counter() - begun


_BARE_PASS = """
import sys, orjson
with open(sys.argv[1], "rb") as file:
    for line in file:
        orjson.loads(line)
"""


def measure_returns(folder: Path, num_turns: int, *, repeats: int) -> dict[str, Any]:
    """The stage beside DuckDB."""
    say(f"makes {num_turns} turns, and their returns")
    source, out, written = folder / "turns", folder / "returns", folder / "duckdb.parquet"
    write_trajectories(source, num_turns)
    connection = duckdb.connect()
    connection.execute("SET enable_progress_bar = false")
    query = _window_query(source)

    def stage() -> None:
        returns.run(ReturnsConfig(gamma=GAMMA), trajectories=source, out=out)

    def write() -> None:
        connection.execute(f"COPY ({query}) TO '{written}' (FORMAT parquet, COMPRESSION zstd)")

    def add_up() -> None:
        connection.execute(f"SELECT count(*), sum(return) FROM ({query})").fetchall()

    ours_s, written_s, unwritten_s = _best([stage, write, add_up], repeats, clock=time.perf_counter)
    return {
        "returns_vs_duckdb": round(written_s / ours_s, 2),
        "returns_vs_duckdb_unwritten": round(unwritten_s / ours_s, 2),
        "returns_s": round(ours_s, 2),
        "largest_difference": _largest_difference(connection, out, written),
    }


def _window_query(source: Path) -> str:
    """G_i = Σ_j γ^j r_{i+j+1}, as a sum of γ^(i+j) r_{i+j+1} over the rows behind, times γ^-i."""
    return f"""
        SELECT conversation_id, turn, reward,
               CASE WHEN censored THEN NULL ELSE
                   sum(reward * pow({GAMMA}, turn)) OVER (
                       PARTITION BY conversation_id ORDER BY turn
                       ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING
                   ) / pow({GAMMA}, turn)
               END AS return
        FROM '{source}/part-*.parquet'"""


def _largest_difference(connection: duckdb.DuckDBPyConnection, out: Path, written: Path) -> float:
    """Between the returns of both.

    Raises:
        RuntimeError: If it is too large, or one knows a return that the other does not.
    """
    theirs = connection.execute(
        f"SELECT return FROM '{written}' ORDER BY conversation_id, turn"
    ).fetchnumpy()["return"]
    batches = open_artifact(out, "returns").batches(["return"])
    ours = np.concatenate([batch["return"].to_numpy(zero_copy_only=False) for batch in batches])
    theirs = np.ma.filled(theirs, np.nan)
    difference = np.abs(ours - theirs)
    if not np.array_equal(np.isnan(ours), np.isnan(theirs)) or np.nanmax(difference) > TOLERANCE:
        raise RuntimeError("returns and DuckDB have different numbers")
    return float(np.nanmax(difference))


def _best(
    functions: list[Callable[[], None]], repeats: int, *, clock: Callable[[], float]
) -> list[float]:
    """The shortest time of each; they take turns, so that a noisy minute hits them all."""
    times: list[list[float]] = []
    for _ in range(repeats):
        row = []
        for function in functions:
            begun = clock()
            function()
            row.append(clock() - begun)
        times.append(row)
    return [min(column) for column in zip(*times, strict=True)]


@contextmanager
def _one_core() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


if __name__ == "__main__":
    main()
