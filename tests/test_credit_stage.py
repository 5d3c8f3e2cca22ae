"""`iterppo credit`, and a round on its rewards: from a small log of the shop to Q."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from iterppo.artifact import ArtifactWriter, open_artifact, read_manifest
from iterppo.cli import app
from iterppo.config import CreditConfig, StageConfig
from iterppo.errors import DataError, UsageError
from iterppo.lm import implicit_model, q_log
from iterppo.lm.implicit_model import SETTINGS as MODEL_SETTINGS
from iterppo.lm.implicit_model import all_token_logprobs, said_of
from iterppo.lm.policy import load_model, load_policy, load_renderer
from iterppo.rl.q_targets import lambda_returns
from iterppo.stages import credit

CONFIG = """
seed = 3
[rollout]
conversations = 60
parallel = 60
max_turns = 6
[init]
hidden_size = 32
num_layers = 1
num_heads = 2
vocab_size = 330
max_steps = 10
max_prompt_tokens = 200
max_new_tokens = 8
[credit]
max_steps = 6
max_tokens = 130
bootstrap_samples = 20
checkpoint_steps = 4
[fit-q]
max_steps = 4
max_tokens = 220
members = 1
sampled_states = 0
bootstrap_samples = 20
"""

METHODS = ["batch", "softmax-mean"]
"""Beside the default."""


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(
        app, [str(argument) for argument in arguments], catch_exceptions=False
    )


def run(*arguments: object) -> str:
    result = invoke(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> None:
    """A model so small wants one."""
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("config") / "tiny.toml"
    file.write_text(CONFIG, encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory, config: Path) -> Path:
    """A round up to its credit. Conversations that go on after six turns are censored."""
    folder = tmp_path_factory.mktemp("runs") / "000"
    run("rollout", "--policy", "scripted:expert", "--round", folder, "--config", config)
    for stage in ("ingest", "init", "credit"):
        run(stage, "--round", folder, "--config", config)
    return folder


def rows(folder: Path, kind: str) -> list[dict[str, Any]]:
    return list(open_artifact(folder, kind).rows())


def conversations(folder: Path, kind: str) -> list[list[dict[str, Any]]]:
    return list(open_artifact(folder, kind).conversations())


def changed(folder: Path, shop: Path, kind: str, **columns: Any) -> Path:
    """An artifact of the round, with other values in some columns; null stays null."""
    with ArtifactWriter(folder, kind=kind, stage="test", config=StageConfig(), inputs={}) as writer:
        writer.write(
            row | {name: value for name, value in columns.items() if row[name] is not None}
            for row in rows(shop / kind, kind)
        )
    return folder


# --- the artifact ---


def test_every_turn_is_a_row_and_rewards_sum_to_the_outcome_of_its_conversation(shop: Path) -> None:
    log, paid = (conversations(shop / kind, kind) for kind in ("trajectories", "credit"))
    censored = [turns[-1]["censored"] for turns in log]
    assert any(censored)
    assert not all(censored)

    for turns, told in zip(log, paid, strict=True):
        keys = ("conversation_id", "turn", "split")
        assert [[t[k] for k in keys] for t in turns] == [[t[k] for k in keys] for t in told]
        rewards = [row["normalised_reward"] for row in told]
        if turns[-1]["censored"]:
            assert set(rewards) == {None}
            assert {row["num_tokens"] for row in told} == {0}
            continue
        assert sum(rewards) == pytest.approx(sum(turn["reward"] for turn in turns))
        for row in told:
            assert (row["implicit_reward"] is None) == (row["num_tokens"] == 0)
            if row["num_tokens"] == 0:
                assert row["weight"] in (0.0, None)
    lengths = [row["num_tokens"] for told in paid for row in told]
    assert max(lengths) > 3


def test_nothing_is_lost_and_the_manifest_says_what_it_is_worth(shop: Path) -> None:
    manifest = read_manifest(shop / "credit")
    counts = manifest.counts

    assert counts["turns"] == manifest.rows == read_manifest(shop / "trajectories").rows
    parts = ("turns_censored", "turns_without_action", "turns_too_long", "turns_scored")
    assert counts["turns"] == sum(counts[name] for name in parts)
    assert counts["turns_too_long"] > 0, "no conversation was longer than the context"
    shown = run("inspect", shop)
    assert f"credit: {counts['turns']} turns = {counts['turns_scored']} turns_scored" in shown
    metrics = json.loads((shop / "credit" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["fit"]["validation"][0] == pytest.approx(math.log(2), abs=1e-4)
    assert manifest.metrics["heldout_bce"] == metrics["heldout"]["bce"]
    ended = sum(
        not turns[-1]["censored"] for turns in conversations(shop / "trajectories", "trajectories")
    )
    assert metrics["heldout"]["num_conversations"] + metrics["train"]["num_conversations"] == ended


def test_the_model_lies_beside_the_rows_and_pays_the_same_again(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the last epoch is kept, whatever it is worth.
    monkeypatch.setattr(implicit_model, "VALIDATION_SHARE", 0.0)
    credit.run(
        CreditConfig(max_steps=3, max_tokens=200, bootstrap_samples=0),
        trajectories=shop / "trajectories",
        policy=shop / "init",
        out=tmp_path / "c",
    )

    folder = tmp_path / "c" / "model"
    settings = json.loads((folder / MODEL_SETTINGS).read_text(encoding="utf-8"))
    policy = load_policy(shop / "init")
    log = [c for c in conversations(shop / "trajectories", "trajectories") if not c[-1]["censored"]]
    saids = [
        said_of(
            turns,
            load_renderer(folder),
            system_prompt=settings["system_prompt"],
            max_tokens=settings["max_tokens"],
        )
        for turns in log[:5]
    ]
    learned, before = (
        all_token_logprobs(model.eval(), saids, tokens_per_batch=2048)
        for model in (load_model(str(folder)), policy.model)
    )
    told = {
        (row["conversation_id"], row["turn"]): row["implicit_reward"]
        for row in rows(tmp_path / "c", "credit")
    }

    assert list(folder.glob("*.safetensors"))
    assert settings["reference_version"] == policy.settings.version
    some = 0.0
    for said, one, other in zip(saids, learned, before, strict=True):
        parts = (settings["beta"] * (one - other)).split(said.tokens_per_turn.tolist())
        for number, part in enumerate(parts, start=1):
            if len(part):
                found = told[said.conversation_id, number]
                assert part.sum().item() == pytest.approx(found, abs=1e-5)
                some = max(some, abs(found))
    assert some > 1e-4, "nothing was learned: nothing was compared"


@pytest.mark.parametrize("normalise", METHODS)
def test_the_fit_is_the_same_whatever_becomes_of_its_sums(
    normalise: str, shop: Path, config: Path, tmp_path: Path
) -> None:
    run("credit", "--round", shop, "--out", tmp_path / "c", "--config", config,
        "--normalise", normalise, "--set", "credit.max_steps=1",
    )  # fmt: skip

    told = rows(tmp_path / "c", "credit")
    ended = [row for row in told if row["normalised_reward"] is not None]
    scored = [row for row in ended if row["num_tokens"]]
    scale = read_manifest(tmp_path / "c").metrics["scale"]
    assert isinstance(scale, float)
    if normalise == "batch":
        for row in scored:
            assert row["normalised_reward"] == pytest.approx(row["implicit_reward"] / scale)
        assert scale != 1
        assert {row["weight"] for row in told} == {None}
    else:
        assert scale == 1
        assert all(0 <= row["weight"] <= 1 for row in scored)


def test_a_second_run_is_up_to_date_and_a_forced_one_has_the_same_digest(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    before = read_manifest(shop / "credit").digest

    assert "up to date" in run("credit", "--round", shop, "--config", config)
    run("credit", "--round", shop, "--config", config, "--out", tmp_path / "again")
    assert read_manifest(tmp_path / "again").digest == before
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


# --- what comes after ---


def test_iterative_ppo_on_outcomes_and_on_credit_are_one_flag_apart(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    made = {}
    for name, flag in (("outcomes", ()), ("credit", ("--rewards", "credit"))):
        given = ("--round", shop, "--config", config)
        run("returns", *given, *flag, "--out", tmp_path / name)
        run("fit-q", *given, "--returns", tmp_path / name, "--out", tmp_path / f"q-{name}")
        made[name] = [row["return"] for row in rows(tmp_path / f"q-{name}", "q")]

    inputs = {name: set(read_manifest(tmp_path / name).inputs) for name in made}
    assert inputs == {"outcomes": {"trajectories"}, "credit": {"trajectories", "credit"}}
    known = [each is not None for each in made["outcomes"]]
    assert known == [each is not None for each in made["credit"]]
    assert made["outcomes"] != made["credit"]
    # A share of the outcome that was paid earlier is not paid again.
    for before, after in zip(made["outcomes"], made["credit"], strict=True):
        if before == 0:
            assert after == 0


def test_q_learns_from_its_own_targets_of_credit_not_of_outcomes(
    shop: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = ("--round", shop, "--config", config)
    run("returns", *given, "--rewards", "credit", "--out", tmp_path / "returns")
    seen: list[tuple[list[float], list[bool]]] = []
    plain = lambda_returns

    def noted(rewards: Any, values: Any, last: Any, known: Any, **given: float) -> list[float]:
        seen.append((list(rewards), list(known)))
        return plain(rewards, values, last, known, **given)

    monkeypatch.setattr(q_log, "lambda_returns", noted)
    asked = ("fit-q", *given, "--returns", tmp_path / "returns", "--out", tmp_path / "q",
        "--set", "fit-q.method=td-lambda", "--set", "fit-q.sweeps=1", "--set", "fit-q.max_steps=1",
    )  # fmt: skip

    with pytest.raises(
        UsageError, match=r"td-lambda adds a reward of credit .* fit-q.loss=squared"
    ):
        invoke(*asked)
    run(*asked, "--set", "fit-q.loss=squared")

    paid = {
        tuple(0.0 if r["normalised_reward"] is None else r["normalised_reward"] for r in turns): [
            r["normalised_reward"] is not None for r in turns
        ]
        for turns in conversations(shop / "credit", "credit")
        if turns[0]["split"] == "train"
    }
    assert seen
    for rewards, known in seen:
        assert tuple(rewards) in paid
        if any(rewards):
            assert known == paid[tuple(rewards)]
    log = conversations(shop / "trajectories", "trajectories")
    train = [turns for turns in log if turns[0]["split"] == "train"]
    # A conversation has targets of the whole ensemble, and of every member that has its own.
    of_members = len(seen) // len(train)
    assert [any(known) for _, known in seen] == [
        not turns[-1]["censored"] for turns in train for _ in range(of_members)
    ]


def test_rewards_beyond_0_and_1_need_the_squared_loss_and_are_told_so_in_a_line(
    shop: Path, config: Path, tmp_path: Path
) -> None:
    given = ("--round", shop, "--config", config)
    changed(tmp_path / "credit", shop, "credit", normalised_reward=-0.5)
    run("returns", *given, "--rewards", "credit", "--credit", tmp_path / "credit",
        "--out", tmp_path / "returns",
    )  # fmt: skip
    asked = ("fit-q", *given, "--returns", tmp_path / "returns", "--out", tmp_path / "q")

    with pytest.raises(DataError) as refused:
        invoke(*asked)
    run(*asked, "--set", "fit-q.loss=squared")

    said = str(refused.value)
    assert said.startswith(f"{tmp_path / 'returns'}: returns lie in [-")
    assert said.endswith(
        "and the loss bce needs [0, 1]. For such returns: --set fit-q.loss=squared."
    )
    assert open_artifact(tmp_path / "q", "q").manifest.rows > 0


# --- what it cannot learn from ---


def test_an_outcome_that_is_no_probability_is_refused_with_its_conversation(
    shop: Path, tmp_path: Path
) -> None:
    log = changed(tmp_path / "log", shop, "trajectories", reward=2.0, censored=False)

    with pytest.raises(DataError, match=r"conversation '\S+' has the outcome \d+; credit is"):
        credit.run(CreditConfig(), trajectories=log, policy=shop / "init", out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_log_in_which_nothing_has_ended_is_refused(shop: Path, tmp_path: Path) -> None:
    log = changed(tmp_path / "log", shop, "trajectories", censored=True)

    with pytest.raises(DataError, match="no training conversation has a known outcome and"):
        credit.run(CreditConfig(), trajectories=log, policy=shop / "init", out=tmp_path / "c")


def test_soft_outcomes_are_learned_from_and_shared_out(shop: Path, tmp_path: Path) -> None:
    log = changed(tmp_path / "log", shop, "trajectories", reward=0.125, censored=False)

    credit.run(
        CreditConfig(max_steps=1, max_tokens=200, bootstrap_samples=0),
        trajectories=log,
        policy=shop / "init",
        out=tmp_path / "c",
    )

    for turns in conversations(tmp_path / "c", "credit"):
        total = sum(row["normalised_reward"] for row in turns)
        assert total == pytest.approx(0.125 * len(turns))
