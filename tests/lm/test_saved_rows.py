"""Rows beside a checkpoint: what belongs to it is read, what came after it is not."""

import errno
from pathlib import Path
from typing import Any

import pytest

from iterppo.lm.saved_rows import SavedRows

ROWS: list[dict[str, Any]] = [{"text": "π\u2028", "q": 0.1 + 0.2}, {"text": "", "q": 0.0}]


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = SavedRows(tmp_path / "rows")
    first = rows.append(ROWS, size_bytes=0)
    second = rows.append(ROWS[:1], size_bytes=first)

    assert rows.read(0) == []
    assert rows.read(first) == ROWS
    assert rows.read(second) == [*ROWS, ROWS[0]]


def test_what_was_appended_after_the_checkpoint_is_replaced(tmp_path: Path) -> None:
    rows = SavedRows(tmp_path / "rows")
    first = rows.append(ROWS, size_bytes=0)
    rows.append([{"text": "killed before this counted"}], size_bytes=first)
    second = rows.append([{"text": "again"}], size_bytes=first)

    assert rows.read(second) == [*ROWS, {"text": "again"}]
    assert (tmp_path / "rows").stat().st_size == second


@pytest.mark.parametrize("content", [None, b'{"text": 1}\n'], ids=["no file", "a shorter one"])
def test_rows_that_are_not_there_are_no_rows(content: bytes | None, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / "rows").write_bytes(content)

    assert SavedRows(tmp_path / "rows").read(1000) is None


def test_a_full_disk_leaves_the_rows_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = SavedRows(tmp_path / "rows")
    first = rows.append(ROWS, size_bytes=0)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("iterppo.lm.saved_rows.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            rows.append([{"text": "too much"}], size_bytes=first)

    assert rows.read(first) == ROWS
    rows.remove()
    assert list(tmp_path.iterdir()) == []
