"""Which Q may be the judge of a policy step."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from iterppo.errors import UsageError
from iterppo.stages.ppo import _refuse_the_same_conversations


def fitted(place: str, part: str, logs: tuple[str, ...]) -> Any:
    """A Q artifact of some logs, as far as it is asked."""
    inputs = {
        str(number): SimpleNamespace(kind="trajectories", digest=log)
        for number, log in enumerate(logs)
    }
    inputs["returns"] = SimpleNamespace(kind="returns", digest="of both")
    manifest = SimpleNamespace(inputs=inputs, config={"part": part})
    return SimpleNamespace(path=Path(place), manifest=manifest)


@pytest.mark.parametrize(
    ("parts", "logs"),
    [
        (("first-half", "second-half"), (("a",), ("a",))),
        (("second-half", "first-half"), (("a", "b"), ("a",))),
        (("all", "all"), (("a",), ("b",))),
        (("all", "second-half"), (("a", "b"), ("c",))),
    ],
)
def test_a_judge_of_other_conversations_is_heard(
    parts: tuple[str, str], logs: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    _refuse_the_same_conversations(
        fitted("q", parts[0], logs[0]), fitted("judge", parts[1], logs[1])
    )


@pytest.mark.parametrize(
    ("parts", "logs"),
    [
        (("all", "second-half"), (("a",), ("a",))),
        (("first-half", "first-half"), (("a",), ("a",))),
        (("all", "all"), (("a", "b"), ("b",))),
    ],
)
def test_a_judge_of_the_same_conversations_is_refused_in_one_line(
    parts: tuple[str, str], logs: tuple[tuple[str, ...], tuple[str, ...]]
) -> None:
    with pytest.raises(UsageError) as refused:
        _refuse_the_same_conversations(
            fitted("r/q", parts[0], logs[0]), fitted("r/judge", parts[1], logs[1])
        )

    said = str(refused.value)
    assert said.startswith("ppo: r/judge was fitted on conversations that r/q was fitted on")
    assert f"{parts[1]} and {parts[0]}" in said
    assert "make round JUDGE=yes" in said
    assert "\n" not in said
