"""`iterppo status`: what the stages themselves would call up to date, and why not."""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import MANIFEST
from iterppo.artifact.placing import begin
from iterppo.execution import execute
from iterppo.freshness import _in_its_places, freshness, round_freshness, run_freshness, worst
from iterppo.pipeline import STAGES
from tests.small_round import run_stage, write_log, write_round

Command = Callable[..., Any]


@pytest.fixture
def round_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a log in the current folder, named as one types it."""
    monkeypatch.chdir(tmp_path)
    return write_round(Path("runs/shop/000"), log=Path("logs/one.jsonl"))


def ingest(round_folder: Path, settings: list[Any]) -> None:
    """Of the log in the current folder."""
    execute(
        "ingest",
        inputs={},
        outputs={},
        round_folder=round_folder,
        config_file=None,
        settings=settings,
        force=False,
        extra={"logs": ["one.jsonl"], "workers": 1, "engine": "local"},
    )


def states(folder: Path) -> dict[str, str]:
    return {stage: worst(found) for stage, found in round_freshness(folder).items()}


def reasons(folder: Path, stage: str) -> list[str]:
    return [reason for one in round_freshness(folder)[stage] for reason in one.reasons]


def test_a_round_that_was_just_made_is_fresh_and_the_rest_is_missing(round_folder: Path) -> None:
    made = dict.fromkeys(("ingest", "init", "returns", "fit-q"), "fresh")

    assert states(round_folder) == dict.fromkeys(STAGES, "missing") | made


def test_a_log_that_changed_makes_its_trajectories_stale_and_nothing_else(
    round_folder: Path,
) -> None:
    with Path("logs/one.jsonl").open("a") as stream:
        stream.write("\n")

    assert states(round_folder)["ingest"] == "stale"
    assert set(reasons(round_folder, "ingest")) == {"its input log 0 changed since"}
    assert states(round_folder)["returns"] == "fresh"  # as `iterppo returns` says, until then


def test_trajectories_that_were_made_again_make_what_was_made_of_them_stale(
    round_folder: Path,
) -> None:
    write_log(Path("logs/one.jsonl"))
    Path("logs/one.jsonl").write_text(Path("logs/one.jsonl").read_text().replace("roof", "loft"))
    run_stage("ingest", round_folder, logs=["logs/one.jsonl"], workers=1, engine="local")

    assert states(round_folder)["ingest"] == "fresh"
    assert reasons(round_folder, "fit-q") == ["its input trajectories changed since"]
    assert states(round_folder)["returns"] == states(round_folder)["init"] == "stale"


def test_what_status_calls_fresh_the_stage_calls_up_to_date_and_the_other_way_round(
    round_folder: Path, command: Command
) -> None:
    for changes in (False, True):
        if changes:
            manifest = Path(round_folder, "trajectories", MANIFEST)
            content = json.loads(manifest.read_text())
            content["digest"] = "0" * 64
            manifest.write_text(json.dumps(content))
        is_fresh = freshness(round_folder / "returns", "returns").state == "fresh"
        said = command("returns", "--round", round_folder).stdout
        assert is_fresh == ("up to date" in said) == (not changes)


def test_an_input_that_is_gone_is_a_reason(round_folder: Path) -> None:
    Path("logs/one.jsonl").unlink()

    assert reasons(round_folder, "ingest")[0] == (
        "its input log 0, logs/one.jsonl, is not there any more"
    )


def test_code_that_changed_is_a_reason(round_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iterppo.artifact.manifest.code_digest", lambda: "other")

    assert set(reasons(round_folder, "returns")) == {"the code of iterppo changed since"}


def test_an_environment_that_was_changed_makes_its_log_stale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    environment = Path("salon.py")
    environment.write_text(
        "class Salon:\n"
        "    def reset(self, seed):\n        return 'Hello'\n"
        "    def step(self, text):\n        return 'Thanks', True, True\n"
        "    def scripted_assistant(self, seed):\n        return self\n"
        "    def suggest(self, customer, turn):\n        return 'Welcome'\n"
    )
    log = Path("runs/salon/000/log")
    arguments = ["rollout", "--policy", "scripted", "--out", log]
    arguments += ["--set", "rollout.env=salon:Salon", "--set", "rollout.conversations=3"]
    command(*arguments)

    assert freshness(log, "rollout").state == "fresh"
    assert "up to date" in command(*arguments).stdout

    monkeypatch.chdir("runs")  # where the module is not found
    log = Path("salon/000/log")
    monkeypatch.setattr("sys.path", [each for each in sys.path if each != str(tmp_path)])
    monkeypatch.delitem(sys.modules, "salon")
    assert freshness(log, "rollout").state == "fresh"

    Path("../salon.py").write_text("import nothing_of_this_name\n")
    assert freshness(log, "rollout").reasons == ("its input environment 0 changed since",)


def test_another_configuration_of_today_is_not_considered(round_folder: Path) -> None:
    assert freshness(round_folder / "trajectories", "ingest").state == "fresh"  # heldout=0.5 then


def test_a_run_that_was_moved_is_as_fresh_as_it_was(round_folder: Path) -> None:
    Path("elsewhere").mkdir()
    shutil.move("runs/shop", "elsewhere/shop")

    assert states(Path("elsewhere/shop/000"))["fit-q"] == "fresh"


def test_a_copy_is_told_by_its_own_inputs_where_its_old_name_holds_another_run(
    round_folder: Path,
) -> None:
    shutil.copytree("runs/shop", "copy")
    manifest = Path(round_folder, "returns", MANIFEST)
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"digest": "0" * 64}))

    assert reasons(round_folder, "fit-q") == ["its input returns changed since"]
    assert states(Path("copy/000"))["fit-q"] == "fresh"


@pytest.mark.parametrize("named", ["buys.csv", "*.csv", "../*/buys.csv"])
def test_events_that_were_named_relatively_are_found_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    shop = tmp_path / "shop [1]"
    shop.mkdir()
    monkeypatch.chdir(shop)
    write_log(Path("one.jsonl"))
    Path("buys.csv").write_text("conversation_id\na\n")
    outcome = {"by": "events", "file": named, "time_column": ""}
    settings = [("ingest", "outcomes", [outcome])]
    ingest(Path("000"), settings)
    assert freshness(Path("000/trajectories"), "ingest").state == "fresh"

    monkeypatch.chdir("/")
    assert freshness(shop / "000/trajectories", "ingest").state == "fresh"

    (shop / "buys.csv").write_text("conversation_id\nb\n")
    one = freshness(shop / "000/trajectories", "ingest")
    assert one.reasons == ("its input outcome 0, file 0 changed since",)
    (shop / "buys.csv").write_text("conversation_id\na\n")
    if named == "*.csv":
        (shop / "more.csv").write_text("conversation_id\nb\n")
        one = freshness(shop / "000/trajectories", "ingest")
        assert one.reasons == ("its input outcome 0, file 1 changed since",)


def test_files_of_a_configuration_are_looked_up_where_they_were_found() -> None:
    config = {
        "model": "hf",
        "lexicon": "words.toml",
        "classifiers": [{"name": "rude", "model": "rude"}],
        "outcomes": [{"by": "marks"}, {"by": "classifier", "model": "bought"}],
    }
    found = {
        name: (Path(path), Path("/runs") / path)
        for name, path in {
            "model 0": "hf/config.json",
            "lexicon 0": "words.toml",
            "classifier rude 0": "rude/config.json",
            "outcome 1 0": "bought/config.json",
        }.items()
    }

    assert _in_its_places(config, found) == {
        "model": "/runs/hf",
        "lexicon": "/runs/words.toml",
        "classifiers": [{"name": "rude", "model": "/runs/rude"}],
        "outcomes": [{"by": "marks"}, {"by": "classifier", "model": "/runs/bought"}],
    }
    assert _in_its_places(config, {}) == config


@pytest.mark.parametrize("copy", ["runs/again/000", "runs/shop/007"], ids=["run", "round"])
def test_a_copy_whose_own_inputs_were_made_again_is_stale_and_the_original_is_not(
    round_folder: Path, command: Command, copy: str
) -> None:
    shutil.copytree(round_folder, copy)
    assert states(Path(copy))["fit-q"] == "fresh"

    command("returns", "--round", copy, "--set", "returns.gamma=0.1")

    assert reasons(Path(copy), "fit-q") == ["its input returns changed since"]
    assert states(round_folder)["fit-q"] == "fresh"


def test_a_policy_of_the_round_before_is_looked_for_in_the_copy_of_that_round(
    round_folder: Path,
) -> None:
    """And not taken for the policy that the round has made since."""
    shutil.move(round_folder / "init", round_folder / "policy")
    second = Path("runs/shop/001")
    shutil.copytree(round_folder, second)
    manifest = Path(second, "q", MANIFEST)
    text = manifest.read_text().replace("000/init", "000/policy")
    manifest.write_text(text.replace("000/trajectories", "001/trajectories"))
    manifest.write_text(manifest.read_text().replace("000/returns", "001/returns"))
    changed(second / "policy")
    assert states(second)["fit-q"] == "fresh"
    shutil.copytree("runs/shop", "runs/again")

    changed(Path("runs/again/000/policy"))

    assert reasons(Path("runs/again/001"), "fit-q") == ["its input policy changed since"]


def changed(artifact: Path) -> None:
    """Says that it holds something else."""
    manifest = artifact / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"digest": "0" * 64}))


def test_an_input_that_was_named_elsewhere_is_not_looked_for_in_the_round(
    round_folder: Path,
) -> None:
    shutil.copytree(round_folder / "returns", "others/000/returns")
    manifest = Path(round_folder, "q", MANIFEST)
    manifest.write_text(manifest.read_text().replace("runs/shop/000/returns", "others/000/returns"))

    changed(round_folder / "returns")

    assert states(round_folder)["fit-q"] == "fresh"


def test_what_was_made_of_another_rounds_inputs_is_told_by_those(round_folder: Path) -> None:
    """As π_0 of `make loop`, which is cloned from the scripted logs and then makes the first."""
    first = write_round(Path("runs/shop/001"), log=Path("logs/two.jsonl"))
    shutil.rmtree(round_folder / "init")
    manifest = Path(first, "init", MANIFEST)
    manifest.write_text(manifest.read_text().replace("001/trajectories", "000/trajectories"))
    changed(first / "trajectories")
    assert states(first)["init"] == "fresh"
    shutil.copytree("runs/shop", "copy")
    assert states(Path("copy/001"))["init"] == "fresh"

    changed(round_folder / "trajectories")

    assert reasons(first, "init") == ["its input trajectories changed since"]


def test_damage_is_not_staleness(round_folder: Path) -> None:
    Path(round_folder, "returns/part-00000.parquet").write_bytes(b"")

    one = freshness(round_folder / "returns", "returns")
    assert one.state == "damaged"
    assert "does not match manifest.json" in one.reasons[0]


@pytest.mark.parametrize(
    ("left", "state"),
    [
        pytest.param(".returns.tmp-12", "half-written", id="of a process that was killed"),
        pytest.param("returns", "half-written", id="a folder without a manifest"),
    ],
)
def test_what_is_half_written_is_told_from_what_is_missing(
    round_folder: Path, left: str, state: str
) -> None:
    shutil.rmtree(round_folder / "returns")
    assert freshness(round_folder / "returns", "returns").state == "missing"

    (round_folder / left).mkdir()

    assert freshness(round_folder / "returns", "returns").state == state


def test_an_artifact_that_somebody_is_at_work_on_is_running(round_folder: Path) -> None:
    begun = begin(round_folder / "returns")
    one = freshness(round_folder / "returns", "returns")
    begun.end()

    assert (one.state, one.reasons) == ("running", (f"process {os.getpid()} is at work on it",))
    assert freshness(round_folder / "returns", "returns").state == "fresh"


def test_a_training_that_was_killed_is_interrupted(round_folder: Path) -> None:
    shutil.rmtree(round_folder / "q")
    (round_folder / ".q.checkpoint.safetensors").touch()

    assert freshness(round_folder / "q", "fit-q").state == "interrupted"


def test_an_artifact_beside_the_convention_is_told_of_too(round_folder: Path) -> None:
    shutil.copytree(round_folder / "q", round_folder / "judge")

    assert [one.path.name for one in round_freshness(round_folder)["fit-q"]] == ["q", "judge"]


def test_a_run_is_its_rounds_in_order_and_other_folders_are_left_out(round_folder: Path) -> None:
    shutil.copytree(round_folder, "runs/shop/001")
    Path("runs/shop/notes").mkdir()

    assert list(run_freshness(Path("runs/shop"))) == ["000", "001"]
    assert list(run_freshness(Path("runs/shop/001"))) == ["001"]


# --- the command ---------------------------------------------------------------------------------


def test_status_is_a_table_of_rounds_and_stages(round_folder: Path, command: Command) -> None:
    Path(round_folder, "returns/part-00000.parquet").write_bytes(b"")

    done = command("status", "runs/shop")

    assert (done.status, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0] == "runs/shop"
    assert lines[1].split() == [*STAGES]
    shown = dict.fromkeys(("ingest", "init", "fit-q"), "fresh") | {"returns": "damaged"}
    assert lines[2].split() == ["000", *(shown.get(name, "·") for name in STAGES)]
    assert "  runs/shop/000/returns" in lines


def test_status_as_json_names_every_artifact(round_folder: Path, command: Command) -> None:
    content = json.loads(command("status", "runs/shop", "--json").stdout)

    ingest = content["rounds"]["000"]["ingest"]
    assert ingest["state"] == "fresh"
    assert [one["path"] for one in ingest["artifacts"]] == [
        "runs/shop/000/trajectories",
        "runs/shop/000/rejects",
    ]


@pytest.mark.parametrize("name", ["absent", "logs"])
def test_status_of_what_is_no_run_ends_with_4(
    round_folder: Path, command: Command, name: str
) -> None:
    done = command("status", name)

    assert (done.status, done.stdout) == (4, "")
    assert done.stderr.count("\n") == 1
