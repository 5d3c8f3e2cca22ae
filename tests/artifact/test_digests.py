"""Digests of files."""

import hashlib
import threading
from pathlib import Path

import pytest

from iterppo.artifact.manifest import file_digest, file_digests


def test_they_are_sha256_in_the_order_of_the_files(tmp_path: Path) -> None:
    contents = [bytes([n]) * (n * 700_000) for n in range(4)]
    paths = [tmp_path / str(n) for n in (3, 1, 0, 2)]
    for path in paths:
        path.write_bytes(contents[int(path.name)])

    expected = [hashlib.sha256(contents[n]).hexdigest() for n in (3, 1, 0, 2)]
    assert file_digests(paths) == expected
    assert file_digests(paths[:1]) == [file_digest(paths[0])] == expected[:1]
    assert file_digests([]) == []


def test_where_one_fails_nobody_waits_for_the_others(tmp_path: Path) -> None:
    zeros = Path("/dev/zero")
    if not zeros.exists():
        pytest.skip("no /dev/zero, which never ends")

    def fail() -> None:
        with pytest.raises(FileNotFoundError):
            file_digests([tmp_path / "missing", zeros, zeros])

    thread = threading.Thread(target=fail, daemon=True)
    thread.start()
    thread.join(timeout=20)
    assert not thread.is_alive()
