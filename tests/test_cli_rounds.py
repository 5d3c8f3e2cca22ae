"""A round from the scripted shop to returns, its log, and the round before it."""

from pathlib import Path

import pytest

from iterppo.artifact import open_artifact
from iterppo.pipeline import BEHAVIOUR, Slot, place, previous_round
from tests.conftest import Command
from tests.short_log import conversation, one_line


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
