"""An artifact is whole or not there at all, after an exception, a kill and a full disk too."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import MANIFEST, ArtifactWriter, open_artifact
from iterppo.artifact.placing import begin, is_held, owner_of, sweep
from iterppo.errors import UsageError
from tests.artifact.made import CONFIG, contents, lines_of, message, names, reject, write
from tests.conftest import ROOT


def fail_after(out: Path, rows: list[dict[str, Any]]) -> None:
    def rows_then_failure() -> Iterator[dict[str, Any]]:
        yield from rows
        raise RuntimeError("no more")

    with (
        pytest.raises(RuntimeError, match="no more"),
        ArtifactWriter(out, kind="rejects", stage="test", config=CONFIG, inputs={}) as writer,
    ):
        writer.write(rows_then_failure())


@pytest.mark.parametrize(
    "num_rows", [0, 1, 20_000], ids=["at once", "before a write", "after a write"]
)
def test_an_exception_leaves_nothing_behind(folder: Path, num_rows: int) -> None:
    fail_after(Path("x"), [reject(line) for line in range(num_rows)])

    assert names(folder) == []


def test_an_exception_leaves_the_artifact_that_was_there(folder: Path) -> None:
    write(Path("x"), [reject(1)])
    before = contents(folder)

    fail_after(Path("x"), [reject(line) for line in range(20_000)])

    assert names(folder) == ["x"]
    assert contents(folder) == before


def test_rows_that_break_the_contract_at_the_very_end_leave_nothing_behind(folder: Path) -> None:
    write(Path("x"), [reject(1)])
    before = contents(folder)

    with (
        pytest.raises(ValueError, match="rejects: column reason must not be null"),
        ArtifactWriter(Path("x"), kind="rejects", stage="test", config=CONFIG, inputs={}) as writer,
    ):
        writer.write([reject(1) | {"reason": None}])

    assert names(folder) == ["x"]
    assert contents(folder) == before


WRITE_AND_WAIT = """
import os, sys, time
from pathlib import Path
from iterppo.artifact import ArtifactWriter
from iterppo.config import ReturnsConfig

pid, seconds = int(sys.argv[1]), float(sys.argv[2])
if pid:
    os.getpid = lambda: pid
settings = dict(kind="rejects", stage="test", config=ReturnsConfig(), inputs={})
with ArtifactWriter(Path("x"), **settings) as writer:
    writer.write({"source": "b", "line": n, "reason": "b", "raw": "b"} for n in range(20_000))
    (writer.folder / "model").mkdir()
    (writer.folder / "model" / "weights").write_bytes(b"half")
    print("ready", flush=True)
    time.sleep(seconds)
"""

# The process kills itself just before its n-th rename, where one artifact takes another's place.
KILL_AT_RENAME = """
import os, signal, sys
from pathlib import Path
from iterppo.artifact import ArtifactWriter
from iterppo.config import ReturnsConfig

rename, left = os.rename, [int(sys.argv[1])]

def rename_or_die(*arguments, **options):
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(*arguments, **options)

os.rename = rename_or_die
settings = dict(kind="rejects", stage="test", config=ReturnsConfig(), inputs={})
with ArtifactWriter(Path("x"), **settings) as writer:
    writer.write([{"source": "b", "line": 99, "reason": "b", "raw": "b"}])
"""


def start(code: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def writing(pid: int = 0, *, seconds: float = 60) -> Iterator[subprocess.Popen[str]]:
    """A process in the middle of writing the artifact `x`; it may believe to have another number,
    as in a container, and goes on after so many seconds."""
    process = start(WRITE_AND_WAIT, str(pid), str(seconds))
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def of_process(folder: Path, pid: int, begin: str) -> str:
    """The name of the one hidden folder that the process of this number made."""
    (found,) = folder.glob(f"{begin}*-{pid}")
    return found.name


@pytest.mark.parametrize(
    "existed", [False, True], ids=["a new artifact", "one that replaces another"]
)
def test_a_kill_in_the_middle_leaves_no_half_artifact_and_the_next_run_cleans_up(
    folder: Path, existed: bool
) -> None:
    if existed:
        write(Path("x"), [reject(1)])
    before = contents(folder / "x") if existed else {}

    with writing() as process:
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL

    leftover = of_process(folder, process.pid, ".x.tmp-")
    assert names(folder) == sorted([leftover, *(["x"] if existed else [])])
    assert existed == Path("x").exists()
    assert (contents(folder / "x") if existed else {}) == before
    if not existed:
        assert (
            message(Path("x"))
            == "x: not found, expected an artifact. Run the stage that makes it first."
        )
    # Not even the half one that is left passes as an artifact.
    assert f"{leftover}: no {MANIFEST}, so not an artifact." in message(Path(leftover))

    write(Path("x"), [reject(2)])
    assert names(folder) == ["x"]
    assert lines_of(Path("x")) == [2]


@pytest.mark.parametrize(
    "rename", [1, 2], ids=["before the old one moves", "between the two renames"]
)
def test_a_kill_while_one_artifact_replaces_another_never_shows_half_of_one(
    folder: Path, rename: int
) -> None:
    write(Path("x"), [reject(1)])

    with start(KILL_AT_RENAME, str(rename)) as process:
        assert process.wait() == -signal.SIGKILL

    if rename == 1:
        assert lines_of(Path("x")) == [1]
    else:
        assert not Path("x").exists()
        assert lines_of(Path(of_process(folder, process.pid, ".x.old-"))) == [1]
        assert lines_of(Path(of_process(folder, process.pid, ".x.tmp-"))) == [99]
    write(Path("x"), [reject(2)])
    assert names(folder) == ["x"]
    assert lines_of(Path("x")) == [2]


def test_what_a_living_process_is_writing_is_left_alone(folder: Path) -> None:
    with writing() as process:
        write(Path("x"), [reject(2)])

        assert names(folder) == [of_process(folder, process.pid, ".x.tmp-"), "x"]


@pytest.mark.parametrize("pid", [os.getpid(), 99_999_999], ids=["as this one's", "unknown here"])
def test_what_is_written_in_another_container_is_left_alone_whatever_its_number(
    folder: Path, pid: int
) -> None:
    with writing(pid, seconds=0.5) as process:
        write(Path("x"), [reject(2)])
        assert lines_of(Path("x")) == [2]
        assert names(folder) == [of_process(folder, pid, ".x.tmp-"), "x"]

        assert process.wait() == 0
    # Who ends last is not told apart from who was started last.
    assert lines_of(Path("x")) == list(range(20_000))
    assert sorted(names(folder / "x")) == [MANIFEST, "model", "part-00000.parquet"]
    assert names(folder) == ["x"]


def test_whose_lock_is_held_by_somebody_is_at_work_and_nobody_else(folder: Path) -> None:
    begun = begin(Path("x"))
    sweep(Path("x"))
    assert is_held(begun.folder)
    assert owner_of(begun.folder) == f"process {os.getpid()}"

    left = begin(Path("x"))
    os.close(left._lock or 0)
    assert not is_held(left.folder)
    sweep(Path("x"))
    assert names(folder) == [begun.folder.name]

    begun.end()
    assert names(folder) == []


def test_who_made_a_folder_on_another_machine_is_told_with_its_name() -> None:
    assert owner_of(Path("runs/.x.tmp-node-7-0a1b2c3d-12")) == "process 12 on node-7"


def test_a_folder_that_was_swept_as_it_was_begun_is_begun_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, left = Path.mkdir, [2]

    def swept(path: Path, **options: Any) -> None:
        mkdir(path, **options)
        if left[0] and path.name.startswith(".x"):
            left[0] -= 1
            sweep(Path("x"))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", swept)
        begun = begin(Path("x"))

    assert is_held(begun.folder)
    assert names(folder) == [begun.folder.name]
    begun.end()


def test_where_there_are_no_locks_artifacts_are_written_and_nothing_is_swept(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("iterppo.artifact.placing.fcntl.flock", unknown)
    left = begin(Path("x")).folder

    write(Path("x"), [reject(1)])

    assert lines_of(Path("x")) == [1]
    assert names(folder / "x") == [MANIFEST, "part-00000.parquet"]
    assert names(folder) == [left.name, "x"]


def test_what_another_run_puts_there_between_the_two_renames_gives_way(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path("other"), [reject(1)])
    write(Path("x"), [reject(2)])
    rename = Path.rename

    def beaten(path: Path, target: Path) -> Path:
        if target == Path("x") and Path("other").exists():
            rename(Path("other"), target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", beaten)
    write(Path("x"), [reject(3)])

    assert lines_of(Path("x")) == [3]
    assert names(folder) == ["x"]


def test_a_place_that_others_fill_again_and_again_is_lost_in_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path("other"), [reject(2)])
    rename = Path.rename

    def beaten(path: Path, target: Path) -> Path:
        if target == Path("x"):
            shutil.copytree("other", target)
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", beaten)
    with pytest.raises(UsageError, match="x: other runs put their artifacts there at the same"):
        write(Path("x"), [reject(3)])

    assert lines_of(Path("x")) == [2]
    assert names(folder) == ["other", "x"]


def test_the_artifact_that_was_there_is_put_back_where_the_new_one_cannot_take_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path("x"), [reject(2)])
    rename = Path.rename

    def refused(path: Path, target: Path) -> Path:
        if ".tmp-" in path.name:
            raise OSError(errno.EIO, "Input/output error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(OSError, match="Input/output error"):
        write(Path("x"), [reject(3)])

    assert lines_of(Path("x")) == [2]
    assert names(folder) == ["x"]


def test_an_artifact_whose_companion_another_run_replaced_is_not_put_beside_it(
    folder: Path,
) -> None:
    settings: dict[str, Any] = {"kind": "rejects", "stage": "test", "config": CONFIG, "inputs": {}}
    write(Path("x"), [reject(1)])

    def write_both() -> None:
        with ArtifactWriter(Path("x"), **settings) as writer:
            with ArtifactWriter(Path("y"), **settings) as companion:
                companion.write([reject(2)])
            writer.belongs_with(companion)
            write(Path("y"), [reject(3)])

    with pytest.raises(UsageError, match="y: another run replaced it meanwhile, and x was not put"):
        write_both()

    assert lines_of(Path("x")) == [1]
    assert lines_of(Path("y")) == [3]


def test_another_kind_that_came_meanwhile_is_not_replaced(folder: Path) -> None:
    with (
        pytest.raises(UsageError, match="not replaced"),
        ArtifactWriter(Path("x"), kind="rejects", stage="test", config=CONFIG, inputs={}),
    ):
        write(Path("x"), [], "returns")

    assert open_artifact(Path("x")).kind == "returns"
    assert names(folder) == ["x"]


def test_leftovers_of_other_artifacts_are_left_alone(folder: Path) -> None:
    for name in (".y.tmp-99999999", ".x.tmp-notes", ".xx.tmp-99999999"):
        Path(name).mkdir()

    write(Path("x"), [])

    assert names(folder) == [".x.tmp-notes", ".xx.tmp-99999999", ".y.tmp-99999999", "x"]


def test_a_name_that_looks_like_a_glob_is_cleaned_up_as_any_other(folder: Path) -> None:
    Path(".x[1].tmp-99999999").mkdir()
    Path(".x1.tmp-99999999").mkdir()

    write(Path("x[1]"), [])

    assert names(folder) == [".x1.tmp-99999999", "x[1]"]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(OSError(errno.ENOSPC, "No space left on device"), id="the system's"),
        pytest.param(OSError(errno.EDQUOT, "Disk quota exceeded"), id="a quota's"),
        pytest.param(
            RuntimeError("I/O error: No space left on device (os error 28)"), id="a library's"
        ),
    ],
)
@pytest.mark.parametrize("when", ["while it is written", "at its end"])
def test_a_full_disk_is_a_line_and_leaves_what_was_there(
    error: Exception, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    settings: dict[str, Any] = {
        "kind": "log",
        "stage": "rollout",
        "config": CONFIG,
        "inputs": {},
    }
    with ArtifactWriter(out, **settings) as before:
        before.write_json("kept.json", 1)

    def full(*_: Any) -> None:
        raise error

    if when == "at its end":
        monkeypatch.setattr("iterppo.artifact.writing.sync", full)

    def write() -> None:
        with ArtifactWriter(out, **settings):
            if when == "while it is written":
                full()

    with pytest.raises(UsageError, match="no space left on the disk") as raised:
        write()

    assert str(out) in str(raised.value)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (out / "kept.json").exists()
