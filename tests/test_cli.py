"""The command line: commands, exit statuses, streams, and a round from log to returns."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

import iterppo
from iterppo.artifact import MANIFEST, open_artifact, read_manifest
from iterppo.cli import app
from iterppo.contracts import FOLDER_KINDS, ROWS
from iterppo.contracts.base import document
from iterppo.pipeline import BEHAVIOUR, STAGES, Slot, place, previous_round
from tests.data import make_artifacts

ROOT = Path(__file__).resolve().parent.parent
EVERY_REJECT = ("--max-reject-rate", "1")
"""A broken line is not to end the stage."""
Command = Callable[..., Any]

LOOKS = {
    *("assign", "compare", "converged", "inspect", "plan", "report", "rounds", "schema", "status"),
}
"""Commands that make no artifact."""

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, so that messages hold short names."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def conversation(name: str, *, outcome: int | None = 1, **fields: Any) -> str:
    messages = [
        {"role": "customer", "content": "hi"},
        {"role": "business", "content": "what do you need?"},
        {"role": "customer", "content": "a roof"},
        {"role": "business", "content": "we make roofs"},
    ]
    content = {"conversation_id": name, "messages": messages, "outcome": outcome, **fields}
    return json.dumps(content) + "\n"


@pytest.fixture
def log(folder: Path) -> Path:
    """Two successes, a failure, an open conversation."""
    lines = [
        conversation("a"),
        conversation("b", outcome=0),
        conversation("c", unfinished=True, outcome=None),
        conversation("d"),
    ]
    Path("log.jsonl").write_text("".join(lines))
    return Path("log.jsonl")


def one_line(text: str) -> str:
    """The line that standard error holds, and nothing more."""
    assert text[-1:] == "\n", text
    assert text.count("\n") == 1, text
    assert "Traceback" not in text
    return text.rstrip("\n")


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


# --- commands ------------------------------------------------------------------------------------


def test_every_stage_is_a_command_and_every_command_is_known() -> None:
    assert set(COMMANDS) == set(STAGES) | LOOKS


def test_every_stage_is_a_module_and_every_module_a_stage() -> None:
    modules = {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"}

    assert modules == {name.replace("-", "_") for name in STAGES}


@pytest.mark.parametrize("name", STAGES)
def test_the_help_of_a_stage_is_that_of_the_table(name: str) -> None:
    assert COMMANDS[name].help == STAGES[name].help


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_takes_its_inputs_and_what_every_stage_takes(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}

    assert {"--round", "--config", "--set", "--force", "--json"} <= options
    assert {f"--{slot.name}" for slot in (*STAGES[name].reads, *STAGES[name].writes)} <= options


@pytest.mark.parametrize("name", [None, *COMMANDS], ids=lambda name: name or "iterppo")
def test_every_command_has_help(name: str | None, command: Command) -> None:
    done = command(*([name] if name else []), "--help")

    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ")
    shown = (
        {parameter.opts[0] for parameter in COMMANDS[name].params if parameter.opts[0][0] == "-"}
        if name
        else COMMANDS
    )
    assert [one for one in shown if one not in done.stdout] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_says_what_it_is(name: str) -> None:
    assert [one.name for one in COMMANDS[name].params if not getattr(one, "help", None)] == []


def test_the_version_is_printed(command: Command) -> None:
    assert command("--version") == (0, f"iterppo {iterppo.__version__}\n", "")


# --- speed ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "barred"),
    [
        pytest.param("import iterppo.cli", {"pyarrow", "numpy"}, id="the command line"),
        pytest.param(
            "import contextlib, io, iterppo.cli\n"
            "with contextlib.redirect_stdout(io.StringIO()):\n"
            "    iterppo.cli.app(['--help'], standalone_mode=False)\n",
            {"pyarrow", "numpy"},
            id="the help",
        ),
        pytest.param(
            "import iterppo.pipeline, iterppo.config", {"pyarrow", "numpy"}, id="the tables"
        ),
        pytest.param(
            "import iterppo.execution, iterppo.artifact", {"numpy"}, id="what runs a stage"
        ),
        pytest.param(
            "import iterppo.stages.ingest, iterppo.stages.returns", {"numpy"}, id="the light stages"
        ),
        pytest.param(
            "from iterppo.pipeline import STAGES; [stage.run for stage in STAGES.values()]",
            set(),
            id="every stage",
        ),
    ],
)
def test_an_import_loads_no_more_than_it_needs(code: str, barred: set[str]) -> None:
    heavy = {"torch", "transformers", "trl", "peft", "accelerate", "datasets", "deepspeed", *barred}

    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{code}\nimport sys; print(*sorted({heavy!r} & sys.modules.keys()))",
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "\n"


# --- exit statuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        pytest.param(
            ["returns", "--round", "r", "--set", "returns.gama=0.9"],
            2,
            "iterppo: --set: unknown key returns.gama. Did you mean 'gamma'?",
            id="a typo in a setting",
        ),
        pytest.param(
            ["returns", "--round", "r", "--config", "typo.toml"],
            2,
            "iterppo: typo.toml: unknown key returns.gama. Did you mean 'gamma'?",
            id="a typo in a file",
        ),
        pytest.param(
            ["ingest", "absent.jsonl", "--round", "r"],
            3,
            "iterppo: absent.jsonl: no such log. Check the path (quote a glob: '*.jsonl.gz').",
            id="a log that is not there",
        ),
        pytest.param(
            ["returns", "--trajectories", "damaged", "--out", "x"],
            4,
            "iterppo: damaged/part-00000.parquet: damaged, its content does not match "
            "manifest.json. "
            "Make the artifact again with --force.",
            id="a damaged artifact",
        ),
        pytest.param(
            ["returns", "--trajectories", "newer", "--out", "x"],
            4,
            f"iterppo: newer: is trajectories@99, this iterppo {iterppo.__version__} reads "
            "trajectories@1, trajectories@2. "
            "Update iterppo, or make the artifact again.",
            id="a newer artifact",
        ),
        pytest.param(
            [
                "fit-q",
                "--trajectories",
                "damaged",
                "--returns",
                "damaged",
                "--policy",
                "damaged",
                "--out",
                "x",
            ],
            4,
            "iterppo: damaged: is trajectories@1, expected returns. Check the path.",
            id="an artifact of another kind, before torch is loaded",
        ),
    ],
)
def test_trouble_is_one_line_on_standard_error_and_an_exit_status(
    folder: Path, fresh_command: Command, arguments: list[str], status: int, said: str
) -> None:
    Path("typo.toml").write_text("[returns]\ngama = 0.9\n")
    for name in ("damaged", "newer"):
        shutil.copytree(make_artifacts.FOLDER / "trajectories-v1", name)
    Path("damaged/part-00000.parquet").write_bytes(b"PAR1")
    manifest = Path("newer") / MANIFEST
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"version": 99}))
    before = snapshot(folder)

    done = fresh_command(*arguments)

    assert (done.status, done.stdout) == (status, "")
    assert one_line(done.stderr) == said
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(
            ["returns", "--trajectories", "absent", "--out", "x"],
            "absent: not found, expected an artifact of kind trajectories. Run the stage that "
            "makes it first.",
            id="an input",
        ),
        pytest.param(
            ["fit-q", "--round", "r"],
            "r/trajectories: not found, expected an artifact of kind trajectories. Run the "
            "stage that makes it first.",
            id="an input of a round",
        ),
        pytest.param(
            ["returns", "--trajectories", "photos", "--out", "x"],
            "photos: no manifest.json, so not an artifact of kind trajectories. Check the "
            "path, or run the stage that "
            "makes it.",
            id="a folder of something else",
        ),
        pytest.param(
            ["inspect", "photos"],
            "photos: no manifest.json, so not an artifact. Check the path, or run the stage "
            "that makes it.",
            id="something else to look at",
        ),
        pytest.param(
            ["inspect", "absent"], "absent: not found. Check the path.", id="nothing to look at"
        ),
        pytest.param(
            ["compare", "absent"],
            "absent: not found, expected an artifact of kind trajectories. Run the stage that "
            "makes it first.",
            id="nothing to compare",
        ),
        pytest.param(
            ["compare", str(make_artifacts.FOLDER / "returns-v1")],
            f"{make_artifacts.FOLDER / 'returns-v1'}: is returns@1, expected trajectories. "
            "Check the path.",
            id="the wrong thing to compare",
        ),
    ],
)
def test_an_artifact_that_is_missing_or_foreign_ends_with_4(
    folder: Path, command: Command, arguments: list[str], said: str
) -> None:
    Path("photos").mkdir()

    done = command(*arguments)

    assert (done.status, done.stdout) == (4, "")
    assert one_line(done.stderr) == f"iterppo: {said}"


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_without_round_and_paths_says_what_is_missing(
    name: str, command: Command, folder: Path
) -> None:
    done = command(name)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == (
        f"iterppo: {name}: --out is missing. Name it, or name the round with --round runs/NAME/000."
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["ingest", "--out", "x"],
            "ingest: no log is named. Name files, or the round with --round runs/NAME/000.",
        ),
        (
            ["returns", "--out", "x"],
            "returns: --trajectories is missing. Name it, or name the round with --round "
            "runs/NAME/000.",
        ),
        (
            ["init", "--out", "x"],
            "init: a model from scratch is trained on a log. Name --trajectories, --round, or "
            "--model FOLDER.",
        ),
        (["schema", "wisdom"], f"wisdom: no such kind. Kinds: {', '.join(ROWS)}."),
        (
            ["schema", "log"],
            "log: a folder without rows, so it has no columns. Kinds with rows: "
            f"{', '.join(ROWS)}.",
        ),
        (
            ["rollout", "--policy", "scripted", "--out", "x", "--env", "shp"],
            "no environment is called 'shp'; known: shop, tutor; "
            "or give your own as module:factory",
        ),
    ],
    ids=[
        "a log",
        "an input",
        "something to learn from",
        "a kind",
        "a kind without rows",
        "an environment",
    ],
)
def test_wrong_usage_ends_with_2(
    folder: Path, command: Command, arguments: list[str], said: str
) -> None:
    done = command(*arguments)

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == f"iterppo: {said}"


@pytest.mark.parametrize("arguments", [["wisdom"], ["ingest", "--oot", "x"], ["inspect"]])
def test_a_command_line_that_cannot_be_read_ends_with_2(
    command: Command, arguments: list[str]
) -> None:
    done = command(*arguments)

    assert (done.status, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "out", ["log.jsonl/x", "/proc/nowhere/x"], ids=["under a file", "where nobody can write"]
)
def test_a_place_that_cannot_be_written_is_wrong_usage(
    log: Path, command: Command, out: str
) -> None:
    done = command("ingest", log, "--out", out)

    assert (done.status, done.stdout) == (2, "")
    assert out in one_line(done.stderr)


def test_two_artifacts_cannot_have_one_place(log: Path, command: Command) -> None:
    done = command("ingest", log, "--out", "x", "--rejects", "./x")

    assert (done.status, done.stdout) == (2, "")
    assert (
        one_line(done.stderr)
        == "iterppo: ingest: x is named twice. Give --out and --rejects places of their own."
    )
    assert not Path("x").exists()


def test_an_artifact_cannot_take_the_place_of_what_it_is_made_from(
    folder: Path, command: Command
) -> None:
    for kind in ("prompts", "q", "policy"):
        shutil.copytree(make_artifacts.FOLDER / f"{kind}-v1", kind)
    before = snapshot(folder)

    done = command(
        "ppo", "--prompts", "prompts", "--q", "q", "--policy", "policy", "--out", "policy"
    )

    assert (done.status, done.stdout) == (2, "")
    assert (
        one_line(done.stderr)
        == "iterppo: ppo: policy is named twice. Give --policy and --out places of their own."
    )
    assert snapshot(folder) == before


# --- ingest and returns --------------------------------------------------------------------------


def test_a_broken_line_goes_to_rejects_with_its_file_and_number(
    log: Path, command: Command
) -> None:
    Path("more.jsonl").write_bytes(
        conversation("e").encode()
        + b"\n{broken\n"
        + conversation("a").encode()
        + conversation("a").encode().replace(b"}]", b"}] ", 1)
        + b'\xff\xfe{"a": 1}\n'
    )

    done = command("ingest", log, "more.jsonl", "--out", "x", *EVERY_REJECT)

    assert (done.status, done.stderr) == (0, "")
    assert list(open_artifact(Path("x-rejects"), "rejects").rows()) == [
        {
            "source": "more.jsonl",
            "line": 3,
            "reason": "not JSON: Expecting property name enclosed in double quotes: line 1 "
            "column 2 (char 1)",
            "raw": "{broken",
        },
        {
            "source": "more.jsonl",
            "line": 5,
            "reason": "conversation_id: 'a' was there before",
            "raw": conversation("a").rstrip("\n").replace("}]", "}] ", 1),
        },
        {
            "source": "more.jsonl",
            "line": 6,
            "reason": "not UTF-8 at byte 0",
            "raw": '\\xff\\xfe{"a": 1}',
        },
    ]
    counts = read_manifest(Path("x")).counts
    names = ("lines", "conversations", "copies", "rejects")
    assert tuple(counts[name] for name in names) == (9, 5, 1, 3)


def test_a_log_that_is_cut_off_ends_with_3_and_leaves_nothing(log: Path, command: Command) -> None:
    Path("cut.gz").write_bytes(gzip.compress(log.read_bytes())[:-9])

    done = command("ingest", "cut.gz", "--out", "x")

    assert (done.status, done.stdout) == (3, "")
    assert one_line(done.stderr).startswith("iterppo: cut.gz: ")
    assert sorted(path.name for path in Path().iterdir()) == ["cut.gz", "log.jsonl"]


@pytest.mark.parametrize(
    ("content", "settings", "said"),
    [
        pytest.param(
            "broken\n",
            [],
            "bad.jsonl: no conversation in it was taken (1 rejects: 1 × not JSON). See: iterppo "
            "inspect x-rejects",
            id="nothing was taken",
        ),
        pytest.param(
            "", [], "bad.jsonl: no conversation in it was taken (0 rejects).", id="an empty log"
        ),
        pytest.param(
            conversation("a") + "broken\n",
            ["--max-reject-rate", "0.4"],
            "1 of 2 lines were not taken, more than ingest.max_reject_rate = 0.4 allows: "
            "1 × not JSON. See: iterppo inspect x-rejects",
            id="more than are allowed",
        ),
    ],
)
def test_a_log_that_is_refused_is_refused_every_time(
    folder: Path, command: Command, content: str, settings: list[str], said: str
) -> None:
    Path("bad.jsonl").write_text(content)

    for _ in range(2):
        done = command("ingest", "bad.jsonl", "--out", "x", *settings)

        assert (done.status, done.stdout) == (3, "")
        assert one_line(done.stderr).startswith(f"iterppo: {said}")
        assert not Path("x").exists()
        assert read_manifest(Path("x-rejects"), "rejects").rows == content.count("broken")


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param({"messages": [{"role": "customer", "content": "\ud83d"}]}, id="half an emoji"),
        pytest.param(
            {"messages": [{"role": "customer", "content": "x", "time": 1e20}]},
            id="a time beyond the years",
        ),
    ],
)
def test_a_value_that_nothing_can_hold_is_a_reject_and_not_the_end(
    log: Path, command: Command, fields: dict[str, Any]
) -> None:
    with log.open("a") as stream:
        stream.write(json.dumps({"conversation_id": "z", "outcome": 0, **fields}) + "\n")

    done = command("ingest", log, "--out", "x", *EVERY_REJECT)

    assert done.status == 0
    (row,) = open_artifact(Path("x-rejects"), "rejects").rows()
    assert (row["source"], row["line"]) == ("log.jsonl", 5)
    assert row["reason"].startswith("messages.0.")


def test_returns_are_discounted_per_turn_and_unknown_where_censored(
    log: Path, command: Command
) -> None:
    command("ingest", log, "--round", "r")

    done = command("returns", "--round", "r", "--set", "returns.gamma=0.5", "--json")

    assert json.loads(done.stdout)["counts"] == {
        "conversations": 4,
        "conversations_censored": 1,
        "turns": 8,
        "turns_with_return": 6,
        "turns_censored": 2,
        "turns_too_recent": 0,
        "turns_capped": 0,
    }
    names = ("conversation_id", "turn", "reward", "return", "horizon")
    found = [
        tuple(row[name] for name in names)
        for row in open_artifact(Path("r/returns"), "returns").rows()
    ]
    assert found == [
        ("a", 1, 0.0, 0.5, 2),
        ("a", 2, 1.0, 1.0, 1),
        ("b", 1, 0.0, 0.0, 2),
        ("b", 2, 0.0, 0.0, 1),
        ("c", 1, 0.0, None, None),
        ("c", 2, 0.0, None, None),
        ("d", 1, 0.0, 0.5, 2),
        ("d", 2, 1.0, 1.0, 1),
    ]


def test_a_second_run_says_up_to_date_and_changes_nothing(log: Path, command: Command) -> None:
    for arguments, out in ((["ingest", log], "r/trajectories"), (["returns"], "r/returns")):
        assert command(*arguments, "--round", "r").status == 0
        before = snapshot(Path("r"))

        assert command(*arguments, "--round", "r") == (0, f"{out}: up to date\n", "")
        assert snapshot(Path("r")) == before

        forced = command(*arguments, "--round", "r", "--force")
        assert forced.stdout.startswith(f"{out}: ")
        assert "up to date" not in forced.stdout
        assert (
            snapshot(Path("r"))[f"{Path(out).name}/{MANIFEST}"]
            != before[f"{Path(out).name}/{MANIFEST}"]
        )


def test_rejects_that_are_gone_are_made_again(log: Path, command: Command) -> None:
    command("ingest", log, "--round", "r")
    shutil.rmtree("r/rejects")

    assert "up to date" not in command("ingest", log, "--round", "r").stdout
    assert read_manifest(Path("r/rejects"), "rejects").rows == 0


def test_paths_win_over_the_round(log: Path, command: Command) -> None:
    command("ingest", log, "--out", "t")
    command("returns", "--round", "r", "--trajectories", "t")

    assert read_manifest(Path("r/returns"), "returns").inputs["trajectories"].path == "t"


# --- a kill in the middle ------------------------------------------------------------------------

# As slow as a real model: the log takes a minute.
SLOW_SHOP = """
import time
from iterppo.environments.shop import Shop

class Slow(Shop):
    def step(self, suggestion):
        time.sleep(0.01)
        return super().step(suggestion)
"""


@pytest.mark.parametrize("stage", ["rollout", "ingest", "returns"])
def test_a_stage_that_is_killed_in_the_middle_leaves_nothing_half_and_the_next_run_finishes(
    folder: Path, command: Command, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    Path("slow_shop.py").write_text(SLOW_SHOP)
    many = "".join(conversation(f"c{number}") for number in range(30_000))
    Path("many.jsonl").write_text(many)
    arguments = {
        "rollout": [
            "rollout",
            "--policy",
            "scripted",
            "--env",
            "slow_shop:Slow",
            "--set",
            "rollout.parallel=1",
        ],
        "ingest": ["ingest", "many.jsonl"],
        "returns": ["returns"],
    }[stage]
    if stage == "returns":
        assert command("ingest", "many.jsonl", "--round", "r").status == 0
    out = {"rollout": "log", "ingest": "trajectories", "returns": "returns"}[stage]

    process = subprocess.Popen(
        [sys.executable, "-m", "iterppo", *arguments, "--round", "r"],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
    )
    begun = Path(f"r/.{out}.tmp-{process.pid}")
    while not any(begun.glob("*")) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)

    assert process.wait() == -signal.SIGKILL
    assert any(begun.iterdir()), "it was killed while it wrote"
    assert not Path("r", out).exists()
    if stage == "rollout":
        arguments = ["rollout", "--policy", "scripted", "--set", "rollout.conversations=3"]
    assert command(*arguments, "--round", "r").status == 0
    assert open_artifact(Path("r", out)).manifest.counts["conversations"] == (
        3 if stage == "rollout" else 30_000
    )
    assert [path.name for path in Path("r").iterdir() if path.name.startswith(".")] == []


# --- a round -------------------------------------------------------------------------------------


def test_a_round_goes_from_the_scripted_shop_to_returns(folder: Path, command: Command) -> None:
    rollout = [
        "rollout",
        "--policy",
        "scripted",
        "--set",
        "rollout.conversations=40",
        "--set",
        "rollout.max_turns=6",
    ]
    for arguments in (rollout, ["ingest"], ["returns"]):
        done = command(*arguments, "--round", "runs/shop/000")
        assert (done.status, done.stderr) == (0, "")

    held, taken, paid = (
        open_artifact(Path("runs/shop/000") / kind).manifest
        for kind in ("log", "trajectories", "returns")
    )
    assert (
        held.counts["conversations"]
        == taken.counts["conversations"]
        == paid.counts["conversations"]
        == 40
    )
    assert held.counts["outcomes"] == taken.counts["outcomes"] > 0
    assert held.counts["unfinished"] == taken.counts["conversations_censored"] > 0
    assert paid.counts["conversations_censored"] == taken.counts["conversations_censored"]
    assert paid.counts["turns"] == taken.counts["turns"] == taken.rows == paid.rows
    # Turns of the log, and those in which an unfinished customer still waits for an answer.
    waiting = [
        rows
        for rows in open_artifact(Path("runs/shop/000/trajectories")).conversations()
        if rows[-1]["sent"] is None and rows[-1]["adoption"] == "not_shown"
    ]
    assert taken.counts["turns"] == held.counts["turns"] + len(waiting)
    rows = list(open_artifact(Path("runs/shop/000/trajectories"), "trajectories").rows())
    assert {row["policy_version"] for row in rows} == {"scripted"}
    assert {row["adoption"] for row in rows} <= {
        "verbatim", "edited", "influenced", "rejected", "abstained", "not_shown"
    }  # fmt: skip

    shown = command("inspect", "runs/shop/000")
    assert (shown.status, shown.stderr) == (0, "")
    lines = [line for line in shown.stdout.splitlines() if not line.startswith(" ")]
    heads = [line for line in lines if " = " not in line]
    assert len(lines) == len(heads) + 4  # lines, messages, conversations and turns are conserved
    assert heads[0] == "runs/shop/000: a round"
    assert sorted(heads[1:]) == sorted(
        [
            "runs/shop/000/log: log@1, 0 rows",
            "runs/shop/000/rejects: rejects@1, 0 rows",
            f"runs/shop/000/trajectories: trajectories@2, {taken.rows} rows",
            f"runs/shop/000/returns: returns@1, {paid.rows} rows",
        ]
    )
    again = command("ingest", "--round", "runs/shop/000")
    assert again.stdout == "runs/shop/000/trajectories: up to date\n"


def test_another_seed_holds_other_conversations_and_the_same_seed_the_same(
    folder: Path, command: Command
) -> None:
    logs = {}
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        settings = ["--set", "rollout.conversations=5", "--set", f"seed={seed}"]
        assert command("rollout", "--policy", "scripted", "--out", name, *settings).status == 0
        logs[name] = Path(name, "log.jsonl").read_bytes()

    assert logs["a"] == logs["b"] != logs["c"]


def test_a_log_artifact_that_was_changed_is_refused(folder: Path, command: Command) -> None:
    command("rollout", "--policy", "scripted", "--round", "r", "--set", "rollout.conversations=2")
    with Path("r/log/log.jsonl").open("a") as stream:
        stream.write(conversation("forged"))

    for arguments in (["--round", "r"], ["r/log", "--out", "x"]):
        done = command("ingest", *arguments)

        assert (done.status, done.stdout) == (4, "")
        assert one_line(done.stderr) == (
            "iterppo: r/log/log.jsonl: damaged, its content does not match manifest.json. "
            "Make the artifact again with --force."
        )


@pytest.mark.parametrize(
    ("name", "before"),
    [("runs/shop/003", "runs/shop/002"), ("runs/shop/1000", "runs/shop/0999"), ("r/10", "r/09")],
)
def test_the_round_before_has_the_number_before(name: str, before: str) -> None:
    assert previous_round(Path(name)) == Path(before)


def test_rounds_may_be_numbered_without_zeros(folder: Path) -> None:
    Path("r/9").mkdir(parents=True)

    assert previous_round(Path("r/10")) == Path("r/9")


@pytest.mark.parametrize("name", ["runs/shop/000", "runs/star", "0"])
def test_a_first_round_has_none_before(name: str) -> None:
    assert previous_round(Path(name)) is None


def test_the_policy_that_made_the_logs_is_the_one_of_the_round_before(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = Slot("policy", "policy", BEHAVIOUR)
    Path("r/002/policy").mkdir(parents=True)
    Path("r/003").mkdir()

    assert place(policy, Path("r/000")) == Path("r/000/init")
    assert place(policy, Path("r/002")) == Path("r/002/init"), "a loop may begin anywhere"
    assert place(policy, Path("r/003")) == Path("r/002/policy")
    monkeypatch.chdir("r/003")
    assert place(policy, Path(".")).resolve() == folder / "r/002/policy"


# --- results -------------------------------------------------------------------------------------


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
