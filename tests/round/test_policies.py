"""The policies of a round: what ppo makes, what is exported, who holds the next conversations."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from iterppo.errors import UsageError
from iterppo.logs.sources import LOG_FILE
from tests.round.tiny_round import CONVERSATIONS, explicit, invoke, manifest, rows, run

# --- init ----------------------------------------------------------------------------------------


def test_a_first_policy_that_says_less_than_a_uniform_choice_is_worried_about(
    first: Path, config: Path, tmp_path: Path
) -> None:
    asked = (*explicit("init", first, tmp_path / "init"), "--config", config)
    said = run(*asked, "--set", "init.learning_rate=50")
    metrics = manifest(tmp_path / "init").metrics

    assert float(metrics["action_loss_heldout"] or 0) > float(metrics["uniform_loss"] or 0)
    assert "worry: of held-out suggestions a uniform choice" in said
    assert metrics["uniform_loss"] == manifest(first / "init").metrics["uniform_loss"]


# --- ppo -----------------------------------------------------------------------------------------


def test_ppo_reports_a_ratio_of_one_and_a_policy_that_moved(first: Path) -> None:
    metrics = manifest(first / "policy").metrics
    versions = {metrics["policy_version"], metrics["behaviour_version"]}

    assert metrics["behaviour_version"] == manifest(first / "init").metrics["policy_version"]
    # The policy that was best on held-out prompts is kept, be it the one before the first update.
    assert (len(versions) == 2) == (float(metrics["kept_update"] or 0) > 0)
    # An estimate from sixteen completions, which may fall below 0; of a policy that did not move
    # it is 0.
    assert abs(float(metrics["kl_last"] or 0)) > 1e-4
    assert float(metrics["best_of_q"] or 0) > 0
    assert float(metrics["largest_first_log_ratio"] or 0) <= 1e-4
    assert (first / "policy" / "critic.safetensors").is_file()
    assert (first / "policy" / "training_log.parquet").is_file()
    readings = json.loads((first / "policy" / "watch.json").read_text())["readings"]
    assert readings[0]["update"] == 0


def test_a_critic_that_begins_with_returns_reads_the_log(
    first: Path, config: Path, tmp_path: Path
) -> None:
    chosen = ("critic_warmup=returns", "baseline=none", "updates=1")
    settings = [word for each in chosen for word in ("--set", f"ppo.{each}")]
    written = ("--out", tmp_path / "policy", "--config", config, "--force", *settings)
    run("ppo", "--round", first, *written)
    named = [
        argument
        for name, place in (("prompts", "prompts"), ("q", "q"), ("policy", "init"))
        for argument in (f"--{name}", first / place)
    ]
    with pytest.raises(UsageError, match="Name --trajectories"):
        invoke("ppo", *named, *written)

    assert "trajectories" in manifest(tmp_path / "policy").inputs
    assert "trajectories" not in manifest(first / "policy").inputs


@pytest.mark.parametrize(
    ("stranger", "of", "said"),
    [
        ("prompts", "policy", "prompts: was made with another policy"),
        ("q", "policy", "q: was made with another policy"),
        ("q", "trajectories", "q: was fitted on another log than that of"),
    ],
)
def test_what_does_not_belong_together_is_refused_unless_it_is_wanted(
    stranger: str,
    of: str,
    said: str,
    first: Path,
    config: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    arguments = explicit("ppo", first, tmp_path / "policy")
    copy = tmp_path / stranger
    shutil.copytree(first / stranger, copy)
    arguments[arguments.index(first / stranger)] = copy
    written = json.loads((copy / "manifest.json").read_text())
    written["inputs"][of]["digest"] = "0" * 64
    (copy / "manifest.json").write_text(json.dumps(written))

    done = command(*arguments, "--config", config, "--set", "ppo.updates=1")
    run(*arguments, "--config", config, "--set", "ppo.updates=1", "--force")

    assert done.status == 2
    assert said in done.stderr
    assert "--force" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_policy_that_nobody_watches_says_so(
    first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    own = tmp_path / "000"
    run("ingest", first / "log", "--round", own, "--config", config, "--set", "ingest.heldout=0")
    run("prompts", "--round", own, "--policy", first / "init", "--config", config)
    asked = (
        *("ppo", "--prompts", own / "prompts", "--q", first / "q", "--policy", first / "init"),
        *("--out", tmp_path / "policy", "--config", config, "--set", "ppo.updates=1", "--force"),
    )
    unwatched, unasked = (command(*asked, "--set", f"ppo.watch_updates={n}") for n in (1, 0))
    made = manifest(tmp_path / "policy")

    assert (unwatched.status, unasked.status) == (0, 0)
    assert "no prompt of a held-out conversation, so the policy is not watched" in unwatched.stderr
    assert "held-out" not in unasked.stderr
    assert made.counts["prompts_watched"] == 0


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(["watch_updates=0"], id="found by the next update"),
        pytest.param(["watch_updates=1"], id="found by a reading"),
        pytest.param(["watch_updates=0", "updates=1"], id="found in the end"),
        pytest.param(["watch_updates=0", "generation=generate"], id="found by the ratio"),
    ],
)
def test_a_training_that_diverges_says_so_and_leaves_nothing(
    settings: list[str], first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    changed = ["learning_rate=1e37", "checkpoint_updates=1", *settings]
    done = command(
        *(*explicit("ppo", first, tmp_path / "policy"), "--config", config, "--force"),
        *(word for each in changed for word in ("--set", f"ppo.{each}")),
    )

    assert done.status == 2
    *_, last = done.stderr.splitlines()
    assert last.startswith("iterppo: ppo: the training diverged: behind update 1 of ")
    assert last.endswith("Lower ppo.learning_rate, 1e+37.")
    assert list(tmp_path.iterdir()) == []


def test_a_policy_that_imitates_is_an_artifact_as_any_other(
    first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    asked = [*explicit("ppo", first, tmp_path / "policy"), "--algorithm", "mpo", "--config", config]
    run(*asked, "--force")
    made = manifest(tmp_path / "policy")
    samples = rows(tmp_path / "policy", "policy")
    told = pq.read_table(tmp_path / "policy" / "training_log.parquet").to_pylist()

    assert (made.counts["updates"], made.counts["optimiser_steps"]) == (2, 8)
    assert made.rows == len(samples) == 2 * 16
    assert {row["kl"] for row in samples} == {0.0}
    assert not (tmp_path / "policy" / "critic.safetensors").exists()
    assert "kl_last" not in made.metrics
    assert len(told) == 2
    # Where all of an update's completions were cut off, there is none to imitate.
    assert {row["q_imitated"] is None for row in told} <= {row["truncated"] == 1 for row in told}
    assert {path.name for path in tmp_path.iterdir()} == {"policy"}
    assert run(*asked).endswith("policy: up to date\n")

    several = command(*asked, "--out", tmp_path / "two", "--nproc", "2", "--force")
    assert several.status == 2
    assert "ppo: mpo trains in one process." in several.stderr


def test_completions_that_do_not_divide_are_a_usage_error(
    first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    done = command(
        *explicit("ppo", first, tmp_path / "policy"),
        *("--config", config, "--set", "ppo.microbatch_size=5", "--force"),
    )

    assert done.status == 2
    assert done.stderr.count("\n") == 1
    assert "microbatch_size = 5" in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- policies that serve -------------------------------------------------------------------------


def test_the_export_was_served_by_plain_transformers_in_a_fresh_process(first: Path) -> None:
    metrics = manifest(first / "export").metrics
    prompt = rows(first / "prompts", "prompts")[0]["prompt"]
    card = (first / "export" / "README.md").read_text(encoding="utf-8")

    assert metrics["check_prompt"] == prompt[-1]["content"]
    assert isinstance(metrics["check_completion"], str)
    assert metrics["policy_version"] == manifest(first / "policy").metrics["policy_version"]
    assert str(metrics["policy_version"]) in card
    assert manifest(first / "policy").digest[:16] in card


def test_the_next_round_begins_with_a_log_of_the_new_policy(
    first: Path, config: Path, tmp_path: Path
) -> None:
    shutil.copytree(first, tmp_path / "000")
    second = tmp_path / "001"
    run("rollout", "--round", second, "--config", config)
    run("ingest", "--round", second, "--config", config)
    log, trajectories = manifest(second / "log"), manifest(second / "trajectories")
    version = manifest(first / "policy").metrics["policy_version"]
    turns = rows(second / "trajectories", "trajectories")

    assert log.inputs["policy"].digest == manifest(first / "policy").digest
    assert log.metrics["policy_version"] == version
    assert trajectories.counts["conversations"] == CONVERSATIONS
    assert {row["policy_version"] for row in turns} == {version}
    assert all(
        (row["suggestion_logprob"] is not None) == (row["adoption"] != "not_shown") for row in turns
    )
    # Whoever was met by the assistant of the first log is not met again.
    met = {row["conversation_id"] for row in rows(first / "trajectories", "trajectories")}
    assert not met & {row["conversation_id"] for row in turns}


def test_a_policy_that_is_kept_meets_other_customers_in_the_next_round(
    first: Path, config: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    step = ("--config", config, "--set", "ppo.updates=1", "--set", "ppo.learning_rate=1e-30")
    run("ppo", "--round", first, "--out", kept, *step, "--force")
    logs = {}
    for name, policy in (("before", first / "init"), ("after", kept)):
        run("rollout", "--policy", policy, "--out", tmp_path / name, "--config", config)
        lines = (tmp_path / name / LOG_FILE).read_text(encoding="utf-8").splitlines()
        logs[name] = [json.loads(line) for line in lines]
    before, after = ({c["conversation_id"] for c in log} for log in logs.values())

    assert len({c["policy_version"] for log in logs.values() for c in log}) == 1
    assert not before & after
    assert [c["messages"] for c in logs["before"]] != [c["messages"] for c in logs["after"]]


def test_what_is_drawn_for_a_log_is_not_drawn_again_for_next_actions(
    first: Path, config: Path, tmp_path: Path
) -> None:
    asked = ("--config", config, "--set", "rollout.conversations=60", "--set", "rollout.seed=7")
    log, turns, out = (tmp_path / name for name in ("log", "turns", "actions"))
    run("rollout", "--policy", first / "policy", "--out", log, *asked)
    run("ingest", log, "--out", turns, "--rejects", tmp_path / "rejects", "--config", config)
    policy = ("--policy", first / "policy", "--config", config)
    chosen = ("--set", "actions.samples=1", "--set", "actions.seed=7")
    run("actions", "--trajectories", turns, "--out", out, *policy, *chosen)
    drawn = {(row["conversation_id"], row["turn"]): row for row in rows(out, "actions")}
    firsts = [row for row in rows(turns, "trajectories") if row["turn"] == 1]
    same = sum(
        math.isclose(row["suggestion_logprob"], drawn[row["conversation_id"], 1]["logprob"])
        for row in firsts
    )

    assert len(firsts) == 60
    assert same < 6


def test_an_export_holds_the_conversations_that_its_policy_would(
    first: Path, config: Path, tmp_path: Path
) -> None:
    for name in ("policy", "export"):
        run("rollout", "--policy", first / name, "--out", tmp_path / name, "--config", config)
    by_policy, by_export = ((tmp_path / name / LOG_FILE) for name in ("policy", "export"))

    assert by_policy.read_bytes() == by_export.read_bytes()


def test_a_hugging_face_folder_can_be_the_first_policy(
    first: Path, config: Path, tmp_path: Path
) -> None:
    arguments = ["init", "--model", first / "export", "--out", tmp_path / "init"]
    arguments += ["--config", config, "--set", "init.system_prompt=Be brief."]
    run(*arguments)
    wrapped, source = manifest(tmp_path / "init"), first / "export"

    assert (tmp_path / "init" / "model" / "model.safetensors").read_bytes() == (
        source / "model.safetensors"
    ).read_bytes()
    assert wrapped.metrics["policy_version"] != manifest(source).metrics["policy_version"]
    assert any(name.startswith("model ") for name in wrapped.inputs)
    assert "up to date" in run(*arguments)
    # It can be used as any other: here, to render prompts.
    run(
        *("prompts", "--trajectories", first / "trajectories", "--policy", tmp_path / "init"),
        *("--out", tmp_path / "prompts", "--config", config),
    )
    (prompt, *_) = rows(tmp_path / "prompts", "prompts")
    assert prompt["prompt"][0] == {"role": "system", "content": "Be brief."}


def test_a_script_is_named(tmp_path: Path, config: Path, command: Callable[..., Any]) -> None:
    rates = {}
    for name in ("expert", "uniform"):
        folder = tmp_path / name
        run(
            *("rollout", "--policy", f"scripted:{name}", "--out", folder, "--config", config),
            *("--set", "rollout.conversations=150", "--set", "rollout.max_turns=20"),
        )
        rates[name] = float(manifest(folder).metrics["outcome_rate"])
        assert manifest(folder).metrics["policy_version"] == f"scripted-{name}"
    # .38 and .14, exactly (`iterppo.environments.shop_optimum`); 150 conversations miss by .06.
    assert rates["expert"] > rates["uniform"] + 0.1

    done = command("rollout", "--policy", "scripted:wizard", "--out", tmp_path / "none")
    assert done.status == 2
    assert "mediocre, expert, uniform" in done.stderr
    assert not (tmp_path / "none").exists()
