"""Artifacts on shared storage are whole or not there, and come back as they were."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from iterppo.artifact import MANIFEST, storage
from iterppo.artifact.storage import Copied, pull, push
from iterppo.cli import app
from iterppo.errors import ArtifactError, UsageError
from iterppo.progress import set_loudness
from tests.artifact.made import change_manifest, contents, names, reject, write


@pytest.fixture
def run(folder: Path) -> Path:
    """A run of two rounds, and what is no artifact beside them."""
    write(Path("run/000/rejects"), [reject(1)])
    write(Path("run/001/rejects"), [reject(2), reject(3)])
    write(Path("run/.hidden/rejects"), [reject(4)])
    Path("run/notes.txt").write_text("not ours")
    return Path("run")


@pytest.fixture
def url(folder: Path) -> str:
    return f"file://{folder}/store"


def artifacts(folder: Path) -> dict[str, bytes]:
    """The files of a run's two artifacts."""
    return {name: text for name, text in contents(folder).items() if name.startswith("00")}


def test_a_run_comes_back_as_it_was(run: Path, url: str) -> None:
    there = push(run, url)
    back = pull(url, Path("back"))

    assert contents(Path("back")) == contents(Path("store")) == artifacts(run)
    assert there == back
    assert (there.artifacts, there.were_there, there.files) == (2, 0, 2)
    assert there.size_bytes == sum(
        (run / k / "rejects/part-00000.parquet").stat().st_size for k in ("000", "001")
    )


def test_one_artifact_is_copied_too_and_a_path_is_a_place(run: Path, folder: Path) -> None:
    push(run / "001/rejects", f"{folder}/store")
    pull(f"{folder}/store/", Path("back"))

    assert contents(Path("back")) == contents(run / "001/rejects")


def test_an_artifact_that_is_a_link_is_copied(run: Path, url: str) -> None:
    Path("run/002").mkdir()
    Path("run/002/rejects").symlink_to(Path("run/001/rejects").resolve())

    assert push(run, url).artifacts == 3
    assert contents(Path("store/002/rejects")) == contents(run / "001/rejects")


def test_what_is_there_already_stays(run: Path, url: str) -> None:
    push(run, url)
    pull(url, Path("back"))
    write(Path("run/001/rejects"), [reject(9)])

    assert push(run, url) == Copied(
        2, 1, 1, Path("run/001/rejects/part-00000.parquet").stat().st_size
    )
    assert push(run, url) == Copied(2, 2, 0, 0)
    assert pull(url, Path("back")).were_there == 1
    assert contents(Path("back")) == artifacts(run)


def test_a_damaged_copy_here_is_replaced(run: Path, url: str) -> None:
    push(run, url)
    pull(url, Path("back"))
    Path("back/000/rejects/part-00000.parquet").write_bytes(b"no Parquet")

    assert pull(url, Path("back")).were_there == 1
    assert contents(Path("back")) == artifacts(run)


def failing(monkeypatch: pytest.MonkeyPatch, method: str, at: int, error: BaseException) -> None:
    """Have the store fail at the n-th file."""
    real = getattr(storage._Store, method)
    calls: Iterator[int] = iter(range(1_000_000))

    def fail(self: Any, *arguments: Any) -> None:
        if next(calls) == at:
            raise error
        real(self, *arguments)

    monkeypatch.setattr(storage, "_AT_ONCE", 1)
    monkeypatch.setattr(storage._Store, method, fail)


@pytest.mark.parametrize("at", [0, 1, 2, 3], ids=["file", "manifest", "next file", "last manifest"])
@pytest.mark.parametrize(
    "error", [OSError("gone\nfar"), KeyboardInterrupt()], ids=["error", "kill"]
)
def test_a_push_that_ended_early_leaves_what_is_whole_and_goes_on(
    run: Path, url: str, monkeypatch: pytest.MonkeyPatch, at: int, error: BaseException
) -> None:
    push(run, url)
    for k in ("000", "001"):
        write(run / k / "rejects", [reject(7), reject(8)])
    with monkeypatch.context() as patch:
        failing(patch, "write", at, error)
        with pytest.raises((UsageError, KeyboardInterrupt)):
            push(run, url)

    if at < 2:  # the old manifest is gone before a file is replaced, and the second not begun
        assert not Path("store/000/rejects", MANIFEST).exists()
        assert pull(url, Path("half")).artifacts == 1
    else:
        assert contents(Path("store/000")) == contents(run / "000")
        assert not Path("store/001/rejects", MANIFEST).exists()
    assert push(run, url).were_there == (0 if at < 2 else 1)
    assert contents(Path("store")) == artifacts(run)


def test_a_file_system_that_fails_is_told_in_one_line(
    run: Path, folder: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    failing(monkeypatch, "write", 0, OSError("gone\nfar"))

    with pytest.raises(UsageError) as raised:
        push(run, url)
    assert str(raised.value) == (
        f"file://{folder}/store: cannot be written (gone). Check URL and path, who may use them "
        "and what room they have, and run the same command again; nothing half-made is taken for "
        "whole."
    )


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_file_there_that_is_not_what_its_manifest_says_is_not_taken(
    run: Path, url: str, damage: str
) -> None:
    push(run, url)
    pull(url, Path("back"))
    write(Path("run/001/rejects"), [reject(9)])
    push(run, url)
    before = contents(Path("back"))
    part = Path("store/001/rejects/part-00000.parquet")
    part.write_bytes(b"else") if damage == "changed" else part.unlink()

    with pytest.raises(ArtifactError, match=r"store/001/rejects/part-00000\.parquet: is not what"):
        pull(url, Path("back"))
    assert contents(Path("back")) == before
    assert names(Path("back/001")) == ["rejects"]


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/../../x", "."])
def test_a_manifest_that_names_files_elsewhere_is_refused(run: Path, url: str, name: str) -> None:
    push(run / "000/rejects", url)
    files = json.loads(Path("store", MANIFEST).read_text())["files"]
    change_manifest(Path("store"), files={name: files["part-00000.parquet"]})

    with pytest.raises(ArtifactError, match="is no file of its folder"):
        pull(url, Path("back"))
    assert not Path("back").exists()


def test_nothing_of_another_kind_is_replaced(run: Path, url: str) -> None:
    push(run / "000/rejects", url)
    other = {"conversation_id": "c", "turn": 1, "reward": 0.0, "return": 0.0, "weight": 1.0}
    write(Path("returns"), [other | {"horizon": 1}], "returns")
    Path("mine").mkdir()
    Path("mine/letter.txt").write_text("dear")

    with pytest.raises(UsageError, match=r"holds an artifact of kind rejects, which returns does"):
        push(Path("returns"), url)
    with pytest.raises(UsageError, match=r"^returns: exists and is not an artifact of kind rej"):
        pull(url, Path("returns"))
    with pytest.raises(UsageError, match=r"^mine: exists and is not an artifact"):
        pull(url, Path("mine"))
    assert names(Path("mine")) == ["letter.txt"]


@pytest.mark.parametrize(
    ("source", "there", "said"),
    [
        (
            "run/001/rejects",
            "",
            "holds the artifact 000/rejects, and an artifact itself would lie ",
        ),
        ("run", "000/rejects", "holds an artifact itself, and the artifact 000/rejects would lie "),
    ],
)
def test_an_artifact_that_another_would_hide_is_refused(
    run: Path, url: str, source: str, there: str, said: str
) -> None:
    push(run, url)
    pull(url, Path("back"))
    before = contents(Path("store"))

    with pytest.raises(UsageError, match=said):
        push(Path(source), f"{url}/{there}")
    assert contents(Path("store")) == before
    push(Path(source), f"{url}-other")
    with pytest.raises(UsageError, match=said):
        pull(f"{url}-other", Path("back", there))
    assert contents(Path("back")) == before


def test_a_copy_is_put_neither_in_another_artifact_nor_in_the_place_of_somebodys_files(
    run: Path, url: str
) -> None:
    push(run / "000/rejects", url)
    write(Path("other"), [reject(9)])
    Path("other/notes.txt").write_text("mine")
    before = contents(Path("other"))

    with pytest.raises(UsageError, match=r"^other/copy: lies in the artifact .*/other, and would"):
        pull(url, Path("other/copy"))
    with pytest.raises(UsageError, match=r"^other: holds notes\.txt, which is no file of the art"):
        pull(url, Path("other"))

    assert contents(Path("other")) == before


def test_a_manifest_of_another_program_is_not_replaced(run: Path, url: str) -> None:
    Path("store").mkdir()
    Path("store", MANIFEST).write_text('{"name": "a web site"}')

    with pytest.raises(ArtifactError, match=r"store/manifest\.json: not written by iterppo"):
        push(run / "000/rejects", url)
    assert names(Path("store")) == [MANIFEST]


def test_a_damaged_artifact_is_not_pushed_nor_any_beside_it(run: Path, url: str) -> None:
    Path("run/001/rejects/part-00000.parquet").write_bytes(b"no Parquet")

    with pytest.raises(ArtifactError, match=r"run/001/rejects/part-00000\.parquet: damaged"):
        push(run, url)
    assert not Path("store").exists()


def test_where_there_is_nothing_it_says_so(folder: Path, url: str) -> None:
    with pytest.raises(ArtifactError, match=r"^nothing: holds no artifact\. Check the path\.$"):
        push(Path("nothing"), "s3://key:secret@bucket/a")  # said before anybody is asked
    with pytest.raises(ArtifactError, match=r"store: holds no artifact\. Check the URL\.$"):
        pull(url, Path("back"))
    with pytest.raises(UsageError, match=r"^runs/x: no file system opens it .+ an absolute path"):
        pull("runs/x", Path("back"))


def test_the_commands_say_what_was_copied(run: Path, url: str) -> None:
    invoke = CliRunner().invoke

    first = invoke(app, ["push", str(run), url])
    again = invoke(app, ["pull", url, str(run), "--json"])
    quiet = invoke(app, ["push", str(run), url, "--quiet"])
    set_loudness("normal")  # it is the process's

    assert first.exit_code == again.exit_code == quiet.exit_code == 0
    assert first.stdout.startswith(f"{url}: 2 artifacts, 0 of them were there; 2 files (")
    assert json.loads(again.stdout) == {
        "place": "run",
        "artifacts": 2,
        "were_there": 2,
        "files": 0,
        "size_bytes": 0,
    }
    assert quiet.output == ""
