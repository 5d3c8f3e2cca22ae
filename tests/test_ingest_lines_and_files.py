"""`ingest` on lines and files as they really are: endless, empty, of other systems, oddly named."""

import gzip
import io
import os
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import open_artifact
from iterppo.errors import DataError
from iterppo.logs import event_logs, reading, sources
from iterppo.logs.sources import Lines, LogFile, Piece, find_logs
from iterppo.stages import ingest
from tests.logs.ingesting import ONE, TWO, ingested, ingested_in_pieces, line
from tests.logs.lines import customer


@pytest.fixture
def at_most_1000(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (sources, reading, event_logs):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1_000)


@pytest.mark.usefixtures("at_most_1000")
@pytest.mark.parametrize("piece_bytes", [10**9, 300], ids=["one part", "many parts"])
@pytest.mark.parametrize("size", [1_000, 1_001, 1_999, 2_000, 50_000])
def test_ingest_rejects_a_line_that_is_too_long_and_goes_on_with_the_next(
    size: int, piece_bytes: int, tmp_path: Path
) -> None:
    long = line("c", customer("x")).rstrip()
    long = long.replace(b'"x"', b'"' + b"x" * (size - len(long) + 1) + b'"')
    assert len(long) == size

    found = ingested_in_pieces(tmp_path, {"a.jsonl": ONE + long + b"\n" + TWO}, piece_bytes)

    assert found.texts() == [("hi", "hello"), ("hey", "ho")]
    assert found.reasons() == [(2, "longer than 1000 bytes")]


@pytest.mark.usefixtures("at_most_1000")
@pytest.mark.parametrize("size", [996, 997])
@pytest.mark.parametrize("ending", [b"\n", b"\r\n"], ids=["unix", "windows"])
def test_ingest_takes_a_line_of_just_the_largest_size_and_the_next(
    size: int, ending: bytes, tmp_path: Path
) -> None:
    long = line("c", customer("x")).rstrip()
    long = long.replace(b'"x"', b'"' + b"x" * (size - len(long) + 1) + b'"')

    found = ingested(tmp_path, long + ending + TWO)

    assert [row["conversation_id"] for row in found.rows] == ["c", "two"]


def test_every_line_up_to_the_largest_is_whole_and_none_is_lost_behind_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 10)
    for size in range(1, 25):
        (tmp_path / "log").write_bytes(b"x" * size + b"\n" + b"next\n")
        lines = list(Lines(Piece(LogFile("log", str(tmp_path / "log")))))
        assert lines == [(1, b"x" * min(size, 10)), (2, b"next")]


def test_blanks_that_go_on_for_too_long_are_no_blank_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_LINE_BYTES", 10)
    (tmp_path / "log").write_bytes(b" " * 20 + b"something\n")

    assert list(Lines(Piece(LogFile("log", str(tmp_path / "log"))))) == [(1, b" " * 10)]


def test_pieces_in_the_middle_of_an_endless_line_read_no_more_than_themselves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sources, "_SKIPPED_AT_ONCE", 2**12)
    num_read = 0

    class Counted(io.RawIOBase):
        position = 0

        def readable(self) -> bool:
            return True

        def seekable(self) -> bool:
            return True

        def seek(self, offset: int, whence: int = 0) -> int:
            assert whence == 0
            self.position = offset
            return offset

        def readinto(self, buffer: Any) -> int:
            nonlocal num_read
            size = max(0, min(len(buffer), 2**22 - self.position))
            buffer[:size] = b"x" * size
            self.position += size
            num_read += size
            return size

    class Endless(LogFile):
        def open(self) -> Any:
            return io.BufferedReader(Counted(), 2**12)

    for start in range(2**16, 2**22, 2**16):
        assert list(Lines(Piece(Endless("log", "log"), start, start + 2**16))) == []

    assert num_read < 2 * 2**22


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbf" + ONE + TWO, id="a mark of Windows at the beginning"),
        pytest.param(ONE + b"\xef\xbb\xbf" + TWO, id="a mark in the middle, of a file behind it"),
        pytest.param((ONE + TWO).replace(b"\n", b"\r\n"), id="carriage returns"),
        pytest.param((ONE + TWO).rstrip(), id="no line break at the end"),
        pytest.param(b"\n\n" + ONE + b" \t\r\n" + TWO + b"\n\n", id="blank lines"),
        pytest.param(ONE + TWO + b"\xef\xbb\xbf" + ONE, id="the same line with a mark"),
    ],
)
def test_ingest_takes_the_lines_of_every_system(content: bytes, tmp_path: Path) -> None:
    found = ingested(tmp_path, content)

    assert found.texts() == [("hi", "hello"), ("hey", "ho")]
    assert found.counts["lines_taken"] == 2


def test_a_copy_is_one_although_a_mark_of_windows_stands_before_it(tmp_path: Path) -> None:
    found = ingested(tmp_path, {"a.jsonl": ONE, "b.jsonl": b"\xef\xbb\xbf" + ONE + TWO})

    assert (found.counts["copies"], found.rejects) == (1, [])


@pytest.mark.parametrize(
    ("files", "said"),
    [
        pytest.param({"a": b""}, "a: no conversation in it was taken (0 rejects)", id="empty"),
        pytest.param(
            {"a": b"", "b": b"\n\n", "c": b"\xef\xbb\xbf", "d": gzip.compress(b"")},
            "a … (4 logs): no conversation in it was taken (0 rejects)",
            id="only empty ones",
        ),
        pytest.param(
            {"a": (ONE + TWO).decode().encode("utf-16-le")},
            "a: no conversation in it was taken (3 rejects: 3 × not JSON)",
            id="UTF-16 without a mark",
        ),
        pytest.param(
            {"a": b"[" * 100_000 + b"\n" + b'{"a":' * 10_000},
            "a: no conversation in it was taken (2 rejects: 2 × not JSON)",
            id="deeply nested",
        ),
        pytest.param(
            {"a": (ONE + TWO).replace(b"\n", b"\r")},
            "a: no conversation in it was taken (1 rejects: 1 × not JSON)",
            id="carriage returns alone",
        ),
    ],
)
def test_a_log_without_a_conversation_is_refused(
    files: dict[str, bytes], said: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="no conversation") as raised:
        ingested(tmp_path, files)

    is_empty = said.endswith("(0 rejects)")
    see = "It is empty." if is_empty else f"See: iterppo inspect {tmp_path / 'rejects'}"
    assert str(raised.value) == f"{said}. {see}"
    assert raised.value.exit_status == 3
    assert not (tmp_path / "trajectories").exists()


def test_an_event_log_whose_columns_nobody_named_is_told_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        ingested(tmp_path, b'{"thread": "t", "sender": "user", "body": "hi"}\n' * 2)

    assert str(raised.value) == (
        "a.jsonl: no conversation in it was taken (2 rejects: 2 × messages: Field required). Is it "
        "an event log? Name its columns in --mapping. See: iterppo inspect "
        f"{tmp_path / 'rejects'}"
    )


@pytest.mark.parametrize("depth", [100, 900, 960, 970, 980, 990, 1_000, 3_000, 100_000])
def test_nesting_of_whatever_depth_is_taken_or_rejected(depth: int, tmp_path: Path) -> None:
    deep = b"[" * depth + b"]" * depth
    contents = [
        b'{"conversation_id": "d", "messages": [], "meta": {"fact": %s}}\n' % deep,
        b'{"conversation_id": "e", "messages": [], "more": %s}\n' % deep,
        b'{"conversation_id": "f", "messages": [{"role": "customer", "content": %s}]}\n' % deep,
        b'{"conversation_id": "g", "messages": [{"role": "customer", "content": "a", '
        b'"time": %s}]}\n' % deep,
    ]

    found = ingested(tmp_path, ONE + b"".join(contents), facts=["fact"], redact=True)

    assert found.counts["lines"] == 5
    assert {number for number, _ in found.reasons()} >= {4, 5}


def test_a_file_whose_name_is_no_text_is_read_and_named(tmp_path: Path) -> None:
    path = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl")
    Path(path).write_bytes(ONE + b"broken\n")

    ingest.run(
        ingest.IngestConfig(max_reject_rate=1.0),
        logs=find_logs([str(tmp_path / "*.jsonl")], None),
        out=tmp_path / "x",
        rejects=tmp_path / "r",
    )

    (row,) = open_artifact(tmp_path / "r", "rejects").rows()
    assert row["source"] == f"{tmp_path}/caf\\xe9.jsonl"


def test_the_places_of_logs_order_them_however_they_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("one/a.jsonl", "two/b.jsonl"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    (tmp_path / "one/link.jsonl").symlink_to(tmp_path / "two/b.jsonl")
    monkeypatch.chdir(tmp_path / "one")

    for names in (
        ["../two/b.jsonl", "a.jsonl"],
        [f"{tmp_path}/*/*", "../two/b.jsonl"],
        ["link.jsonl", "../two/b.jsonl", "a.jsonl"],
    ):
        logs = find_logs(names, None)
        assert [Path(log.location).resolve().name for log in logs] == ["a.jsonl", "b.jsonl"]
