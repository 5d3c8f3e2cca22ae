"""`ingest` makes the same bytes however it is run: in whatever order, by however many workers, from
whatever kind of file, and after it was killed.

ITERPPO_KILL_MB and ITERPPO_KILL_MOMENTS say how large the log is that is killed, and how often.
"""

import errno
import gzip
import io
import os
import random
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from iterppo.artifact import MANIFEST, open_artifact, read_manifest
from iterppo.freshness import freshness
from iterppo.logs import sources
from iterppo.stages import ingest
from tests.conftest import ROOT, Command
from tests.logs import generated
from tests.logs.test_reading import as_json

KILL_MB = int(os.environ.get("ITERPPO_KILL_MB", "8"))
KILL_MOMENTS = int(os.environ.get("ITERPPO_KILL_MOMENTS", "6"))


def digests(*arguments: object, command: Command) -> tuple[str, str]:
    """Of the trajectories and the rejects that `iterppo ingest` makes."""
    options = ["--out", "x", "--max-reject-rate", "1", "--force"]
    done = command("ingest", *arguments, *options)
    assert done.status == 0, done.stderr
    return read_manifest(Path("x")).digest, read_manifest(Path("x-rejects")).digest


@pytest.mark.usefixtures("folder")
def test_ingest_makes_the_same_bytes_in_every_order_and_with_every_number_of_workers(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Tasks are cut by the process that asks for them; workers see none of this.
    monkeypatch.setattr(sources, "PIECE_BYTES", 30_000)
    lines = generated.as_lines(generated.many_conversations(200, seed=4))
    others = generated.as_lines(generated.many_conversations(50, seed=5))
    rows = generated.as_event_rows(generated.many_conversations(50, seed=6))
    logs = {
        "a.jsonl": b"\n".join([*lines, b"{broken", lines[0]]),
        "b.jsonl": b"\n".join([lines[3], lines[5].replace(b"}]", b"}] "), *others]),
        "c.jsonl.gz": gzip.compress(b"\n".join([*others[:9], b"{broken too"])),
        "d.jsonl": as_json(rows, [20]),
    }
    for name, content in logs.items():
        Path(name).write_bytes(content)
    names = list(logs)

    once = digests(*names, "--workers", 1, command=command)

    assert len(open_artifact(Path("x")).parts()) > 5
    counts = read_manifest(Path("x")).counts
    assert min(counts["rejects"], counts["copies"]) > 3
    assert digests(*reversed(names), "--workers", 2, command=command) == once
    assert digests("*.jsonl*", "./a.jsonl", "--workers", 1, command=command) == once
    assert digests(*names[2:], *names[:2], "--workers", 1, command=command) == once


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


@pytest.mark.usefixtures("folder")
def test_what_is_written_to_a_log_while_it_is_read_is_taken_by_the_next_ingest(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the script that exports conversations has not ended yet."""
    *lines, last = generated.as_lines(generated.many_conversations(20, seed=4))
    log = Path("log.jsonl")
    log.write_bytes(b"\n".join(lines) + b"\n")
    read = ingest._read_all

    def append_meanwhile(*arguments: Any) -> Any:
        with log.open("ab") as file:
            file.write(last + b"\n")
        return read(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(ingest, "_read_all", append_meanwhile)
        done = command("ingest", log, "--out", "x", "--max-reject-rate", "1")
    assert done.status == 0
    assert "log.jsonl changed while it was read" in done.stderr
    assert read_manifest(Path("x")).counts["lines"] == 19
    found = freshness(Path("x"), "ingest")
    assert (found.state, found.reasons) == ("stale", ("its input log 0 changed since",))

    again = command("ingest", log, "--out", "x", "--max-reject-rate", "1")
    assert "changed while" not in again.stderr
    assert read_manifest(Path("x")).counts["lines"] == 20
    assert freshness(Path("x"), "ingest").state == "fresh"


@pytest.mark.usefixtures("folder")
def test_ingest_makes_the_same_bytes_of_plain_and_compressed_logs_and_of_standard_input(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"\n".join(generated.as_lines(generated.many_conversations(100, seed=4)))
    for name, written in {
        "a.jsonl": content,
        "a.jsonl.gz": gzip.compress(content),
        "a.jsonl.zst": zstd(content),
        "a.log": content.replace(b"\n", b"\r\n") + b"\r\n",
    }.items():
        Path(name).write_bytes(written)

    plain, _ = digests("a.jsonl", command=command)

    for name in ("a.jsonl.gz", "a.jsonl.zst", "a.log"):
        assert digests(name, command=command)[0] == plain
    for written in (content, gzip.compress(content)):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(written)))
        assert digests("-", command=command)[0] == plain
        assert next(iter(read_manifest(Path("x")).inputs.values())).path == "-"


def test_standard_input_of_a_killed_ingest_lies_beside_its_artifact_and_goes_with_the_next_run(
    folder: Path, command: Command
) -> None:
    content = b"\n".join(generated.as_lines(generated.many_conversations(10, seed=4)))
    Path("log.jsonl").write_bytes(content)
    elsewhere = folder / "tmp"
    elsewhere.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "iterppo", "ingest", "-", "--out", "x", "--redact"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(elsewhere)},
        stdin=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        while not (found := [*folder.glob(".x.tmp-*/standard-input")]) and process.poll() is None:
            time.sleep(0.01)
        assert stat.S_IMODE(found[0].stat().st_mode) == 0o600
        process.kill()

    assert [*elsewhere.iterdir()] == []
    assert found[0].exists()
    assert command("ingest", "log.jsonl", "--out", "x").status == 0
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "tmp", "x", "x-rejects"]


def test_standard_input_that_finds_no_room_is_one_line_and_leaves_nothing(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"{}")))
    monkeypatch.setattr("iterppo.logs.sources.shutil.copyfileobj", full)
    done = command("ingest", "-", "--out", "x")

    assert done == (
        2,
        "",
        "iterppo: x: standard input could not be read into a file beside it (No space left on "
        "device). See who may use that folder and what room it has, and run the same command "
        "again.\n",
    )
    assert [*folder.iterdir()] == []


# --- killed --------------------------------------------------------------------------------------

# Pieces so small that a log of a few MB is work for two processes.
INGEST = """
import sys
from iterppo.cli import main
from iterppo.freshness import freshness
from iterppo.logs import sources
from iterppo.stages import ingest

sources.PIECE_BYTES = int(sys.argv.pop(1))
main()
"""


def write_large_log(path: Path, size_bytes: int) -> None:
    block = b"\n".join(generated.as_lines(generated.many_conversations(500, seed=7))) + b"\n"
    with path.open("wb") as file:
        for number in range(-(-size_bytes // len(block))):
            file.write(block.replace(b'"7/', b'"%d/' % number) + b"{broken\n")


def start_ingest() -> subprocess.Popen[bytes]:
    piece_bytes = max(2**20, KILL_MB * 2**20 // 16)
    return subprocess.Popen(
        [sys.executable, "-c", INGEST, str(piece_bytes), "ingest", "log.jsonl", "--out", "x",
         "--workers", "2", "--force"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def wait_for_all(process: subprocess.Popen[bytes]) -> int:
    """Wait until the process is gone, and every worker: each of them holds the standard error."""
    _, said = process.communicate(timeout=120 + 2 * KILL_MB)
    # A worker whose starter is gone before it has read what it is to do says so in Python's own
    # words, from multiprocessing's start; from there on nothing of ours may fail.
    frames = [line for line in said.splitlines() if line.lstrip().startswith(b"File ")]
    assert [line for line in frames if b"iterppo" in line] == []
    return process.returncode


@pytest.mark.slow
def test_an_ingest_that_is_killed_again_and_again_makes_the_same_bytes_in_the_end(
    folder: Path,
) -> None:
    write_large_log(folder / "log.jsonl", KILL_MB * 2**20)
    began = time.monotonic()
    whole = start_ingest()
    assert wait_for_all(whole) == 0
    duration = time.monotonic() - began
    undisturbed = [read_manifest(folder / name).digest for name in ("x", "x-rejects")]
    assert len(open_artifact(folder / "x").parts()) > 3

    rng = random.Random(0)
    num_killed = 0
    for number in range(KILL_MOMENTS):
        process = start_ingest()
        time.sleep((number + rng.random()) / KILL_MOMENTS * duration)
        process.send_signal(signal.SIGKILL)
        num_killed += wait_for_all(process) == -signal.SIGKILL
        for name in ("x", "x-rejects"):  # whole, or not there
            if (folder / name).exists():
                assert open_artifact(folder / name).manifest.digest in undisturbed

    assert num_killed > KILL_MOMENTS / 2
    again = start_ingest()
    assert wait_for_all(again) == 0
    assert [read_manifest(folder / name).digest for name in ("x", "x-rejects")] == undisturbed
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "x", "x-rejects"]
    assert (folder / "x" / MANIFEST).exists()
