"""The probe set: held-out turns with an action, the same ones every time."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import open_artifact
from iterppo.contracts.trajectories import action
from iterppo.errors import ArtifactError, DataError
from iterppo.logs.probe import Rows, probe_artifact, probe_turns
from iterppo.logs.splits import unit_hash
from tests.data import make_artifacts
from tests.logs.ingesting import ingested


def log(names: range, *, num_turns: int = 3) -> bytes:
    """Conversations of so many turns; in the second of each the assistant had no part."""
    lines = []
    for number in names:
        messages: list[dict[str, Any]] = []
        for turn in range(num_turns):
            messages.append({"role": "customer", "content": f"question {turn}"})
            shown = {} if turn == 1 else {"suggestion": "yes", "adoption": "verbatim"}
            not_shown = {"adoption": "not_shown"} if turn == 1 else {}
            messages.append({"role": "business", "content": "yes", **shown, **not_shown})
        lines.append({"conversation_id": f"c{number}", "messages": messages, "outcome": 1})
    return "".join(json.dumps(line) + "\n" for line in lines).encode()


def chosen(found: list[Rows]) -> list[tuple[str, int]]:
    """The turns that are scored."""
    return [
        (row["conversation_id"], row["turn"])
        for rows in found
        for row in rows
        if action(row) is not None
    ]


def test_only_held_out_turns_with_an_action_are_chosen(tmp_path: Path) -> None:
    made = ingested(tmp_path, log(range(40)), heldout=0.3)
    expected = {
        (row["conversation_id"], row["turn"])
        for row in made.rows
        if row["split"] == "heldout" and action(row) is not None
    }
    found = probe_turns(open_artifact(tmp_path / "trajectories"), turns=1000)

    assert 10 < len(expected) < 40
    assert set(chosen(found)) == expected
    assert all(row["turn"] == place + 1 for rows in found for place, row in enumerate(rows))


@pytest.mark.parametrize("turns", [1, 2, 3, 8, 9])
def test_fewer_turns_are_the_first_of_more_by_the_hash_of_their_conversation(
    turns: int, tmp_path: Path
) -> None:
    ingested(tmp_path, log(range(40)), heldout=0.3)
    artifact = open_artifact(tmp_path / "trajectories")
    every = chosen(probe_turns(artifact, turns=1000))
    hashes = [unit_hash(name, seed=0) for name, _ in every]

    assert hashes == sorted(hashes)
    assert chosen(probe_turns(artifact, turns=turns)) == every[:turns]


def test_the_order_of_the_log_does_not_matter(tmp_path: Path) -> None:
    for name, names in {"there": range(40), "back": range(39, -1, -1)}.items():
        ingested(tmp_path / name, log(names), heldout=0.5)
    there, back = (
        chosen(probe_turns(open_artifact(tmp_path / name / "trajectories"), turns=11))
        for name in ("there", "back")
    )

    assert there == back


def test_trajectories_without_held_out_actions_are_no_probe(tmp_path: Path) -> None:
    ingested(tmp_path, log(range(4)), heldout=0.0)

    with pytest.raises(DataError, match=r"trajectories: no held-out turn .* --probe"):
        probe_turns(open_artifact(tmp_path / "trajectories"), turns=5)


def test_the_default_is_what_q_was_fitted_on_and_a_name_wins(tmp_path: Path) -> None:
    one, other = tmp_path / "one" / "trajectories", tmp_path / "other" / "trajectories"
    for folder in (one.parent, other.parent):
        ingested(folder, log(range(9 if folder.name == "one" else 8)))
    q = open_artifact(make_artifacts.FOLDER / "q-v2").manifest
    fitted = q.model_copy(update={"inputs": {"trajectories": open_artifact(one).record()}})

    assert probe_artifact(fitted, q_path=Path("q"), named=None).path == one
    assert probe_artifact(fitted, q_path=Path("q"), named=other).path == other

    shutil.rmtree(one)
    with pytest.raises(ArtifactError, match=r"not found, the trajectories that q was .* --probe"):
        probe_artifact(fitted, q_path=Path("q"), named=None)
    shutil.copytree(other, one)
    with pytest.raises(ArtifactError, match=r"changed since q was fitted on it\. .* --probe"):
        probe_artifact(fitted, q_path=Path("q"), named=None)
