"""What an ingest reads, by content."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from iterppo.artifact import InputRecord
from iterppo.config import ByClassifier, ByEvents, IngestConfig
from iterppo.errors import DataError
from iterppo.logs.ingested_files import CHANGED, ingest_records, recorded_meanwhile
from iterppo.logs.sources import LogFile


def _files(folder: Path, **content: bytes) -> list[LogFile]:
    for name, text in content.items():
        (folder / name).write_bytes(text)
    return [LogFile(name, str(folder / name)) for name in content]


def _sha(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def test_logs_are_recorded_in_their_order_under_their_names(tmp_path: Path) -> None:
    logs = _files(tmp_path, b=b"second", a=b"first")
    assert ingest_records(IngestConfig(), logs) == {
        "log 0": InputRecord(path="b", kind="file", digest=_sha(b"second")),
        "log 1": InputRecord(path="a", kind="file", digest=_sha(b"first")),
    }


def test_so_is_what_labellers_look_things_up_in(tmp_path: Path) -> None:
    _files(tmp_path, purchases=b"customer_id,time\n")
    model = tmp_path / "classifier"
    model.mkdir()
    (model / "config.json").write_bytes(b"{}")
    config = IngestConfig(
        outcomes=[
            ByEvents(by="events", file=str(tmp_path / "purchases")),
            ByClassifier(by="classifier", model=str(model)),
        ]
    )
    records = ingest_records(config, [])
    assert {name: record.digest for name, record in records.items()} == {
        "outcome 0, file 0": _sha(b"customer_id,time\n"),
        "outcome 1 0": _sha(b"{}"),
    }


def test_meanwhile_they_are_the_same(tmp_path: Path) -> None:
    logs = _files(tmp_path, a=b"a log", b=b"another")
    with recorded_meanwhile(IngestConfig(), logs) as records:
        assert records() == ingest_records(IngestConfig(), logs)


def test_records_that_are_known_are_not_made_again(tmp_path: Path) -> None:
    known = {"log 0": InputRecord(path="gone", kind="file", digest="d")}
    gone = [LogFile("gone", str(tmp_path / "gone"))]
    with recorded_meanwhile(IngestConfig(), gone, known=known) as records:
        assert records() == known


def test_a_log_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    gone = [LogFile("gone.jsonl", str(tmp_path / "gone.jsonl"))]
    with (
        pytest.raises(DataError, match=r"gone\.jsonl: cannot be read"),
        recorded_meanwhile(IngestConfig(), gone) as records,
    ):
        records()


class _EndlessLog(LogFile):
    """As a log of terabytes."""

    def open(self) -> Endless:  # type: ignore[override]
        return Endless()


class Endless:
    """A file that has no end."""

    def __enter__(self) -> Endless:
        return self

    def __exit__(self, *rest: object) -> None:
        return None

    def read(self, size: int) -> bytes:
        time.sleep(0.001)
        return b"x"


def _ends(work: Callable[[], object]) -> bool:
    """Whether it does, soon; a thread of the test stays behind where it does not."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(timeout=20)
    return not thread.is_alive()


def test_whoever_fails_meanwhile_does_not_wait_for_the_digest_of_a_large_log() -> None:
    endless = [_EndlessLog("endless", "nowhere"), _EndlessLog("another", "nowhere")]

    def fail() -> None:
        with contextlib.suppress(KeyError), recorded_meanwhile(IngestConfig(), endless):
            raise KeyError

    assert _ends(fail)


def test_a_digest_that_is_stopped_opens_nothing(tmp_path: Path) -> None:
    stop = threading.Event()
    stop.set()
    LogFile("gone", str(tmp_path / "gone")).digest(stop)


# --- files that change ---


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b" more")


def _replace(path: Path) -> None:
    other = path.with_suffix(".new")
    other.write_bytes(b"b log")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("scheme", ["", "file://"])
@pytest.mark.parametrize("change", [_append, _replace, Path.unlink])
def test_the_record_of_a_file_that_changed_matches_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: Callable[[Path], object],
    scheme: str,
) -> None:
    logs = [
        LogFile(log.name, scheme + log.location)
        for log in _files(tmp_path, a=b"a log", b=b"another")
    ]
    if scheme and change is _replace:
        pytest.skip("a file of one size and one time is one file to other systems")
    with recorded_meanwhile(IngestConfig(), logs) as records:
        while not records():  # read before it changes
            pass
        change(tmp_path / "a")
        found = records()

    assert found["log 0"].digest == CHANGED
    assert found["log 1"].digest == _sha(b"another")
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("ingest: a changed while it was read.")


def test_files_that_labellers_read_are_missed_before_anything_is_read() -> None:
    config = IngestConfig(outcomes=[ByEvents(by="events", file="missing.csv")])
    endless = [_EndlessLog("endless", "nowhere")]

    def fail() -> None:
        with (
            pytest.raises(DataError, match=r"missing\.csv: no such file of events"),
            recorded_meanwhile(config, endless),
        ):
            pytest.fail("it was not missed")

    assert _ends(fail)
