"""What `inspect` and the page say of a Q, in words."""

import json
from pathlib import Path

import pytest

from iterppo.report.page.q_quality import read_quality
from iterppo.report.page.run import Place
from iterppo.report.q_text import q_text
from tests.report.page.made_run import heldout


@pytest.mark.parametrize(
    ("matched_by", "said"),
    [
        pytest.param("state", "7 pairs of actions, each of one state", id="one state"),
        pytest.param(
            "matched",
            "7 pairs of actions, each of two states with the same turn number and last message of "
            "the customer",
            id="like states",
        ),
        pytest.param(None, "7 pairs of actions", id="none"),
    ],
)
def test_what_the_states_of_a_pair_have_in_common_is_said_in_words(
    tmp_path: Path, matched_by: str | None, said: str
) -> None:
    write_metrics(tmp_path, discrimination_matched_by=matched_by)

    assert f"  {said}" in q_text(tmp_path)
    assert read_quality(Place("q", tmp_path, None)).summary.endswith(f"; {said}.")


def test_turns_of_other_policies_and_of_unknown_ones_are_told_apart(tmp_path: Path) -> None:
    behaviour = {
        "share_other_policies": 0.25,
        "share_unknown_policies": 0.5,
        "advice": "of others.",
        "advice_unknown": "of nobody knows whom.",
    }
    write_metrics(tmp_path, behaviour=behaviour)

    assert q_text(tmp_path)[-2:] == [
        "  25% of the training turns: of others.",
        "  50% of the training turns: of nobody knows whom.",
    ]
    assert read_quality(Place("q", tmp_path, None)).advice == (
        "25% of the training turns: of others. 50% of the training turns: of nobody knows whom."
    )


def write_metrics(
    folder: Path, *, behaviour: dict[str, object] | None = None, **changes: object
) -> None:
    """As `fit-q` does."""
    names = (
        "explained_variance_over_turn_means",
        "explained_variance_over_state_only",
        "auc",
        "calibration_error",
        "discrimination",
        "discrimination_gain",
        "action_share",
        "q_per_10_tokens",
        "residual_length_correlation",
    )
    unknown = dict.fromkeys(names)
    content = {"heldout": heldout(**unknown, **changes), "behaviour": behaviour or {}}
    (folder / "metrics.json").write_text(json.dumps(content), encoding="utf-8")
