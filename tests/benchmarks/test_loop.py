"""`benchmarks.loop`: what its numbers say, and that nothing is made twice."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks import loop_methods, loop_rounds
from benchmarks.loop import recorded, refuse_other_settings, summary, table
from benchmarks.loop_methods import pay_for_acceptance
from benchmarks.loop_rounds import TOOK, Settings, collect, made, seconds, start, success
from benchmarks.loop_statistics import claims_of, of_methods
from iterppo.artifact import ArtifactWriter, open_artifact
from iterppo.config import IngestConfig

RATES = {
    "ppo": [[0.2, 0.3, 0.5], [0.2, 0.4, 0.5], [0.2, 0.1, 0.35]],
    "cloning": [[0.2, 0.2, 0.2], [0.2, 0.2, 0.1], [0.2, 0.2, 0.15]],
}


def test_intervals_are_students_over_seeds() -> None:
    numbers = of_methods(RATES)["ppo"]

    # Of .5, .5, .35: mean .45, standard error .05, and t of 2 degrees of freedom 4.3027.
    assert numbers["mean"] == pytest.approx([0.2, 0.2667, 0.45])
    assert numbers["low"][2] == pytest.approx(0.45 - 4.3027 * 0.05, abs=1e-4)
    assert numbers["high"][0] == numbers["low"][0] == 0.2


def test_of_one_seed_there_is_no_interval() -> None:
    rates = {name: found[:1] for name, found in RATES.items()}

    assert set(of_methods(rates)["ppo"]) == {"mean"}
    assert claims_of("ppo", rates, optimum=1.0)["ahead_of"]["cloning"] == {"mean": 0.3}


def test_the_claims_about_the_main_method() -> None:
    found = claims_of("ppo", RATES, optimum=0.9)

    assert found["seeds_rising"] == 2, "the third one fell in its first round"
    assert found["share_of_optimum"] == 0.5
    assert found["share_of_optimum_by_seed"] == [0.556, 0.556, 0.389]
    # Differences .3, .4 and .2: their mean is .3, with a standard error of .1 / √3.
    ahead = found["ahead_of"]["cloning"]
    assert ahead["mean"] == 0.3
    assert ahead["low"] == pytest.approx(0.3 - 4.3027 * 0.1 / 3**0.5, abs=1e-4)
    assert ahead["separated"]


def test_the_table_has_a_line_a_method() -> None:
    result: dict[str, Any] = {
        "conversations": 2000,
        "rounds": 2,
        "optimum": 0.7,
        "methods": of_methods(RATES),
    }
    lines = table(result).splitlines()

    assert [line.split()[0] for line in lines[2:]] == ["ppo", "cloning"]
    assert "0.450 [0.235, 0.665]" in lines[2]


def test_methods_of_one_configuration_are_recorded_one_after_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "loop.json"
    options = argparse.Namespace(conversations=2000, rounds=2)
    runs = {
        method: {"success": rates, "minutes_a_seed": 7.0, "commit": method}
        for method, rates in RATES.items()
    }
    cloning = {"cloning": runs["cloning"]}
    assert recorded(file, options) == {}, "there is no file"
    file.write_text(json.dumps(summary(cloning, options)), encoding="utf-8")

    assert recorded(file, options) == cloning
    assert recorded(file, argparse.Namespace(conversations=600, rounds=2)) == {}
    both = summary(recorded(file, options) | {"ppo": runs["ppo"]}, options)
    assert list(both["success"]) == ["ppo", "cloning"], "in the order of the methods"
    assert both["commit"] == {"ppo": "ppo", "cloning": "cloning"}
    assert both["claims"]["ppo"]["ahead_of"]["cloning"]["mean"] == 0.3
    assert set(both["claims"]) == {"ppo"}, "cloning is what it is held against"
    other = tmp_path / "loop.toml"
    other.write_text("[ppo]\nupdates = 1\n", encoding="utf-8")
    monkeypatch.setattr(loop_rounds, "CONFIG", other)
    assert recorded(file, options) == {}


def test_what_was_made_under_other_settings_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(*methods: str, **changes: Any) -> argparse.Namespace:
        usual = {"work": tmp_path, "conversations": 40, "rounds": 2, "quick": False}
        return argparse.Namespace(methods=list(methods), **{**usual, **changes})

    refuse_other_settings(asked("ppo", "mpo"))
    refuse_other_settings(asked("mpo", "cloning", rounds=4))
    with pytest.raises(SystemExit, match="holds shared of other settings"):
        refuse_other_settings(asked("ppo", conversations=80))
    monkeypatch.setitem(loop_methods.CONSTANTS, "mpo", {"updates": 1})
    refuse_other_settings(asked("ppo"))
    with pytest.raises(SystemExit, match="holds mpo of other settings"):
        refuse_other_settings(asked("ppo", "mpo"))


def test_methods_are_compared_on_the_seeds_that_both_have() -> None:
    rates = {"ppo": RATES["ppo"], "cloning": RATES["cloning"][:2]}

    ahead = claims_of("ppo", rates, optimum=1.0)["ahead_of"]["cloning"]
    assert ahead["mean"] == 0.35, "of .5 − .2 and .5 − .1"


def test_acceptance_is_paid_where_the_suggestion_was_sent(
    tmp_path: Path, trajectories_row: Callable[..., dict[str, Any]]
) -> None:
    adoptions = ["verbatim", "edited", "influenced", "rejected", "abstained"]
    with ArtifactWriter(
        tmp_path / "trajectories",
        kind="trajectories",
        stage="ingest",
        config=IngestConfig(),
        inputs={},
    ) as writer:
        writer.write(
            trajectories_row(turn=number, adoption=adoption)
            for number, adoption in enumerate(adoptions, start=1)
        )
    pay_for_acceptance(tmp_path / "trajectories", tmp_path / "returns")

    rows = list(open_artifact(tmp_path / "returns", "returns").rows())
    assert [row["return"] for row in rows] == [1, 1, 0, 0, 0]
    assert [row["turn"] for row in rows] == [1, 2, 3, 4, 5]


@pytest.fixture
def trajectories_row() -> Callable[..., dict[str, Any]]:
    def row(**given: Any) -> dict[str, Any]:
        empty = dict.fromkeys(
            (
                *("customer", "suggestion", "sent", "edit_distance", "customer_after"),
                *("policy_version", "persona", "suggestion_logprob", "customer_time", "sent_time"),
                *("customer_id", "business_id", "facts"),
            )
        )
        return {
            **empty,
            "conversation_id": "c",
            "outcome_before": False,
            "reward": 0.0,
            "done": given["turn"] == 5,
            "censored": False,
            "split": "train",
            **given,
        }

    return row


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "manifest.json").touch()

    assert made(tmp_path / "there", pytest.fail) == tmp_path / "there"


def test_a_policy_that_stays_is_read_with_the_conversations_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = {"init": {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "max_steps": 2}}
    of = Settings.of

    def smaller(settings: Settings, stage: str, **changes: Any) -> Any:
        return of(settings, stage, **{**changes, **small.get(stage, {})})

    monkeypatch.setattr(Settings, "of", smaller)
    settings = Settings(conversations=6, seed=0)
    deployed = start(tmp_path, settings)
    first, second = tmp_path / "ppo" / "000", tmp_path / "ppo" / "001"
    collect(first, deployed, settings, k=0)
    collect(second, deployed, settings, k=1)

    read = [
        {turns[0]["conversation_id"] for turns in conversations}
        for folder in (first, second)
        for conversations in [open_artifact(folder / "trajectories").conversations()]
    ]
    assert len(read[0] | read[1]) == 12, "other customers, hence no copies"
    assert success(second)[1] == 6


def test_what_was_made_tells_how_long_it_took_whoever_made_it(tmp_path: Path) -> None:
    for number, name in enumerate(("000/log", "001/q")):
        made(tmp_path / name, lambda: None)
        (tmp_path / f"{name}{TOOK}").write_text(f"{number + 0.5}")

    assert seconds(tmp_path) == 2.0
    assert seconds(tmp_path / "001") == 1.5
