"""An artifact that is missing, foreign, of another kind or damaged is refused in one line."""

from pathlib import Path
from typing import Any

import pytest

import iterppo
from iterppo.artifact import MANIFEST, ArtifactWriter
from iterppo.errors import UsageError
from tests.artifact.made import (
    CONFIG,
    change_manifest,
    contents,
    lines_of,
    message,
    names,
    reject,
    write,
)


def test_an_artifact_that_is_not_there_is_named() -> None:
    assert message(Path("absent/x"), "returns") == (
        "absent/x: not found, expected an artifact of kind returns. Run the stage that makes "
        "it first."
    )


def test_a_folder_of_something_else_is_no_artifact(folder: Path) -> None:
    Path("photos").mkdir()

    assert message(Path("photos"), "q") == (
        "photos: no manifest.json, so not an artifact of kind q. Check the path, or run the "
        "stage that makes it."
    )


def test_a_file_is_no_artifact(folder: Path) -> None:
    Path("file").touch()

    assert message(Path("file")) == (
        "file: no manifest.json, so not an artifact. Check the path, or run the stage that "
        "makes it."
    )


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '"iterppo"', '{"format": "webpack"}'],
    ids=["empty", "a list", "a text", "another"],
)
def test_a_manifest_of_another_program_is_foreign(x: Path, text: str) -> None:
    (x / MANIFEST).write_text(text)

    assert message(x) == "x/manifest.json: not written by iterppo. Check the path."


def test_an_artifact_of_another_kind_is_refused(x: Path) -> None:
    assert message(x, "returns") == "x: is rejects@1, expected returns. Check the path."


def test_an_artifact_of_a_newer_version_is_refused(x: Path) -> None:
    change_manifest(x, version=99, a_field_of_the_future=True)

    assert message(x, "rejects") == (
        f"x: is rejects@99, this iterppo {iterppo.__version__} reads rejects@1. "
        "Update iterppo, or make the artifact again."
    )


def test_an_artifact_of_a_kind_of_the_future_is_refused(x: Path) -> None:
    change_manifest(x, kind="wisdom")

    assert message(x) == (
        f"x: is wisdom@1, this iterppo {iterppo.__version__} reads no such kind. "
        "Update iterppo, or make the artifact again."
    )


def test_a_manifest_that_is_cut_off_is_damaged(x: Path) -> None:
    (x / MANIFEST).write_text('{"format": ')

    assert message(x) == (
        "x/manifest.json: damaged (Expecting value: line 1 column 12 (char 11)). Remove the "
        "folder and make the artifact again."
    )


def test_a_manifest_that_is_not_text_is_damaged(x: Path) -> None:
    (x / MANIFEST).write_bytes(b"\xff\xff")

    assert message(x) == (
        "x/manifest.json: damaged ('utf-8' codec can't decode byte 0xff in position 0: "
        "invalid start byte). "
        "Remove the folder and make the artifact again."
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        pytest.param(
            {"rows": "many"}, "rows: Input should be a valid integer", id="a count in words"
        ),
        pytest.param(
            {"surprise": 1}, "surprise: Extra inputs are not permitted", id="an unknown field"
        ),
        pytest.param(
            {"files": {"part-00000.parquet": {"sha256": "0"}}},
            "files.part-00000.parquet.size_bytes: Field required",
            id="half a record",
        ),
    ],
)
def test_a_manifest_with_a_wrong_field_is_damaged(
    x: Path, change: dict[str, Any], said: str
) -> None:
    change_manifest(x, **change)

    assert message(x).startswith(f"x/manifest.json: damaged, {said}")
    assert message(x).endswith(". Remove the folder and make the artifact again.")


def test_a_missing_file_is_named(x: Path) -> None:
    (x / "part-00000.parquet").unlink()

    assert message(x, "rejects") == (
        "x/part-00000.parquet: missing, listed in manifest.json. Make the artifact again with "
        "--force."
    )


@pytest.mark.parametrize("where", [0, 100, -1], ids=["first byte", "in the middle", "last byte"])
def test_one_changed_byte_is_found(x: Path, where: int) -> None:
    part = x / "part-00000.parquet"
    content = bytearray(part.read_bytes())
    content[where] ^= 1
    part.write_bytes(content)

    assert message(x, "rejects") == (
        "x/part-00000.parquet: damaged, its content does not match manifest.json. Make the "
        "artifact again with --force."
    )


def test_a_shortened_file_is_found(x: Path) -> None:
    part = x / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-1])

    assert message(x, "rejects") == (
        "x/part-00000.parquet: damaged, its content does not match manifest.json. Make the "
        "artifact again with --force."
    )


@pytest.mark.parametrize(
    "what", ["a folder with files", "a file", "another kind", "another program's manifest"]
)
def test_what_is_not_an_artifact_of_the_kind_is_never_replaced(folder: Path, what: str) -> None:
    out = Path("x")
    if what == "a file":
        out.write_text("mine")
    elif what == "another kind":
        write(out, [], "returns")
    else:
        out.mkdir()
        (out / ("thesis.txt" if what == "a folder with files" else MANIFEST)).write_text('"mine"')
    before = contents(folder)

    with pytest.raises(UsageError, match="not replaced") as raised:
        write(out, [reject(1)])

    assert str(raised.value) == (
        "x: exists and is not an artifact of kind rejects, so it is not replaced. Choose "
        "another place."
    )
    assert raised.value.exit_status == 2
    assert contents(folder) == before


def test_a_damaged_manifest_has_one_way_out_which_reader_and_writer_agree_on(x: Path) -> None:
    (x / MANIFEST).write_text('{"format": ')
    before = contents(x)

    with pytest.raises(UsageError, match="not replaced") as raised:
        write(x, [reject(1)])

    assert str(raised.value) == (
        "x: its manifest.json is damaged, and nobody can tell what it was, so it is not replaced. "
        "Remove the folder, or choose another place."
    )
    assert "Remove the folder" in message(x)
    assert contents(x) == before


@pytest.mark.parametrize("name", ["notes.txt", "rejects/part-00000.parquet", ".link"])
def test_what_lies_in_an_artifact_and_is_none_of_its_files_is_not_deleted_with_it(
    x: Path, name: str
) -> None:
    (x / name).parent.mkdir(exist_ok=True)
    if name == ".link":
        (x / name).symlink_to("/nowhere")
    else:
        (x / name).write_text("mine")
    (x / "empty").mkdir()

    with pytest.raises(UsageError, match="would be lost") as raised:
        write(x, [reject(2)])

    assert str(raised.value) == (
        f"x: holds {name}, which is no file of the artifact and would be lost with it. Move it "
        "away, or choose another place."
    )
    assert lines_of(x) == [1]
    (x / name).unlink()
    write(x, [reject(2)])
    assert lines_of(x) == [2]


def test_what_is_put_into_an_artifact_while_another_is_made_is_not_deleted_either(
    x: Path,
) -> None:
    settings: dict[str, Any] = {"kind": "rejects", "stage": "test", "config": CONFIG, "inputs": {}}

    with pytest.raises(UsageError, match="holds notes"), ArtifactWriter(x, **settings):
        (x / "notes.txt").write_text("mine")

    assert (x / "notes.txt").read_text() == "mine"
    assert names(x.parent) == ["x"]


def test_a_link_stays_one_and_the_artifact_lies_where_it_leads_to(folder: Path) -> None:
    Path("disk").mkdir()
    Path("x").symlink_to("disk/real")

    for line in (1, 2):  # where nothing lay, and in the place of another artifact
        write(Path("x"), [reject(line)])
        assert Path("x").is_symlink()
        assert lines_of(Path("x")) == lines_of(Path("disk/real")) == [line]
        assert (names(folder), names(folder / "disk")) == (["disk", "x"], ["real"])
