"""The README and the Makefile say what the code does."""

import re
import subprocess
from collections import Counter
from pathlib import Path

from iterppo.pipeline import BEHAVIOUR, STAGES
from tests.test_cli import COMMANDS

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def stage_rows() -> list[str]:
    rows = []
    for stage in STAGES.values():
        kinds = Counter((slot.kind, slot.optional) for slot in stage.reads)
        reads = [
            f"{kind}{f' × {number}' if number > 1 else ''}{' (optional)' if optional else ''}"
            for (kind, optional), number in kinds.items()
        ]
        writes = [slot.kind for slot in stage.writes]
        told = ", ".join(reads) or "log files"
        rows.append(f"| `iterppo {stage.name}` | {stage.help} | {told} | {', '.join(writes)} |")
    return rows


def test_the_table_of_stages_is_the_pipelines() -> None:
    between = re.search(r"<!-- stages.*?-->\n(.*?)<!-- end", README, re.DOTALL)

    assert between is not None
    assert stage_rows() == between.group(1).splitlines()[2:]


def test_every_command_in_the_readme_exists() -> None:
    named = set(re.findall(r"(?:\.venv/bin/|`)iterppo ([a-z][a-z-]*)", README))

    assert named <= set(COMMANDS)
    assert set(STAGES) <= named


def test_every_make_target_in_the_readme_exists() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.MULTILINE))

    assert set(re.findall(r"make ([a-z]+)\b(?= |\n|`)", README)) <= targets


def test_every_place_in_the_tree_exists() -> None:
    tree = README.rpartition("## Tree")[2]
    inside = [line.split()[0] for line in tree.splitlines() if re.match(r"^ +[a-z]", line)]
    top = [line.split()[0] for line in tree.splitlines() if re.match(r"^[a-z]+/", line)]

    assert all((ROOT / "iterppo" / name).exists() for name in inside)
    assert all((ROOT / name).exists() for name in top)


def test_make_round_runs_every_stage_but_rollout_once_and_inputs_first(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("{}\n", encoding="utf-8")
    command = ["make", "--dry-run", "round", f"ROUND={tmp_path}/000", f"LOGS={log}"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    order = re.findall(r"bin/iterppo ([a-z-]+) .*--round", result.stdout)
    made: set[str] = set()
    assert sorted(order) == sorted(set(STAGES) - {"rollout", "actions", "credit", "evaluate"})
    for name in order:
        places = {
            "init" if slot.place == BEHAVIOUR else slot.place
            for slot in STAGES[name].reads
            # made with ACTIONS=yes, CREDIT=yes, JUDGE=yes
            if slot.name not in ("actions", "credit", "judge")
        }
        assert places <= made
        made |= {slot.place for slot in STAGES[name].writes}


def test_make_round_with_a_judge_fits_q_on_both_halves_before_ppo(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("{}\n", encoding="utf-8")
    command = ["make", "--dry-run", "round", f"ROUND={tmp_path}/000", f"LOGS={log}", "JUDGE=yes"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    lines = [
        line for line in result.stdout.splitlines() if re.search(r"iterppo (fit-q|ppo) ", line)
    ]
    halves = {"q": "first-half", "judge": "second-half"}
    for line in lines[:-1]:
        place = "judge" if "--out" in line else "q"
        assert line.endswith(f"fit-q.part={halves.pop(place)}")
    assert not halves
    assert "iterppo ppo" in lines[-1]


def test_make_round_with_credit_learns_it_before_the_returns_that_take_it(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text("{}\n", encoding="utf-8")
    command = ["make", "--dry-run", "round", f"ROUND={tmp_path}/000", f"LOGS={log}", "CREDIT=yes"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)

    lines = [line for line in result.stdout.splitlines() if "bin/iterppo " in line]
    order = [re.findall(r"bin/iterppo ([a-z-]+) ", line)[0] for line in lines]
    assert order.index("init") < order.index("credit") < order.index("returns")
    assert [line.endswith("--rewards credit") for line in lines] == [n == "returns" for n in order]
