"""`iterppo ingest` and `iterppo returns`, as they are typed, again, and killed in the middle."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import MANIFEST, open_artifact, read_manifest
from tests.conftest import ROOT, Command
from tests.short_log import EVERY_REJECT, conversation, one_line, snapshot, write_log


@pytest.fixture
def log(folder: Path) -> Path:
    """Two successes, a failure, an open conversation."""
    return write_log()


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


def test_a_setting_of_the_mapping_wins_over_the_mapping_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text("conversation_id,who,content,time\nc,user,hi,1777629600000\n")
    Path("map.toml").write_text("time_format = 's'\ncolumns = {role = 'who'}\n")
    setting = ["--set", "ingest.mapping.time_format=ms"]

    done = command("ingest", "log.csv", "--out", "x", "--mapping", "map.toml", *setting)

    assert done.status == 0, done.stderr
    (row,) = open_artifact(Path("x")).rows()
    assert row["customer_time"].year == 2026


def test_rejects_that_are_gone_are_made_again(log: Path, command: Command) -> None:
    command("ingest", log, "--round", "r")
    shutil.rmtree("r/rejects")

    assert "up to date" not in command("ingest", log, "--round", "r").stdout
    assert read_manifest(Path("r/rejects"), "rejects").rows == 0


def test_paths_win_over_the_round(log: Path, command: Command) -> None:
    command("ingest", log, "--out", "t")
    command("returns", "--round", "r", "--trajectories", "t")

    assert read_manifest(Path("r/returns"), "returns").inputs["trajectories"].path == "t"


@pytest.mark.parametrize(
    ("arguments", "setting"),
    [
        pytest.param(["returns", "--credit"], "returns.rewards=credit", id="credit"),
        pytest.param(["fit-q", "--actions"], "fit-q.method=fqe (or lstdq)", id="actions"),
        pytest.param(["ppo", "--trajectories"], "ppo.critic_warmup=returns", id="trajectories"),
    ],
)
def test_an_input_that_is_named_and_would_not_be_read_is_refused(
    folder: Path, command: Command, arguments: list[str], setting: str
) -> None:
    stage, option = arguments

    done = command(*arguments, "nope", "--round", "r")

    assert (done.status, done.stdout) == (2, "")
    assert one_line(done.stderr) == (
        f"iterppo: {stage}: {option} nope is not read under this configuration. Leave it away, or "
        f"add --set {setting}."
    )


def test_an_artifact_that_merely_lies_in_its_place_is_not_read(log: Path, command: Command) -> None:
    command("ingest", log, "--round", "r")
    Path("r/credit").mkdir()

    assert command("returns", "--round", "r").status == 0
    assert "credit" not in read_manifest(Path("r/returns"), "returns").inputs


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
    begun = f".{out}.tmp-*-{process.pid}/[!.]*"
    while not any(Path("r").glob(begun)) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)

    assert process.wait() == -signal.SIGKILL
    assert any(Path("r").glob(begun)), "it was killed while it wrote"
    assert not Path("r", out).exists()
    if stage == "rollout":
        arguments = ["rollout", "--policy", "scripted", "--set", "rollout.conversations=3"]
    assert command(*arguments, "--round", "r").status == 0
    assert open_artifact(Path("r", out)).manifest.counts["conversations"] == (
        3 if stage == "rollout" else 30_000
    )
    assert [path.name for path in Path("r").iterdir() if path.name.startswith(".")] == []
