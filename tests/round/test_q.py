"""Q of a round: its methods, the earlier rounds that it learns from, and what is thought of it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from iterppo.config import OFF_POLICY
from iterppo.lm.q_function import QFunction
from tests.round.tiny_round import explicit, manifest, rows, run

# --- methods -------------------------------------------------------------------------------------


def test_the_policy_is_asked_in_every_state(asked: Path, first: Path) -> None:
    drawn, turns = rows(asked, "actions"), rows(first / "trajectories", "trajectories")
    version = manifest(first / "init").metrics["policy_version"]

    assert [(row["conversation_id"], row["turn"], row["sample"]) for row in drawn] == [
        (row["conversation_id"], row["turn"], sample) for row in turns for sample in (1, 2, 3, 4)
    ]
    assert {row["policy_version"] for row in drawn} == {version}
    assert all(row["logprob"] < 0 for row in drawn)
    assert len({row["action"] for row in drawn}) > 20


@pytest.mark.parametrize("method", ["td-lambda", "sarsa", "fqe"])
def test_every_method_makes_a_q_that_scores_all_turns(
    method: str, asked: Path, first: Path, config: Path, tmp_path: Path
) -> None:
    arguments = [
        *explicit("fit-q", first, tmp_path / "q"),
        *(("--actions", asked) if method == "fqe" else ()),
        *("--config", config, "--set", f"fit-q.method={method}", "--set", "fit-q.sweeps=2"),
    ]
    run(*arguments)
    fitted = json.loads((tmp_path / "q" / "metrics.json").read_text())["fit"]
    scored, plain = rows(tmp_path / "q", "q"), rows(first / "q", "q")

    assert [(row["conversation_id"], row["turn"]) for row in scored] == [
        (row["conversation_id"], row["turn"]) for row in plain
    ]
    assert [row["q"] for row in scored] != [row["q"] for row in plain]
    assert all(0 < row["q"] < 1 and row["q_spread"] > 0 and 0 < row["v"] < 1 for row in scored)
    assert fitted["method"] == method
    assert len(fitted["sweeps"]) == 2
    assert all(change > 0 for change in fitted["sweeps"])
    assert [path.name for path in tmp_path.iterdir()] == ["q"], "no checkpoint is left behind"


@pytest.mark.parametrize("method", ["lstd", "lstdq"])
def test_a_q_in_closed_form_scores_all_turns_and_is_a_reward(
    method: str, asked: Path, first: Path, config: Path, tmp_path: Path
) -> None:
    run(
        *explicit("fit-q", first, tmp_path / "q"),
        *(("--actions", asked) if method == "lstdq" else ()),
        *("--config", config, "--set", f"fit-q.method={method}"),
    )
    fitted = json.loads((tmp_path / "q" / "metrics.json").read_text())["fit"]
    scored, plain = rows(tmp_path / "q", "q"), rows(first / "q", "q")
    made = manifest(tmp_path / "q")
    loaded = QFunction.load(tmp_path / "q" / "model")

    assert [(row["conversation_id"], row["turn"]) for row in scored] == [
        (row["conversation_id"], row["turn"]) for row in plain
    ]
    assert [row["q"] for row in scored] != [row["q"] for row in plain]
    assert all(row["q_spread"] > 0 for row in scored)
    assert made.metrics["ridge"] == fitted["ridge"]
    assert ("actions" in made.inputs) == (method == "lstdq")
    assert loaded.settings.loss == "squared"
    assert [path.name for path in tmp_path.iterdir()] == ["q"]


@pytest.mark.parametrize("method", ["fqe", "lstdq"])
def test_without_next_actions_a_method_that_needs_them_says_what_to_do(
    method: str, first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    done = command(
        *explicit("fit-q", first, tmp_path / "q"),
        *("--config", config, "--set", f"fit-q.method={method}"),
    )

    assert done.status == 2
    assert done.stderr.count("\n") == 1
    assert "iterppo actions" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_returns_of_a_log_that_was_read_anew_are_refused_unless_it_is_wanted(
    first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    log = tmp_path / "trajectories"
    # The same turns with the same names, in other splits.
    run(
        *("ingest", first / "log", "--out", log, "--rejects", tmp_path / "rejects"),
        *("--config", config, "--set", "ingest.heldout=0.5"),
    )
    arguments = explicit("fit-q", first, tmp_path / "q")
    arguments[arguments.index(first / "trajectories")] = log
    arguments += ["--config", config, "--set", "fit-q.max_steps=1"]
    done = command(*arguments)
    run(*arguments, "--force")

    assert done.status == 2
    assert (
        f"{first / 'returns'}: was made of other trajectories than {log} holds now" in done.stderr
    )
    assert "Run: iterppo returns" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def still_open(first: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The round's log as if no conversation had ended, as far as its returns."""
    folder = tmp_path_factory.mktemp("open") / "000"
    log = folder.parent / "log.jsonl"
    with log.open("w", encoding="utf-8") as file:
        for line in (first / "log" / "log.jsonl").read_text("utf-8").splitlines():
            held = json.loads(line) | {"outcome": None, "unfinished": True}
            for message in held["messages"]:
                message.pop("outcome", None)
            file.write(json.dumps(held) + "\n")
    run("ingest", log, "--round", folder, "--config", config)
    run("returns", "--round", folder, "--config", config)
    return folder


@pytest.mark.parametrize("method", ["mc", "td-lambda", "sarsa", "fqe", "lstd", "lstdq"])
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        pytest.param(
            ["fit-q.compared_turns=0"],
            "no training conversation has a known return: the ",
            id="every conversation open",
        ),
        pytest.param(
            ["fit-q.max_tokens=5"],
            " are longer than fit-q.max_tokens = 5. Raise it.",
            id="every turn too long",
        ),
    ],
)
def test_a_log_that_no_q_can_be_learned_from_is_told_why_whatever_the_method(
    method: str,
    settings: list[str],
    said: str,
    first: Path,
    still_open: Path,
    asked: Path,
    config: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    log = still_open if "return" in said else first
    # Actions of the log with its outcomes, which are those of the same states.
    actions = ("--actions", asked, "--force") if method in OFF_POLICY else ()
    done = command(
        *("fit-q", "--round", log, "--out", tmp_path / "q", "--policy", first / "init"),
        *(*actions, "--config", config, "--set", f"fit-q.method={method}"),
        *(part for setting in settings for part in ("--set", setting)),
    )

    assert done.status == 3
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert list(tmp_path.iterdir()) == []


# --- earlier rounds ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def second(first: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The round after it, as far as its returns."""
    folder = tmp_path_factory.mktemp("later") / "000"
    run("rollout", "--policy", first / "policy", "--round", folder, "--config", config)
    run("ingest", "--round", folder, "--config", config)
    run("returns", "--round", folder, "--config", config)
    return folder


def test_conversations_of_an_earlier_round_are_learned_from_and_nothing_else(
    first: Path, second: Path, config: Path, tmp_path: Path
) -> None:
    lstd = ("--policy", first / "policy", "--config", config, "--set", "fit-q.method=lstd")
    both = ("--earlier", first, *lstd)
    run("fit-q", "--round", second, "--out", tmp_path / "own", *lstd)
    run("fit-q", "--round", second, "--out", tmp_path / "both", *both)
    own, more = (rows(tmp_path / name, "q") for name in ("own", "both"))
    made = manifest(tmp_path / "both")
    learned = [row for row in rows(first / "q", "q") if row["split"] == "train"]

    assert [(row["conversation_id"], row["turn"]) for row in more] == [
        (row["conversation_id"], row["turn"]) for row in own
    ]
    assert [row["q"] for row in more] != [row["q"] for row in own]
    assert made.counts["turns_earlier"] == len(learned)
    assert made.inputs["earlier 0 returns"].digest == manifest(first / "returns").digest
    assert made.metrics["share_other_policies"] == 0, "V̂ is of this round's log alone"
    run("fit-q", "--round", second, "--out", tmp_path / "mc", "--earlier", first, *lstd[:-2])
    assert 0 < manifest(tmp_path / "mc").metrics["share_other_policies"] < 1
    assert "up to date" in run("fit-q", "--round", second, "--out", tmp_path / "both", *both)
    assert "up to date" not in run("fit-q", "--round", second, "--out", tmp_path / "both", *lstd)
    run("fit-q", "--round", second, *both)
    states = dict(
        zip(*(line.split()[-11:] for line in run("status", second).splitlines()[1:3]), strict=True)
    )
    assert states["fit-q"] == "fresh"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param((), "is in 2 of the rounds", id="the same log"),
        pytest.param(("--set", "returns.gamma=0.5"), "gamma 0.99, and", id="another gamma"),
        pytest.param(("--set", "fit-q.method=fqe"), "actions are of one round", id="fqe"),
        pytest.param(("--earlier", "nowhere"), "nowhere", id="nothing there"),
    ],
)
def test_an_earlier_round_that_cannot_be_learned_from_says_why(
    changed: tuple[str, ...],
    said: str,
    first: Path,
    asked: Path,
    config: Path,
    tmp_path: Path,
    command: Callable[..., Any],
) -> None:
    returns = first / "returns"
    if "returns.gamma=0.5" in changed:
        returns = tmp_path / "returns"
        run(
            *("returns", "--trajectories", first / "trajectories", "--out", returns),
            *("--config", config, *changed),
        )
        changed = ()
    if "fit-q.method=fqe" in changed:
        changed += ("--actions", str(asked))
    done = command(
        *("fit-q", "--round", first, "--returns", returns, "--out", tmp_path / "q"),
        *("--config", config, "--earlier", first, *changed),
    )

    assert done.status in (2, 3, 4)
    assert done.stderr.count("\n") == 1
    assert said in done.stderr
    assert not (tmp_path / "q").exists()


# --- whether it is good for anything -------------------------------------------------------------


def test_a_log_of_another_policy_is_told_so(first: Path) -> None:
    behaviour = json.loads((first / "q" / "metrics.json").read_text())["behaviour"]

    assert behaviour["share_other_policies"] == 1, "a script made this log"
    assert "fqe" in behaviour["advice"]
    assert "100% of the training turns" in run("inspect", first / "q")


def test_the_verdict_is_there_to_be_read(first: Path) -> None:
    text = run("inspect", first / "q")

    assert "verdict noise: Too few held-out conversations" in text
    assert "over V, which sees the state alone" in text


def test_what_q_may_be_is_told_beside_what_it_is(first: Path) -> None:
    q, policy = (manifest(first / each).metrics for each in ("q", "policy"))
    known = [row["return"] for row in rows(first / "q", "q") if row["split"] == "train"]
    known = [each for each in known if each is not None]

    assert (q["return_min"], q["return_max"]) == (min(known), max(known))
    assert (policy["return_min"], policy["return_max"]) == (min(known), max(known))
    assert 0 < float(q["sampled_q_mean"] or 0) < 1


def test_a_bound_needs_an_ensemble(
    first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run(
        *explicit("fit-q", first, tmp_path / "q"),
        *("--config", config, "--set", "fit-q.members=1"),
    )
    made = {row["q_spread"] for row in rows(tmp_path / "q", "q")}
    arguments = explicit("ppo", first, tmp_path / "policy")
    arguments[arguments.index(first / "q")] = tmp_path / "q"
    done = command(*arguments, "--config", config, "--set", "ppo.kappa=1", "--force")

    assert made == {None}
    assert done.status == 2
    assert "fit-q.members" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_q_that_is_noise_is_no_reward(
    first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    verdict = manifest(first / "q").metrics
    done = command(*explicit("ppo", first, tmp_path / "policy"), "--config", config)

    assert verdict["verdict"] == "noise"
    assert done.status == 1
    assert done.stderr.count("\n") == 1
    assert "Too few held-out conversations" in done.stderr
    assert "--force" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_q_has_converged_against_itself_and_not_against_one_of_another_loss(
    first: Path, config: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    run(
        *(*explicit("fit-q", first, tmp_path / "q"), "--config", config),
        *("--set", "fit-q.loss=squared"),
    )
    same, other = (
        command("converged", first / "q", q, "--json") for q in (first / "q", tmp_path / "q")
    )
    heldout = [row for row in rows(first / "q", "q") if row["split"] == "heldout"]

    assert (same.status, json.loads(same.stdout)["rmse_high"]) == (0, 0.0)
    assert json.loads(same.stdout)["num_turns"] == len(heldout) > 0
    assert (other.status, other.stderr.count("\n")) == (1, 1)
    assert json.loads(other.stdout)["rmse"] > 0.02


# --- what is left out of the fit -----------------------------------------------------------------


def test_what_a_policy_said_itself_tells_of_its_q_where_a_fit_leaves_it_out(
    first: Path, second: Path, config: Path, tmp_path: Path
) -> None:
    def fitted(name: str, log: Path, policy: Path, *settings: str) -> dict[str, Any]:
        arguments = ("--round", log, "--out", tmp_path / name, "--policy", policy)
        chosen = (part for setting in settings for part in ("--set", f"fit-q.{setting}"))
        run("fit-q", *arguments, "--config", config, *chosen)
        metrics: dict[str, Any] = json.loads((tmp_path / name / "metrics.json").read_text())
        return metrics

    own = fitted("own", second, first / "policy", "method=lstd")
    scored = [row for row in rows(tmp_path / "own", "q") if row["weight"] > 0]
    train = {row["conversation_id"] for row in scored if row["split"] == "train"}
    apart = {row["conversation_id"] for row in scored if row["split"] == "heldout"}
    assert own["heldout"]["num_turns"] == len(scored)
    assert own["heldout"]["num_conversations"] == len(train | apart)
    assert own["heldout"]["num_conversations_left_out"] == len(train) > len(apart) > 0
    assert manifest(tmp_path / "own").metrics["conversations_left_out"] == len(train)
    # Of the same turns the Q that was fitted on most of them knows more.
    weight = sum(row["weight"] for row in scored)
    known = sum(row["weight"] * (row["q"] - row["return"]) ** 2 for row in scored) / weight
    assert known < own["heldout"]["mse"]

    # The script's conversations: what cloned them has seen them.
    others = fitted("others", first, first / "init", "method=lstd")
    # Trained on all training conversations at once, none of which is left out.
    trained = fitted("trained", second, first / "policy", "method=td-lambda", "sweeps=1")
    for metrics, name in ((others, "others"), (trained, "trained")):
        held_out = [row for row in rows(tmp_path / name, "q") if row["split"] == "heldout"]
        assert metrics["heldout"]["num_conversations_left_out"] == 0
        assert metrics["heldout"]["num_turns"] == sum(row["weight"] > 0 for row in held_out)
