"""`make loop`: which commands run, and when it stops. A script stands in for the command."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

STAND_IN = """#!/bin/sh
# Notes the call; makes the policies that make looks for; answers `converged` with the next status.
echo "$@" | sed "s|{folder}/||g" >> "{folder}/calls"
for each; do [ "$option" = --round ] && round=$each; option=$each; done
case $1 in
init) made=$round/init ;;
ppo) made=$round/policy ;;
converged|evaluate)
    status=$(head -n 1 "{folder}/statuses")
    tail -n +2 "{folder}/statuses" > "{folder}/left"
    mv "{folder}/left" "{folder}/statuses"
    exit $status ;;
*) exit 0 ;;
esac
mkdir -p "$made" && touch "$made/manifest.json"
"""

WRITES = """#!/bin/sh
# Notes the call, and writes as a stage does: only what is not there yet.
echo "$@" | sed "s|{folder}/||g" >> "{folder}/calls"
place=$1
case $1 in
ingest) place=trajectories ;;
fit-q) place=q ;;
ppo) place=policy ;;
esac
made={folder}/r/$place/manifest.json
mkdir -p "${{made%/*}}" && test -e "$made" || touch "$made"
"""


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def loop(folder: Path, *arguments: str, statuses: tuple[int, ...] = ()) -> tuple[int, list[str]]:
    """Exit status of `make loop` with the run in `folder`/r, and what it ran, with the folder left
    out, where `converged` answers as given."""
    (folder / "bin").mkdir()
    (folder / ".installed").write_text("now\n", encoding="utf-8")
    (folder / "statuses").write_text("".join(f"{s}\n" for s in statuses), encoding="utf-8")
    script = folder / "bin" / "iterppo"
    script.write_text(STAND_IN.format(folder=folder), encoding="utf-8")
    script.chmod(0o755)
    done = make("loop", f"VENV={folder}", "LOCK=now", f"RUN={folder}/r", *arguments)
    return done.returncode, (folder / "calls").read_text(encoding="utf-8").splitlines()


def round_calls(folder: Path, *arguments: str) -> list[str]:
    """What `make round` runs in a folder where it ran before, if it did; every stage writes."""
    (folder / "bin").mkdir(exist_ok=True)
    (folder / ".installed").write_text("now\n", encoding="utf-8")
    if not (folder / "log.jsonl").exists():
        (folder / "log.jsonl").touch()
    script = folder / "bin" / "iterppo"
    script.write_text(WRITES.format(folder=folder), encoding="utf-8")
    script.chmod(0o755)
    (folder / "calls").write_text("", encoding="utf-8")
    done = make(
        *("round", f"VENV={folder}", "LOCK=now", f"ROUND={folder}/r", f"LOGS={folder}/log.jsonl"),
        *arguments,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return (folder / "calls").read_text(encoding="utf-8").splitlines()


def rounds(calls: list[str]) -> list[str]:
    """Rounds in which the policy was improved."""
    return [found[1] for call in calls if (found := re.match(r"ppo --round r/(\d+) ", call))]


def comparisons(calls: list[str]) -> list[str]:
    return [call for call in calls if call.startswith(("converged", "compare"))]


def test_the_demo_ends_with_a_page_about_its_run(tmp_path: Path) -> None:
    done = make("--dry-run", "demo", f"VENV={tmp_path}/v")

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-1] == f"{tmp_path}/v/bin/iterppo report runs/demo"


def test_a_dry_run_shows_the_comparison_and_runs_nothing(tmp_path: Path) -> None:
    done = make("--dry-run", "loop", "UNTIL=converged", f"RUN={tmp_path}/r", f"VENV={tmp_path}/v")

    assert (done.returncode, done.stderr) == (0, "")
    assert f"iterppo converged {tmp_path}/r/$before/q {tmp_path}/r/$k/q" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_until_every_round_runs_and_nothing_is_asked(tmp_path: Path) -> None:
    status, calls = loop(tmp_path, "ROUNDS=3")

    assert status == 0
    assert rounds(calls) == ["000", "001", "002"]
    assert comparisons(calls) == [
        "compare --ignore-sample-ratio " + " ".join(f"r/00{k}/trajectories" for k in range(4))
    ]
    assert [call for call in calls if call.startswith("rounds")] == [
        "rounds r/000",
        "rounds r/001 --no-header",
        "rounds r/002 --no-header",
    ], "a line a round, when it is done"


def test_the_loop_stops_after_the_first_round_whose_q_has_converged(tmp_path: Path) -> None:
    status, calls = loop(tmp_path, "ROUNDS=5", "UNTIL=converged", statuses=(1, 0))

    assert status == 0
    assert rounds(calls) == ["000", "001", "002"]
    assert comparisons(calls) == [
        "converged r/000/q r/001/q",
        "converged r/001/q r/002/q",
        "compare --ignore-sample-ratio "
        "r/000/trajectories r/001/trajectories r/002/trajectories r/003/trajectories",
    ]
    assert calls[-3].startswith("rollout --env shop --round r/003 ")


def test_a_loop_that_never_converges_ends_after_its_rounds(tmp_path: Path) -> None:
    status, calls = loop(
        tmp_path, "ROUNDS=10", "UNTIL=converged", "TOLERANCE=0.05", statuses=(1,) * 9
    )

    assert status == 0
    assert rounds(calls) == [f"{k:03d}" for k in range(10)]
    assert comparisons(calls)[8] == "converged r/008/q r/009/q --tolerance 0.05"
    assert comparisons(calls)[9].endswith("r/010/trajectories")


def test_trouble_ends_the_loop_with_an_error(tmp_path: Path) -> None:
    status, calls = loop(tmp_path, "ROUNDS=5", "UNTIL=converged", statuses=(4,))

    assert status != 0
    assert calls[-1] == "converged r/000/q r/001/q"


def test_a_policy_that_the_gate_holds_back_holds_no_conversation(tmp_path: Path) -> None:
    status, calls = loop(tmp_path, "ROUNDS=5", "GATE=yes", statuses=(0, 1))

    assert status == 0
    assert rounds(calls) == ["000", "001"]
    assert [call.split(" --config")[0] for call in calls if "001/fqe" in call] == [
        "fit-q --round r/001 --actions r/001/proposals --out r/001/fqe"
    ]
    assert [call.split(" --config")[0] for call in calls if call.startswith("evaluate")] == [
        "evaluate --round r/000 --gate",
        "evaluate --round r/001 --gate",
    ]
    assert not [call for call in calls if call.startswith("rollout") and "r/002" in call]
    assert calls[-1] == "compare --ignore-sample-ratio r/000/trajectories r/001/trajectories"


def test_a_first_policy_that_is_held_back_leaves_nothing_to_compare(tmp_path: Path) -> None:
    status, calls = loop(tmp_path, "ROUNDS=5", "GATE=yes", statuses=(1,))

    assert status == 0
    assert calls[-1].startswith("evaluate --round r/000 --gate")


def test_trouble_of_the_gate_is_an_error(tmp_path: Path) -> None:
    status, calls = loop(tmp_path, "ROUNDS=5", "GATE=yes", statuses=(4,))

    assert status != 0
    assert calls[-1].startswith("evaluate --round r/000 --gate")


@pytest.mark.parametrize("target", ["loop", "help"])
def test_an_unknown_end_is_refused_before_anything_runs(target: str) -> None:
    done = make(target, "UNTIL=convergd")

    assert done.returncode != 0
    assert "UNTIL=convergd is not known" in done.stderr


@pytest.mark.parametrize(
    ("mistyped", "said"),
    [
        ("ROUNDS=x", "ROUNDS=x is no number for it. Write ROUNDS=3."),
        ("ROUNDS=0", "ROUNDS=0 is no number for it. Write ROUNDS=3."),
        ("ROUNDS=", "ROUNDS= is no number for it. Write ROUNDS=3."),
        ("LAST=1e3", "LAST=1e3 is no number for it. Write LAST=1000."),
        ("TOLERANCE=5%", "TOLERANCE=5% is no number for it. Write TOLERANCE=0.05."),
        ("GATE=no", "GATE=no is not known. Write GATE=yes, or leave it out."),
    ],
)
def test_what_is_mistyped_is_refused_before_anything_runs(mistyped: str, said: str) -> None:
    done = make("--dry-run", "loop", mistyped)

    assert done.returncode != 0
    assert said in done.stderr
    assert done.stdout == ""


def test_q_is_fitted_on_the_conversations_of_all_rounds_so_far(tmp_path: Path) -> None:
    _, calls = loop(tmp_path, "ROUNDS=3")
    fits = [call.split(" --config")[0].split() for call in calls if call.startswith("fit-q")]

    assert fits == [
        ["fit-q", "--round", "r/000"],
        ["fit-q", "--round", "r/001", "--earlier", "r/000"],
        ["fit-q", "--round", "r/002", "--earlier", "r/000", "--earlier", "r/001"],
    ]


def test_where_the_policy_is_asked_for_actions_each_round_stands_for_itself(tmp_path: Path) -> None:
    _, calls = loop(tmp_path, "ROUNDS=2", "ACTIONS=yes")

    assert not any("--earlier" in call for call in calls)


ROUND = ["ingest", "init", "returns", "fit-q", "prompts", "ppo", "export"]


def test_a_round_that_is_done_is_not_looked_at_again(tmp_path: Path) -> None:
    first = [call.split()[0] for call in round_calls(tmp_path)]

    assert sorted(first) == sorted(ROUND)
    assert round_calls(tmp_path) == []


@pytest.mark.parametrize(
    "choice",
    ["CREDIT=yes", "SET=seed=3", "SET=credit.pattern='a|b'", "ACTIONS=yes", "EARLIER=runs/x/000"],
)
def test_other_choices_are_looked_at_in_every_stage_and_so_is_the_way_back(
    choice: str, tmp_path: Path
) -> None:
    round_calls(tmp_path)
    there = round_calls(tmp_path, choice)
    again = round_calls(tmp_path, choice)
    back = round_calls(tmp_path)

    assert {call.split()[0] for call in there} >= set(ROUND)
    assert again == []
    assert sorted(call.split()[0] for call in back) == sorted(ROUND)
    assert not any("--rewards credit" in call or "seed=3" in call for call in back)
    assert round_calls(tmp_path) == []


def test_other_logs_are_other_choices(tmp_path: Path) -> None:
    round_calls(tmp_path)
    (tmp_path / "other.jsonl").touch()
    os.utime(tmp_path / "other.jsonl", (0, 0))

    assert len(round_calls(tmp_path, f"LOGS={tmp_path}/other.jsonl")) == len(ROUND)
