"""Two artifacts of the same turns, read together; and what is said where they are not."""

from pathlib import Path

import pytest

from iterppo.artifact import Artifact, ArtifactWriter, open_artifact, paired_conversations
from iterppo.config import ReturnsConfig
from iterppo.errors import ArtifactError

TURNS = [("a", 1), ("a", 2), ("b", 1)]


def returns(folder: Path, turns: list[tuple[str, int]]) -> Artifact:
    with ArtifactWriter(
        folder, kind="returns", stage="returns", config=ReturnsConfig(), inputs={}
    ) as writer:
        writer.write(
            {
                "conversation_id": conversation,
                "turn": turn,
                "reward": 0.0,
                "return": 0.0,
                "weight": 1.0,
                "horizon": 1,
            }
            for conversation, turn in turns
        )
    return open_artifact(folder, "returns")


def test_a_conversation_of_both_at_a_time(tmp_path: Path) -> None:
    first, other = (returns(tmp_path / name, TURNS) for name in ("first", "other"))
    pairs = list(paired_conversations(first, other))

    assert [len(rows) for rows, _ in pairs] == [2, 1]
    assert all(rows == others for rows, others in pairs)


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param([], id="none"),
        pytest.param(TURNS[:2], id="a conversation less"),
        pytest.param([*TURNS, ("c", 1)], id="a conversation more"),
        pytest.param([("a", 1), ("a", 2), ("c", 1)], id="another one"),
        pytest.param([("a", 1), ("b", 1), ("b", 2)], id="cut elsewhere"),
    ],
)
def test_other_turns_are_said_to_be_such(turns: list[tuple[str, int]], tmp_path: Path) -> None:
    first, other = returns(tmp_path / "first", TURNS), returns(tmp_path / "other", turns)

    with pytest.raises(ArtifactError, match=r"other: its turns are not those .* iterppo returns"):
        list(paired_conversations(first, other))
