"""An arm is what its trajectories say, conversation by conversation."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from iterppo.artifact import Artifact, ArtifactWriter, open_artifact
from iterppo.config import FitQConfig, IngestConfig
from iterppo.contracts.trajectories import ADOPTIONS
from iterppo.errors import DataError, UsageError
from iterppo.logs.arms import Arm, first_values, read_arm
from iterppo.logs.sources import LogFile
from iterppo.stages import ingest
from tests.data import make_artifacts


def conversation(name: str, *, turns: int = 2, **fields: Any) -> dict[str, Any]:
    """The outcome, where there is one, is reached with the last turn."""
    messages = [
        message
        for turn in range(turns)
        for message in (
            {"role": "customer", "content": f"question {turn}"},
            {
                "role": "business",
                "content": f"answer {turn}",
                "suggestion": f"answer {turn}",
                "adoption": "verbatim" if turn else "edited",
            },
        )
    ]
    return {"conversation_id": name, "messages": messages, "outcome": 1, **fields}


def trajectories(folder: Path, lines: list[dict[str, Any]]) -> Artifact:
    log = folder / "log.jsonl"
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    out = folder / "trajectories"
    ingest.run(
        IngestConfig(facts=["city"]),
        logs=[LogFile(str(log), str(log))],
        out=out,
        rejects=folder / "rejects",
    )
    return open_artifact(out, "trajectories")


def arm_of(artifact: Artifact, **options: Any) -> Arm:
    return read_arm(
        artifact, **({"name": "a", "gamma": 0.5, "cluster": None, "segment": None} | options)
    )


def test_each_conversation_is_a_row(tmp_path: Path) -> None:
    artifact = trajectories(
        tmp_path,
        [
            conversation("won", turns=3, policy_version="p1"),
            conversation("lost", outcome=0, policy_version="p0"),
            conversation("open", outcome=None, unfinished=True),
        ],
    )

    arm = arm_of(artifact)

    assert arm.id_N.tolist() == ["won", "lost", "open"]
    assert arm.policy_versions == ["p0", "p1"]
    assert [(each.policy_versions, each.id_N.tolist()) for each in arm.by_policy()] == [
        ([], ["open"]),
        (["p0"], ["lost"]),
        (["p1"], ["won"]),
    ]
    assert arm.is_censored_N.tolist() == [False, False, True]
    assert arm.outcome_N == pytest.approx([1, 0, math.nan], nan_ok=True)
    assert arm.return_N == pytest.approx([0.25, 0, math.nan], nan_ok=True)
    assert arm.turns_to_outcome_N == pytest.approx([3, math.nan, math.nan], nan_ok=True)
    shown = {
        kind: arm.adoption_NA[:, place].tolist()
        for place, kind in enumerate(ADOPTIONS)
        if arm.adoption_NA[:, place].any()
    }
    assert shown == {"verbatim": [2, 1, 1], "edited": [1, 1, 1]}
    assert arm.cluster_N is arm.segment_N is None


def test_a_log_without_suggestions_says_nothing_of_adoption(tmp_path: Path) -> None:
    line = conversation("a")
    for message in line["messages"]:
        message.pop("suggestion", None)
        message.pop("adoption", None)

    assert not arm_of(trajectories(tmp_path, [line])).adoption_NA.any()


def test_a_conversation_without_a_customer_is_a_cluster_of_its_own(tmp_path: Path) -> None:
    artifact = trajectories(
        tmp_path,
        [
            conversation("a", customer_id="x"),
            conversation("b"),
            conversation("c", customer_id="x"),
            conversation("d"),
        ],
    )

    here = arm_of(artifact, cluster="customer_id").cluster_N
    there = arm_of(artifact, cluster="customer_id", name="b").cluster_N

    assert here is not None
    assert there is not None
    assert len(set(here.tolist())) == 3
    assert here[0] == here[2]
    assert set(here.tolist()) & set(there.tolist()) == {here[0]}, "a customer is one in all arms"


def test_segments_are_columns_or_facts(tmp_path: Path) -> None:
    artifact = trajectories(
        tmp_path,
        [
            conversation("a", business_id="s", meta={"city": "Rome"}),
            conversation("b", meta={"city": "Oslo: north"}),
        ],
    )

    by_business = arm_of(artifact, segment="business_id").segment_N
    by_city = arm_of(artifact, segment="city").segment_N

    assert by_business is not None
    assert by_city is not None
    assert by_business.tolist() == ["s", "(none)"]
    assert by_city.tolist() == ["Rome", "Oslo: north"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"cluster": "business_id"},
            "a: no conversation has a business_id. Ingest logs that have it, or leave --cluster "
            "out.",
        ),
        (
            {"segment": "adoption"},
            "a: no conversation has adoption. --by takes business_id, customer_id, persona, split, "
            "or a fact that ingest.facts names.",
        ),
    ],
    ids=["cluster", "segment"],
)
def test_what_no_conversation_has_is_one_line(
    tmp_path: Path, options: dict[str, str], said: str
) -> None:
    artifact = trajectories(tmp_path, [conversation("a")])

    with pytest.raises(DataError) as raised:
        arm_of(artifact, **options)

    assert str(raised.value) == said


def q_artifact(path: Path, rows: list[dict[str, Any]]) -> Artifact:
    """V of some turns."""
    rest = {"q": 0.5, "q_spread": None, "return": 1.0, "weight": 1.0}
    with ArtifactWriter(path, kind="q", stage="fit-q", config=FitQConfig(), inputs={}) as writer:
        writer.write([{**rest, **row} for row in rows])
    return open_artifact(path, "q")


def arm_with(name: str, ids: list[str]) -> Arm:
    num = len(ids)
    return Arm(
        name=name,
        versions_N=np.fromiter([()] * num, dtype=object, count=num),
        id_N=np.asarray(ids, dtype=object),
        has_persona_N=np.zeros(num, dtype=bool),
        is_censored_N=np.zeros(num, dtype=bool),
        outcome_N=np.zeros(num),
        return_N=np.zeros(num),
        turns_to_outcome_N=np.full(num, np.nan),
        adoption_NA=np.zeros((num, len(ADOPTIONS))),
        cluster_N=None,
        segment_N=None,
    )


def test_v_is_of_the_first_state_and_of_conversations_that_q_was_not_trained_on(
    tmp_path: Path,
) -> None:
    q = q_artifact(
        tmp_path / "q",
        [
            {"conversation_id": "a", "turn": 1, "split": "heldout", "v": 0.25},
            {"conversation_id": "a", "turn": 2, "split": "heldout", "v": 0.75},
            {"conversation_id": "b", "turn": 1, "split": "train", "v": 0.5},
            {"conversation_id": "c", "turn": 2, "split": "heldout", "v": 0.5},
            {"conversation_id": "d", "turn": 1, "split": "heldout", "v": 0.125},
        ],
    )

    one, other = first_values(
        q, [arm_with("A", ["a", "b"]), arm_with("B", ["c", "d"])], path=q.path
    )

    assert one == pytest.approx([0.25, math.nan], nan_ok=True)
    assert other == pytest.approx([math.nan, 0.125], nan_ok=True)


def test_an_id_in_two_arms_cannot_be_told_apart(tmp_path: Path) -> None:
    q = q_artifact(
        tmp_path / "q", [{"conversation_id": "a", "turn": 1, "split": "heldout", "v": 0}]
    )

    with pytest.raises(DataError, match="B: conversation a is in A too, so --adjust cannot tell"):
        first_values(q, [arm_with("A", ["a"]), arm_with("B", ["a"])], path=q.path)


def test_a_q_of_other_conversations_is_one_line(tmp_path: Path) -> None:
    q = q_artifact(
        tmp_path / "q", [{"conversation_id": "a", "turn": 1, "split": "train", "v": 0.5}]
    )

    with pytest.raises(DataError, match="has a V for the first turn of none of these"):
        first_values(q, [arm_with("A", ["a"]), arm_with("B", ["b"])], path=q.path)


def test_a_q_of_before_there_was_v_is_one_line() -> None:
    q = open_artifact(make_artifacts.FOLDER / "q-v1", "q")

    with pytest.raises(UsageError, match=r"q-v1: is q@1, which has no V\. Fit Q again"):
        first_values(q, [arm_with("A", ["a"]), arm_with("B", ["b"])], path=q.path)
