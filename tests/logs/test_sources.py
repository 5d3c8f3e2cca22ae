"""Files of a log: plain, compressed, by glob, in an artifact; and what is said of broken ones."""

import gzip
import io
import random
from pathlib import Path

import pyarrow as pa
import pytest

from iterppo.errors import DataError, UsageError
from iterppo.logs.sources import Lines, LogFile, Piece, find_logs, pieces, spool

LINES = [b'{"one": 1}', b"{broken", '{"ü": "🙂"}'.encode()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def lines_of(name: str) -> Lines:
    return Lines(Piece(LogFile(name, name)))


def files(*names: str) -> list[LogFile]:
    return [LogFile(name, name) for name in names]


def test_lines_are_numbered_from_one(folder: Path) -> None:
    Path("a.jsonl").write_bytes(b"\n".join(LINES) + b"\n")

    assert list(lines_of("a.jsonl")) == list(enumerate(LINES, start=1))


def test_blank_lines_are_passed_over_yet_counted_in_the_numbers(folder: Path) -> None:
    Path("a.jsonl").write_bytes(b"\n  \none\r\n\r\ntwo")

    assert list(lines_of("a.jsonl")) == [(3, b"one"), (5, b"two")]


def test_a_line_separator_within_a_message_does_not_end_the_line(folder: Path) -> None:
    line = '{"content": "one\u2028two\x0bthree\x85"}'.encode()
    Path("a.jsonl").write_bytes(line + b"\n")

    assert list(lines_of("a.jsonl")) == [(1, line)]


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl"], ids=["named so", "named otherwise"])
def test_a_compressed_log_is_known_by_its_content(folder: Path, name: str) -> None:
    Path(name).write_bytes(gzip.compress(b"\n".join(LINES)))

    assert [line for _, line in lines_of(name)] == LINES


def test_an_empty_log_has_no_lines(folder: Path) -> None:
    Path("a.jsonl").touch()
    Path("a.jsonl.gz").write_bytes(gzip.compress(b""))

    assert list(lines_of("a.jsonl")) == list(lines_of("a.jsonl.gz")) == []


def test_several_compressed_pieces_in_one_file_are_one_log(folder: Path) -> None:
    Path("a.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))

    assert list(lines_of("a.gz")) == [(1, b"one"), (2, b"two")]


def test_a_truncated_log_says_at_which_line_it_breaks_off(folder: Path) -> None:
    # Noise does not compress: the cut falls between lines that were read and lines that were not.
    noise = random.Random(0)
    whole = gzip.compress(
        b"".join(noise.randbytes(400).replace(b"\n", b"x") + b"\n" for _ in range(2_000))
    )
    Path("cut.gz").write_bytes(whole[: len(whole) // 2])
    read = []

    with pytest.raises(DataError, match="whole") as raised:
        read.extend(number for number, _ in lines_of("cut.gz"))

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
        list(lines_of("bad.gz"))


def test_a_glob_names_its_files_in_order(folder: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        Path(name).touch()
    Path("d.jsonl").mkdir()

    assert find_logs(["*.jsonl"], None) == files("a.jsonl", "b.jsonl")


def test_a_glob_with_two_stars_looks_into_folders(folder: Path) -> None:
    Path("one/two").mkdir(parents=True)
    Path("one/two/a.jsonl").touch()

    assert find_logs(["one/**/*.jsonl"], None) == files("one/two/a.jsonl")


def test_a_file_whose_name_looks_like_a_glob_is_that_file(folder: Path) -> None:
    Path("log[1].jsonl").touch()
    Path("log1.jsonl").touch()

    assert find_logs(["log[1].jsonl"], None) == files("log[1].jsonl")


def test_the_order_of_names_changes_nothing_and_a_file_named_twice_is_read_once(
    folder: Path,
) -> None:
    for name in ("b.jsonl", "a.jsonl"):
        Path(name).touch()

    assert find_logs(["b.jsonl", "a.jsonl", "*.jsonl", str(folder / "b.jsonl")], None) == files(
        "a.jsonl", "b.jsonl"
    )


def test_a_log_artifact_stands_for_the_log_in_it(folder: Path) -> None:
    Path("runs/shop/000/log").mkdir(parents=True)
    log = "runs/shop/000/log/log.jsonl"
    Path(log).touch()

    assert find_logs(["runs/shop/000/log"], None) == files(log)
    assert find_logs([], Path("runs/shop/000")) == files(log)


def test_a_url_may_have_characters_of_its_own_and_is_named_as_people_read_it(folder: Path) -> None:
    Path("a b#.jsonl").write_bytes(b"one\n")

    for pattern in ("a%20b%23.jsonl", "a%20*.jsonl"):
        (log,) = find_logs([f"file://{folder}/{pattern}"], None)

        assert log.name == f"file://{folder}/a b#.jsonl"
        assert list(Lines(Piece(log))) == [(1, b"one")]


@pytest.mark.parametrize("name", ["absent.jsonl", "*.absent"], ids=["a file", "a glob"])
def test_a_name_without_a_log_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such log") as raised:
        find_logs([name], None)

    assert str(raised.value) == f"{name}: no such log. Check the path (quote a glob: '*.jsonl.gz')."
    assert raised.value.exit_status == 3


def test_a_folder_without_a_log_says_how_to_name_its_files(folder: Path) -> None:
    Path("an_empty_folder").mkdir()

    with pytest.raises(DataError, match=r"in which no log\.jsonl lies") as raised:
        find_logs(["an_empty_folder"], None)

    assert "'an_empty_folder/*.jsonl'" in str(raised.value)
    assert raised.value.exit_status == 3


def test_no_name_at_all_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match="no log") as raised:
        find_logs([], None)

    assert str(raised.value) == (
        "ingest: no log is named. Name files, or the round with --round runs/NAME/000."
    )
    assert raised.value.exit_status == 2


# --- pieces --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"\n\n"], ids=["unix", "windows", "blanks"])
@pytest.mark.parametrize("size", [1, 2, 7, 64, 10_000])
def test_pieces_hold_every_line_once_and_count_all_of_them(
    folder: Path, size: int, ending: bytes
) -> None:
    lines = [b"x" * (n % 11) + b"%d" % n for n in range(60)]
    Path("a.jsonl").write_bytes(ending.join(lines))
    found, total = [], 0

    for group in pieces(files("a.jsonl"), piece_bytes=size):
        for piece in group:
            read = Lines(piece)
            found.extend((total + number, line) for number, line in read)
            total += read.num_lines

    assert [line for _, line in found] == lines
    whole = lines_of("a.jsonl")
    assert found == list(whole)
    assert total == whole.num_lines


def test_small_files_share_a_group_and_compressed_ones_are_read_whole(folder: Path) -> None:
    for name in ("a", "b", "c"):
        Path(name).write_bytes(b"1234\n")
    Path("d.gz").write_bytes(gzip.compress(random.Random(0).randbytes(100)))

    groups = pieces(files("a", "b", "c", "d.gz"), piece_bytes=10)

    assert [[piece.file.name for piece in group] for group in groups] == [
        ["a", "b"],
        ["c"],
        ["d.gz"],
    ]
    assert [piece.end for group in groups for piece in group] == [5, 5, 5, None]


# --- compressed otherwise, elsewhere, from a pipe ------------------------------------------------


def zstd(content: bytes) -> bytes:
    return bytes(pa.compress(content, codec="zstd", asbytes=True))


def test_a_log_may_be_compressed_by_zstd(folder: Path) -> None:
    Path("a.jsonl.zst").write_bytes(zstd(b"\n".join(LINES)))

    assert [line for _, line in lines_of("a.jsonl.zst")] == LINES


def test_a_truncated_zstd_log_is_refused(folder: Path) -> None:
    whole = zstd(random.Random(0).randbytes(100_000))
    Path("cut.zst").write_bytes(whole[: len(whole) // 2])

    with pytest.raises(DataError, match=r"^cut\.zst: line \d+: cannot be read .+ whole\?$"):
        list(lines_of("cut.zst"))


def test_a_url_is_opened_by_its_file_system_and_may_be_a_glob(folder: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", "c.txt"):
        Path(name).write_bytes(name.encode() + b"\n")
    Path("deep").mkdir()
    Path("deep/d.jsonl").touch()
    base = f"file://{folder}"

    one = find_logs([f"{base}/b.jsonl"], None)
    several = find_logs([f"{base}/*.jsonl"], None)

    assert [log.location for log in one] == [f"{base}/b.jsonl"]
    assert [log.location for log in several] == [f"{base}/a.jsonl", f"{base}/b.jsonl"]
    assert list(Lines(Piece(several[0]))) == [(1, b"a.jsonl")]
    assert list(Lines(Piece(several[0], start=3))) == []
    assert several[0].size_bytes() == 8
    assert several[0].digest() == LogFile("a.jsonl", "a.jsonl").digest()


@pytest.mark.parametrize("name", ["absent.jsonl", "*.absent", "absent/*.jsonl"])
def test_a_url_without_a_log_is_refused(folder: Path, name: str) -> None:
    with pytest.raises(DataError, match="no such log"):
        find_logs([f"file://{folder}/{name}"], None)


def test_a_url_that_no_file_system_knows_is_wrong_usage() -> None:
    with pytest.raises(UsageError, match=r"^carrier://pigeon/a: no file system opens it"):
        find_logs(["carrier://pigeon/a"], None)


def test_standard_input_is_kept_in_a_file_under_its_own_name(folder: Path) -> None:
    log = spool(io.BytesIO(b"one\ntwo\n"), folder)

    assert log.name == "-"
    assert list(Lines(Piece(log))) == [(1, b"one"), (2, b"two")]
    assert find_logs(["-"], None) == files("-")
