"""Results at the command line: JSON, `iterppo inspect` and `iterppo schema`."""

import json
from pathlib import Path

import pytest

import iterppo
from iterppo.artifact import MANIFEST, read_manifest
from iterppo.contracts import FOLDER_KINDS, ROWS
from iterppo.contracts.base import document
from tests.conftest import Command
from tests.short_log import EVERY_REJECT, one_line, write_log


@pytest.fixture
def log(folder: Path) -> Path:
    """Two successes, a failure, an open conversation."""
    return write_log()


@pytest.fixture
def made(log: Path, command: Command) -> Path:
    """A round with a broken line in its log."""
    with log.open("a") as stream:
        stream.write("broken\n")
    command("ingest", log, "--round", "r", *EVERY_REJECT)
    command("returns", "--round", "r")
    return Path("r")


@pytest.mark.parametrize(
    "arguments",
    [
        ["ingest", "log.jsonl", "--round", "r", *EVERY_REJECT],
        ["ingest", "log.jsonl", "--round", "r", *EVERY_REJECT, "--force"],
        ["returns", "--round", "r", "--force"],
        ["inspect", "r/trajectories"],
        ["inspect", "r"],
        ["compare", "r/trajectories"],
        ["schema", "trajectories"],
        ["schema"],
    ],
    ids=" ".join,
)
def test_json_is_all_that_standard_output_holds(
    made: Path, command: Command, arguments: list[str]
) -> None:
    done = command(*arguments, "--json")

    assert (done.status, done.stderr) == (0, "")
    assert json.loads(done.stdout, parse_constant=pytest.fail)


def test_inspect_as_json_gives_the_manifests(made: Path, command: Command) -> None:
    one = json.loads(command("inspect", "r/returns", "--json").stdout)
    all_of_them = json.loads(command("inspect", "r", "--json").stdout)

    manifest = json.loads(Path("r/returns", MANIFEST).read_text())
    assert {key: one[key] for key in manifest} == manifest
    assert all_of_them.keys() == {"trajectories", "rejects", "returns"}
    assert {key: all_of_them["returns"][key] for key in manifest} == manifest


def test_inspect_shows_lineage_counts_configuration_and_rows(made: Path, command: Command) -> None:
    done = command("inspect", "r/returns", "--rows", 1)

    manifest = read_manifest(Path("r/returns"))
    source = read_manifest(Path("r/trajectories"))
    (log,) = source.inputs.values()
    assert (done.status, done.stderr) == (0, "")
    head, _, tail = done.stdout.partition("columns\n")
    assert head == (
        "r/returns: returns@1, 8 rows\n"
        "  counts\n"
        "    conversations           4\n"
        "    conversations_censored  1\n"
        "    turns                   8\n"
        "    turns_with_return       6\n"
        "    turns_censored          2\n"
        "    turns_too_recent        0\n"
        "    turns_capped            0\n"
        "  metrics\n"
        "    mean_return_naive          0.66\n"
        "    mean_return_naive_low      0.01321\n"
        "    mean_return_naive_high     1.307\n"
        "    mean_return_weighted       0.66\n"
        "    mean_return_weighted_low   0.01321\n"
        "    mean_return_weighted_high  1.307\n"
        "    weight_max                 1.333\n"
        "    effective_sample_size      3\n"
        "    share_unseen               0\n"
        f"  made by returns, iterppo {iterppo.__version__}, "
        f"{manifest.created_at:%Y-%m-%d %H:%M} UTC\n"
        f"  digest {manifest.digest[:16]}, seed 0\n"
        "  made from\n"
        f"    └─ trajectories: trajectories {source.digest[:12]}, r/trajectories, by ingest "
        f"{source.created_at:%Y-%m-%d %H:%M} UTC\n"
        f"       └─ log 0: file {log.digest[:12]}, log.jsonl\n"
        '  config {"seed": 0, "rewards": "outcomes", "gamma": 0.99, "weights": "kaplan-meier", '
        '"max_weight": 20.0}\n'
    )
    assert tail.startswith(
        "  conversation_id: string\n"
        "    Conversation.\n"
        "    0 null, 4 distinct, length 1 to 1, mean 1\n"
    )
    assert tail.endswith(
        "conversation a (train, more turns follow)\n"
        "  turn 1\n"
        "    customer   hi\n"
        "    sent       what do you need?\n"
        "    reward 0, return 0.990\n"
    )


def test_inspect_of_a_damaged_round_shows_it_and_names_the_file(
    made: Path, command: Command
) -> None:
    Path("r/returns/part-00000.parquet").write_bytes(b"")

    done = command("inspect", "r")

    damage = "r/returns/part-00000.parquet: damaged, its content does not match manifest.json. "
    assert done.status == 4
    assert f"  ! {damage}" in done.stdout
    assert "r/trajectories: trajectories@2, 8 rows" in done.stdout.splitlines()
    assert one_line(done.stderr).startswith(f"iterppo: {damage}")


def test_schema_lists_the_kinds(command: Command) -> None:
    done = command("schema")

    assert (done.status, done.stderr) == (0, "")
    assert [line.partition("@")[0] for line in done.stdout.splitlines()] == [*ROWS, *FOLDER_KINDS]


@pytest.mark.parametrize("kind", ROWS)
def test_schema_prints_the_contract_of_a_kind(kind: str, command: Command) -> None:
    assert json.loads(command("schema", kind, "--json").stdout) == document(ROWS[kind])

    text = command("schema", kind).stdout
    for column in document(ROWS[kind])["columns"]:
        assert column["name"] in text
        assert column["meaning"] in text
