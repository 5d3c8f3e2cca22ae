import json
from pathlib import Path

import pytest

from iterppo.report.page.run import read_run
from iterppo.report.page.settings import read_changes
from tests.report.page.made_run import write


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Three rounds of `returns` and, in the last two, `ingest`."""
    for number, gamma in (("000", 0.9), ("001", 0.9), ("002", 0.8)):
        write(tmp_path / number / "returns", "returns", "returns", gamma=gamma)
    write(tmp_path / "001" / "trajectories", "trajectories", "ingest", facts=["city"])
    write(tmp_path / "002" / "trajectories", "trajectories", "ingest", facts=["city"],
          mapping={"roles": {"bot": "ignore"}})  # fmt: skip
    return tmp_path


def test_a_first_round_is_told_by_what_is_not_a_default(run: Path) -> None:
    found = read_run(run)
    changes = read_changes(found, found.rounds[0])

    assert (changes.against, changes.stages) == ("the defaults", ("returns",))
    assert [(one.name, one.before, one.after) for one in changes.changes] == [
        ("returns.gamma", "0.99", "0.9")
    ]


def test_a_setting_that_a_release_did_not_know_yet_is_no_difference_to_the_defaults(
    run: Path,
) -> None:
    manifest = run / "000" / "returns" / "manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    del content["config"]["weights"]
    manifest.write_text(json.dumps(content), encoding="utf-8")
    found = read_run(run)

    assert [one.name for one in read_changes(found, found.rounds[0]).changes] == ["returns.gamma"]


def test_a_later_round_is_compared_with_the_one_before_in_the_stages_of_both(run: Path) -> None:
    found = read_run(run)

    assert read_changes(found, found.rounds[1]).changes == ()
    changes = read_changes(found, found.rounds[2])
    told = {one.name: (one.before, one.after) for one in changes.changes}
    assert (changes.against, changes.stages) == ("round 001", ("ingest", "returns"))
    assert told["returns.gamma"] == ("0.9", "0.8")
    assert told["ingest.mapping.roles.bot"] == ("–", '"ignore"')
    assert told["ingest.mapping.roles.user"] == ('"customer"', "–")
    assert not any(name.startswith("ingest.facts") for name in told)
