"""`iterppo inspect` of everything that one may point it at."""

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from iterppo.artifact import MANIFEST, ArtifactWriter
from iterppo.artifact.placing import LOCK, begin
from iterppo.config import RolloutConfig
from iterppo.contracts import ROWS
from iterppo.contracts.base import columns
from tests.data import make_artifacts
from tests.small_round import write_log, write_round

Command = Callable[..., Any]
GONE = 2**22 + 1
"""No process has this number."""


@pytest.fixture
def round_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return write_round(Path("runs/shop/000"), log=Path("one.jsonl"))


def safetensors(shapes: dict[str, list[int]], dtype: str = "F32") -> bytes:
    """A file of zeros with a header of its own making."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, shape in shapes.items():
        size = 4
        for number in shape:
            size *= number
        offsets = [place, place + size]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": offsets}
        place += size
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(place)


# --- artifacts -----------------------------------------------------------------------------------


def test_a_turn_is_shown_with_all_that_the_round_knows_of_it(
    round_folder: Path, command: Command
) -> None:
    done = command("inspect", round_folder / "trajectories", "--conversation", "a")

    assert (done.status, done.stderr) == (0, "")
    split = "train" if "(train" in done.stdout else "heldout"
    assert done.stdout == (
        "runs/shop/000/trajectories: trajectories@2, 8 rows\n"
        f"conversation a ({split}, outcome reached)\n"
        "  turn 1\n"
        "    customer   hi\n"
        "    suggested  What do you need?\n"
        "    sent       what do you need?\n"
        "    edited (distance 0.06), reward 0, return 0.990, Q̂ 0.250 ± 0.125, V̂ 0.500\n"
        "  turn 2\n"
        "    customer   a roof\n"
        "               and a door\n"
        "    suggested  (nothing: it abstained)\n"
        "    sent       we make roofs\n"
        "    abstained, reward 1, return 1.000\n"
    )


@pytest.mark.parametrize("name", ["returns", "q", "trajectories/part-00000.parquet", ""])
def test_a_conversation_is_shown_whole_whichever_part_of_the_round_is_named(
    round_folder: Path, command: Command, name: str
) -> None:
    done = command("inspect", round_folder / name, "--conversation", "c")

    assert done.status == 0
    assert "still open when the log was cut" in done.stdout
    assert done.stdout.count("  turn ") == 2
    assert done.stdout.count("return unknown") == 2


def test_a_conversation_that_is_not_there_is_wrong_usage_and_others_are_named(
    round_folder: Path, command: Command
) -> None:
    done = command("inspect", round_folder / "q", "--conversation", "x")

    assert (done.status, done.stdout) == (2, "")
    assert done.stderr == (
        "iterppo: --conversation x: there is none of this name. The first are called a, b, c.\n"
    )


def test_q_of_other_trajectories_is_not_shown_beside_a_turn(
    round_folder: Path, command: Command
) -> None:
    manifest = round_folder / "q" / MANIFEST
    content = json.loads(manifest.read_text())
    content["inputs"]["trajectories"]["digest"] = "0" * 64
    manifest.write_text(json.dumps(content))

    assert "Q̂" not in command("inspect", round_folder / "trajectories").stdout


def test_every_column_has_its_meaning_unit_and_statistics(
    round_folder: Path, command: Command
) -> None:
    content = json.loads(command("inspect", round_folder / "returns", "--json").stdout)

    described = [{**one, "statistics": None} for one in columns(ROWS["returns"])]
    assert [{**one, "statistics": None} for one in content["columns"]] == described
    told = {one["name"]: one["statistics"] for one in content["columns"]}
    assert told["return"] == {
        "rows": 8,
        "nulls": 2,
        "distinct": 3,
        "distinct_is_at_least": False,
        "of": "value",
        "min": 0.0,
        "mean": pytest.approx((0.99 + 1 + 0.99 + 1) / 6),
        "max": 1.0,
    }
    assert (content["kind"], content["version"], content["rows"]) == ("returns", 1, 8)
    assert content["turns"][0]["customer"] == "hi"


@pytest.mark.parametrize("kind", ROWS)
def test_the_rows_of_every_kind_are_shown(kind: str, command: Command) -> None:
    folder = make_artifacts.FOLDER / f"{kind}-v{ROWS[kind].version}"

    done = command("inspect", folder)

    shown = {
        "trajectories": "suggested  Yes! What do you need?",
        "rejects": "logs/ü.jsonl, line 1: messages.1.role",
        "credit": "  normalised_reward: 0.25",
        "returns": "  return: 0.99",
        "evaluation": "row 0\n  method: ",
        "actions": "action     Which room?\n               🙂",
        "q": "  q: 0.625",
        "prompts": "prompt shop/1/1 (train, 31 tokens, 0 messages cut)\n    system     You suggest",
        "policy": "Q̂ 0.625, KL -0.500, advantage 0.250\n    suggested  Yes!",
    }
    assert (done.status, done.stderr) == (0, "")
    assert shown[kind] in done.stdout


def test_texts_of_a_log_cannot_command_the_terminal(tmp_path: Path, command: Command) -> None:
    message = {"role": "customer", "content": "\x1b[2Jwiped\x07"}
    answer = {"role": "business", "content": "hm"}
    log = tmp_path / "log.jsonl"
    log.write_text(
        json.dumps({"conversation_id": "\x1b[31m", "messages": [message, answer], "outcome": 1})
    )
    command("ingest", log, "--round", tmp_path / "000")

    for path in (log, tmp_path / "000" / "trajectories"):
        assert "\x1b" not in (text := command("inspect", path).stdout)
        assert "\\x1b[2Jwiped\\x07" in text


def test_damage_is_shown_with_what_is_left_and_ends_with_4(
    round_folder: Path, command: Command
) -> None:
    Path(round_folder, "q", "part-00000.parquet").write_bytes(b"PAR1")

    done = command("inspect", round_folder / "q")

    assert done.status == 4
    assert "runs/shop/000/q: q@2, 4 rows\n  ! runs/shop/000/q/part-00000.parquet: damaged" in (
        done.stdout
    )
    assert done.stderr.count("\n") == 1


# --- half-written --------------------------------------------------------------------------------


@pytest.mark.parametrize("killed", [True, False], ids=["killed", "at work"])
def test_a_half_written_artifact_is_shown_and_said_to_be_one(
    round_folder: Path, command: Command, killed: bool
) -> None:
    begun = begin(round_folder / "trajectories")
    half = begun.folder
    shutil.copytree(round_folder / "trajectories", half, dirs_exist_ok=True)
    shutil.rmtree(round_folder / "trajectories")
    (half / MANIFEST).unlink()
    (half / "part-00001.parquet").write_bytes(b"PAR1 and then the power went")
    said = f"process {os.getpid()} {'was killed before it was whole' if killed else 'is at work'}"
    if killed:
        (half / LOCK).unlink()

    for path in (half, round_folder / "trajectories"):
        done = command("inspect", path)
        assert (done.status, done.stderr) == (0, "")
        assert done.stdout.startswith(f"{half}: trajectories@2, 8 rows can be read\n  ! half-writ")
        assert said in done.stdout
        assert "part-00001.parquet: cut off (28 bytes" in done.stdout
        assert "    suggested  What do you need?" in done.stdout
        assert LOCK not in done.stdout
    begun.end()


def test_a_round_shows_what_is_half_written_in_it(round_folder: Path, command: Command) -> None:
    (round_folder / f".prompts.tmp-{GONE}").mkdir()

    done = command("inspect", round_folder)

    assert done.status == 0
    assert f"process {GONE} was killed before it was whole" in done.stdout


def test_a_folder_of_parts_without_a_manifest_is_half_written(
    round_folder: Path, command: Command
) -> None:
    Path(round_folder, "q", MANIFEST).unlink()

    content = json.loads(command("inspect", round_folder / "q", "--json").stdout)

    assert (content["what"], content["kind"], content["rows"]) == ("half-written artifact", "q", 4)
    assert content["problems"] == [
        "half-written: it has no manifest.json. Run the stage that makes it again."
    ]


# --- single files and checkpoints ----------------------------------------------------------------


def test_a_part_by_itself_says_its_contract_and_the_artifact_that_it_is_of(
    round_folder: Path, command: Command
) -> None:
    done = command("inspect", round_folder / "q" / "part-00000.parquet")

    assert done.status == 0
    assert done.stdout.startswith(
        "runs/shop/000/q/part-00000.parquet: q@2, 4 rows\n"
        "  a file of the artifact runs/shop/000/q\n"
    )

    shutil.copy(round_folder / "q" / "part-00000.parquet", "lone.parquet")
    assert command("inspect", "lone.parquet").stdout.startswith("lone.parquet: q@2, 4 rows\ncol")


def test_a_parquet_file_of_somebody_else_is_shown_by_its_columns(
    tmp_path: Path, command: Command
) -> None:
    file = tmp_path / "theirs.parquet"
    pq.write_table(pa.table({"sku": ["a", None], "price": [1.5, 2.5]}), file)

    done = command("inspect", file)

    assert "Parquet, under no contract of iterppo, 2 rows" in done.stdout
    assert "    1 null, 1 distinct, length 1 to 1, mean 1\n" in done.stdout
    assert "    0 null, 2 distinct, 1.5 to 2.5, mean 2\n" in done.stdout


def test_a_manifest_is_its_artifact(round_folder: Path, command: Command) -> None:
    named, meant = (command("inspect", round_folder / name) for name in ("q/manifest.json", "q"))

    assert named == meant


def test_a_checkpoint_is_told_from_its_headers_alone(tmp_path: Path, command: Command) -> None:
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": 4, "num_hidden_layers": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    shapes = {"embed.weight": [10, 4], "norm.weight": [4]}
    (tmp_path / "model.safetensors").write_bytes(safetensors(shapes, "BF16"))
    (tmp_path / "heads.safetensors").write_bytes(safetensors({"weight": [1, 4]}))

    done = command("inspect", tmp_path)

    assert (done.status, done.stderr) == (0, "")
    assert done.stdout == (
        f"{tmp_path}: a Hugging Face checkpoint\n"
        "  LlamaForCausalLM: 44 parameters, BF16\n"
        "  4 wide, 2 layers\n"
        "  no chat template\n"
        "  heads.safetensors: 4 parameters\n"
    )
    content = json.loads(command("inspect", tmp_path, "--json").stdout)
    assert content["checkpoint"]["dtypes"] == {"BF16": 44}


def test_a_safetensors_file_lists_its_tensors(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "critic.safetensors"
    file.write_bytes(safetensors({"weight": [1, 128], "bias": [1]}))

    assert command("inspect", file).stdout == (
        f"{file}: safetensors\n"
        "  129 parameters, F32, 2 tensors\n"
        "  format: pt\n"
        "    weight: F32, 1 × 128\n"
        "    bias: F32, 1\n"
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        pytest.param(safetensors({"w": [8]})[:-5], "cut off, 5 bytes are missing", id="its end"),
        pytest.param(b"\xff" * 20, "its header is longer than the file", id="its header"),
        pytest.param(b"", "no safetensors file, or cut off", id="all of it"),
    ],
)
def test_a_safetensors_file_that_is_cut_off_says_so(
    tmp_path: Path, command: Command, content: bytes, said: str
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)

    done = command("inspect", file)

    assert (done.status, done.stdout) == (3, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_log_is_shown_as_ingest_would_read_it(round_folder: Path, command: Command) -> None:
    with Path("one.jsonl").open("a") as stream:
        stream.write("broken\n")

    done = command("inspect", "one.jsonl", "--rows", 1)

    assert done.stdout.startswith(
        "one.jsonl: a log, format conversations, 5 lines\n"
        "  ! 1 lines would not be taken as they are; the first, line 5: "
    )
    assert "conversation a (outcome 1)\n    customer   hi\n    suggested  What do" in done.stdout
    assert "conversation b" not in done.stdout
    assert (
        "conversation b (outcome 0)"
        in command("inspect", "one.jsonl", "--conversation", "b").stdout
    )


def test_an_event_log_is_shown_by_its_columns(tmp_path: Path, command: Command) -> None:
    file = tmp_path / "export.csv"
    file.write_text("thread,sender,body\n1,agent,hello\n")

    done = command("inspect", file)

    assert "a log, format events, 2 lines\n  columns thread, sender, body\n" in done.stdout
    assert f"to use it: iterppo ingest {file} --mapping MAPPING.toml --round" in done.stdout
    file.write_text("conversation_id,role,content\n1,agent,hello\n")
    assert f"to use it: iterppo ingest {file} --round" in command("inspect", file).stdout


def test_a_log_artifact_shows_a_conversation_of_its_file(tmp_path: Path, command: Command) -> None:
    log = tmp_path / "log"
    with ArtifactWriter(
        log, kind="log", stage="rollout", config=RolloutConfig(), inputs={}
    ) as writer:
        write_log(writer.folder / "log.jsonl")

    assert "conversation b (outcome 0)" in command("inspect", log, "--conversation", "b").stdout
    done = command("inspect", log, "--conversation", "nobody")
    assert done.status == 2
    assert "--conversation nobody: " in done.stderr
    assert "conversation " not in command("inspect", log).stdout


def test_json_beside_an_artifact_is_printed(round_folder: Path, command: Command) -> None:
    Path("notes.json").write_text('{"π": [1]}')

    assert command("inspect", "notes.json").stdout.splitlines() == [
        "notes.json: JSON", "  {", '    "π": [', "      1", "    ]", "  }"
    ]  # fmt: skip


def test_a_run_names_its_rounds(round_folder: Path, command: Command) -> None:
    assert command("inspect", "runs/shop").stdout.startswith("runs/shop: a run of 1 rounds: 000\n")
