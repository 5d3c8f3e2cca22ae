"""Files of a log: plain, compressed, by glob, in an artifact; and what is said of broken ones."""

import gzip
import random
from pathlib import Path

import pytest

from iterppo.errors import DataError, UsageError
from iterppo.logs.sources import find_logs, read_lines

LINES = [b'{"one": 1}', b"{broken", '{"ü": "🙂"}'.encode()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_lines_are_numbered_from_one(folder: Path) -> None:
    Path("a.jsonl").write_bytes(b"\n".join(LINES) + b"\n")

    assert list(read_lines(Path("a.jsonl"))) == list(enumerate(LINES, start=1))


def test_blank_lines_are_passed_over_yet_counted_in_the_numbers(folder: Path) -> None:
    Path("a.jsonl").write_bytes(b"\n  \none\r\n\r\ntwo")

    assert list(read_lines(Path("a.jsonl"))) == [(3, b"one"), (5, b"two")]


def test_a_line_separator_within_a_message_does_not_end_the_line(folder: Path) -> None:
    line = '{"content": "one\u2028two\x0bthree\x85"}'.encode()
    Path("a.jsonl").write_bytes(line + b"\n")

    assert list(read_lines(Path("a.jsonl"))) == [(1, line)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl"], ids=["named so", "named otherwise"])
def test_a_compressed_log_is_known_by_its_content(folder: Path, name: str) -> None:
    Path(name).write_bytes(gzip.compress(b"\n".join(LINES)))

    assert [line for _, line in read_lines(Path(name))] == LINES


def test_an_empty_log_has_no_lines(folder: Path) -> None:
    Path("a.jsonl").touch()
    Path("a.jsonl.gz").write_bytes(gzip.compress(b""))

    assert list(read_lines(Path("a.jsonl"))) == list(read_lines(Path("a.jsonl.gz"))) == []


def test_several_compressed_pieces_in_one_file_are_one_log(folder: Path) -> None:
    Path("a.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))

    assert list(read_lines(Path("a.gz"))) == [(1, b"one"), (2, b"two")]


def test_a_truncated_log_says_at_which_line_it_breaks_off(folder: Path) -> None:
    # Noise does not compress: the cut falls between lines that were read and lines that were not.
    noise = random.Random(0)
    whole = gzip.compress(
        b"".join(noise.randbytes(400).replace(b"\n", b"x") + b"\n" for _ in range(2_000))
    )
    Path("cut.gz").write_bytes(whole[: len(whole) // 2])
    read = []

    with pytest.raises(DataError, match="whole") as raised:
        read.extend(number for number, _ in read_lines(Path("cut.gz")))

    assert str(raised.value) == (
        f"cut.gz: line {len(read) + 1}: cannot be read (Compressed file ended before the "
        "end-of-stream marker was "
        "reached). Is the file whole?"
    )
    assert raised.value.exit_status == 3
    assert 0 < len(read) < 2_000


def test_a_compressed_log_with_damage_in_it_says_so(folder: Path) -> None:
    whole = bytearray(gzip.compress(bytes(range(256)) * 50))
    whole[12] ^= 0xFF
    Path("bad.gz").write_bytes(whole)

    with pytest.raises(
        DataError, match=r"^bad\.gz: line 1: cannot be read \(.+\)\. Is the file whole\?$"
    ):
        list(read_lines(Path("bad.gz")))


def test_a_glob_names_its_files_in_order(folder: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        Path(name).touch()
    Path("d.jsonl").mkdir()

    assert find_logs(["*.jsonl"], None) == [Path("a.jsonl"), Path("b.jsonl")]


def test_a_glob_with_two_stars_looks_into_folders(folder: Path) -> None:
    Path("one/two").mkdir(parents=True)
    Path("one/two/a.jsonl").touch()

    assert find_logs(["one/**/*.jsonl"], None) == [Path("one/two/a.jsonl")]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    Path("log[1].jsonl").touch()
    Path("log1.jsonl").touch()

    assert find_logs(["log[1].jsonl"], None) == [Path("log[1].jsonl")]


def test_names_keep_their_order(folder: Path) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        Path(name).touch()

    assert find_logs(["b.jsonl", "a.jsonl"], None) == [Path("b.jsonl"), Path("a.jsonl")]


def test_a_log_artifact_stands_for_the_log_in_it(folder: Path) -> None:
    Path("runs/shop/000/log").mkdir(parents=True)
    log = Path("runs/shop/000/log/log.jsonl")
    log.touch()

    assert find_logs(["runs/shop/000/log"], None) == [log]
    assert find_logs([], Path("runs/shop/000")) == [log]


@pytest.mark.parametrize(
    "name", ["absent.jsonl", "*.absent", "an_empty_folder"], ids=["a file", "a glob", "a folder"]
)
def test_a_name_without_a_log_is_refused(folder: Path, name: str) -> None:
    Path("an_empty_folder").mkdir()

    with pytest.raises(DataError, match="no such log") as raised:
        find_logs([name], None)

    assert str(raised.value) == f"{name}: no such log. Check the path (quote a glob: '*.jsonl.gz')."
    assert raised.value.exit_status == 3


def test_no_name_at_all_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no log") as raised:
        find_logs([], None)

    assert str(raised.value) == (
        "ingest: no log is named. Name files, or the round with --round runs/NAME/000."
    )
    assert raised.value.exit_status == 2
