"""Personas through the command line: from a scripted log under personas to Q and an export.

One tiny round is made for the module; the tests look at it.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from iterppo.artifact import open_artifact, read_manifest
from iterppo.lm import generation
from iterppo.lm.generation import Sampled, sample
from iterppo.lm.likelihood import token_logprobs
from iterppo.lm.policy import Policy, load_policy, load_settings
from iterppo.lm.rendering import decisions
from iterppo.logs.sources import LOG_FILE
from iterppo.personas import prompts_of, read_personas
from iterppo.report.q_text import q_text

SETTINGS = """
seed = 3
[rollout]
conversations = 60
parallel = 60
max_turns = 4
[init]
hidden_size = 32
num_layers = 1
num_heads = 2
vocab_size = 330
max_steps = 20
max_prompt_tokens = 200
max_new_tokens = 8
[actions]
samples = 1
[fit-q]
max_steps = 4
sweeps = 1
max_tokens = 220
bootstrap_samples = 10
sampled_states = 20
[export]
check = false
"""
PERSONAS = """
[[persona]]
name = "asks"
prompt = "Ask a question."
probability = 0.4
style = "question"
[[persona]]
name = "hot"
probability = 0.3
temperature_scale = 1.5
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration and personas."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("personas")
    (folder / "tiny.toml").write_text(SETTINGS, encoding="utf-8")
    (folder / "personas.toml").write_text(PERSONAS, encoding="utf-8")
    return folder


@pytest.fixture
def run(place: Path, command: Callable[..., Any]) -> Callable[..., Any]:
    """A command that ends well, with the configuration."""

    def stage(*arguments: object) -> str:
        done = command(*arguments, "--config", place / "tiny.toml")
        assert done.status == 0, done.stderr
        return str(done.stdout)

    return stage


@pytest.fixture
def round_(place: Path, run: Callable[..., Any]) -> Path:
    """A round of the scripted assistant under personas; made once."""
    folder, named = place / "000", place / "personas.toml"
    if not (folder / "returns").exists():
        run(
            *("rollout", "--policy", "scripted", "--round", folder),
            *("--set", f"rollout.personas={named}"),
        )
        run("ingest", "--round", folder)
        run("init", "--round", folder, "--set", f"init.personas={named}")
        run("returns", "--round", folder)
    return folder


@pytest.fixture
def deployed(place: Path, run: Callable[..., Any], round_: Path) -> Path:
    """A log of the policy under personas, as trajectories; made once."""
    log, trajectories = place / "deployed-log", place / "deployed"
    if not trajectories.exists():
        personas = f"rollout.personas={place / 'personas.toml'}"
        run("rollout", "--policy", round_ / "init", "--out", log, "--set", personas)
        run("ingest", log, "--out", trajectories)
    return trajectories


def lines(folder: Path) -> list[dict[str, Any]]:
    text = (folder / LOG_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_the_scripted_assistant_keeps_to_the_style_of_its_persona(round_: Path) -> None:
    asked: dict[str | None, list[bool]] = {}
    for line in lines(round_ / "log"):
        said = [m["suggestion"] for m in line["messages"] if m.get("suggestion")]
        asked.setdefault(line["persona"], []).extend("?" in text for text in said)

    shares = {name: sum(of) / len(of) for name, of in asked.items()}
    assert shares["asks"] > 0.95
    assert shares["hot"] < 0.8
    assert shares[None] < 0.8


def test_the_manifest_holds_the_personas_and_another_file_is_another_log(
    place: Path, round_: Path, run: Callable[..., Any]
) -> None:
    manifest = read_manifest(round_ / "log")
    assert [one["name"] for one in manifest.config["personas"]] == ["asks", "hot"]
    counts = [manifest.counts[f"persona {name}"] for name in ("asks", "hot", "(none)")]
    assert sum(counts) == 60

    again = ("rollout", "--policy", "scripted", "--out", round_ / "log", "--set")
    assert "up to date" in run(*again, f"rollout.personas={place / 'personas.toml'}")
    other = place / "other.toml"
    other.write_text(PERSONAS.replace("0.4", "0.5"), encoding="utf-8")
    fewer = ("--set", "rollout.conversations=5", "--set", f"rollout.personas={other}")
    run("rollout", "--policy", "scripted", "--out", place / "other-log", *fewer)
    assert {line["persona_probability"] for line in lines(place / "other-log")} <= {0.5, 0.3, 0.2}


def test_the_logged_probability_is_that_under_the_persona(
    place: Path, round_: Path, run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[float, list[int]] = {}

    def remembering(policy: Policy, states: Any) -> list[Sampled]:
        found = sample(policy, states)
        drawn.update((one.logprob, one.tokens) for one in found)
        return found

    monkeypatch.setattr(generation, "sample", remembering)
    named = place / "personas.toml"
    settings = ("--set", "rollout.max_turns=1", "--set", f"rollout.personas={named}")
    run("rollout", "--policy", round_ / "init", "--out", place / "one-turn", *settings)
    policy, personas = load_policy(round_ / "init"), read_personas(named)
    scales = {None: 1.0, **{one.name: one.temperature_scale for one in personas}}

    def logprob(line: dict[str, Any], tokens: list[int], **personas: Any) -> float:
        opening, scale = line["messages"][0]["content"], scales[line["persona"]]
        turn = {
            **{"customer": opening, "suggestion": None, "adoption": "not_shown", "sent": None},
            "persona": line["persona"],
        }
        system_prompt = policy.settings.system_prompt
        [seen] = decisions([turn], system_prompt=system_prompt, **personas)
        prompt = policy.renderer.prompt_ids(seen.state)
        return token_logprobs(
            policy.model, [(prompt, tokens)], temperature=scale if personas else 1.0
        )[0]

    names = set()
    for line in lines(place / "one-turn"):
        logged = line["messages"][1]["suggestion_logprob"]
        tokens = drawn[logged]
        assert logprob(line, tokens, personas=prompts_of(personas)) == pytest.approx(
            logged, abs=1e-4
        )
        plain = logprob(line, tokens)
        assert (plain == pytest.approx(logged, abs=1e-4)) == (line["persona"] is None)
        names.add(line["persona"])
    assert names == {None, "asks", "hot"}


def test_actions_are_those_of_the_plain_policy(
    place: Path, round_: Path, deployed: Path, run: Callable[..., Any]
) -> None:
    told = [
        {name: value for name, value in line.items() if not name.startswith("persona")}
        for line in lines(place / "deployed-log")
    ]
    bare = place / "bare.jsonl"
    bare.write_text("".join(json.dumps(line) + "\n" for line in told), encoding="utf-8")
    run("ingest", bare, "--out", place / "bare")
    for name in ("deployed", "bare"):
        asked = ("--trajectories", place / name, "--policy", round_ / "init")
        run("actions", *asked, "--out", place / f"{name}-actions")

    assert {row["persona"] for row in open_artifact(place / "bare", "trajectories").rows()} == {
        None
    }
    found = [
        list(open_artifact(place / f"{name}-actions", "actions").rows())
        for name in ("deployed", "bare")
    ]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("method", "evaluates"),
    [
        (
            "mc",
            "the mixture of personas and plain policy that made the log; "
            "--set fit-q.method=fqe (or lstdq) evaluates the plain policy",
        ),
        ("fqe", "the plain policy"),
        ("lstdq", "the plain policy"),
    ],
)
def test_fit_q_says_whose_q_it_is_and_what_the_log_supports(
    method: str,
    evaluates: str,
    place: Path,
    round_: Path,
    deployed: Path,
    run: Callable[..., Any],
) -> None:
    if not (place / "returns").exists():
        run("returns", "--trajectories", deployed, "--out", place / "returns")
        asked = ("--trajectories", deployed, "--policy", round_ / "init")
        run("actions", *asked, "--out", place / "deployed-actions")
    inputs = ("--trajectories", deployed, "--returns", place / "returns")
    inputs += ("--policy", round_ / "init")
    if method != "mc":
        inputs += ("--actions", place / "deployed-actions")
    q = place / f"q-{method}"
    told = run("fit-q", *inputs, "--out", q, "--set", f"fit-q.method={method}")

    [line] = [line for line in told.splitlines() if line.endswith(f"; Q of {evaluates}")]
    assert "; the log supports " in line
    metrics = json.loads((q / "metrics.json").read_text(encoding="utf-8"))
    rows = [
        row for row in open_artifact(deployed, "trajectories").rows() if row["split"] == "train"
    ]
    made = [row for row in rows if row["adoption"] not in (None, "not_shown")]
    share = sum(row["persona"] is not None for row in made) / len(made)
    behaviour, found = metrics["behaviour"], metrics["coverage"]
    assert behaviour["share_personas"] == pytest.approx(share)
    assert behaviour["share_other_policies"] == 0
    assert 0 < behaviour["effective_share"] < 1
    assert 0 <= found["support_low"] <= found["support"] <= found["support_high"] <= 1
    assert found["support"] <= found["support_in_any_state"]
    assert found["num_actions"] == 4 * found["num_states"]
    assert f"coverage: {found['support']:.0%} [" in "\n".join(q_text(q))


def test_an_export_carries_its_personas_and_a_rollout_draws_them(
    place: Path, round_: Path, deployed: Path, run: Callable[..., Any]
) -> None:
    named = place / "personas.toml"
    export = place / "export"
    run(
        *("export", "--policy", round_ / "init", "--out", export),
        *("--set", f"export.personas={named}"),
    )

    settings = load_settings(export)
    assert settings.personas == read_personas(named)
    assert settings.version == load_settings(round_ / "init").version
    card = (export / "README.md").read_text(encoding="utf-8")
    assert "| asks | 0.4 | Ask a question. | 1 |\n| hot | 0.3 |  | 1.5 |" in card
    assert "with probability 0.3 the conversation is\nheld without a persona" in card
    run("rollout", "--policy", export, "--out", place / "by-export")
    assert (place / "by-export" / LOG_FILE).read_bytes() == (
        place / "deployed-log" / LOG_FILE
    ).read_bytes()
    few = ("--set", "rollout.conversations=3", "--set", "rollout.personas=none")
    run("rollout", "--policy", export, "--out", place / "plain-log", *few)
    assert not any("persona" in line for line in lines(place / "plain-log"))


def test_init_refuses_a_persona_that_it_is_not_told_of(
    place: Path, round_: Path, command: Callable[..., Any]
) -> None:
    other = place / "lacking.toml"
    other.write_text('[[persona]]\nname = "asks"\nprobability = 0.4\n', encoding="utf-8")
    done = command(
        *("init", "--trajectories", round_ / "trajectories", "--out", place / "none"),
        *("--set", f"init.personas={other}"),
    )

    assert done.status == 3
    assert done.stderr == (
        f"iterppo: {round_ / 'trajectories'}: has conversations of the persona 'hot', which "
        "init.personas does not name; it names: asks.\n"
    )


def test_arms_are_compared_by_persona(
    deployed: Path, round_: Path, command: Callable[..., Any]
) -> None:
    done = command("compare", round_ / "trajectories", deployed, "--by", "persona", "--json")

    assert done.status == 0, done.stderr
    [block] = json.loads(done.stdout)["segments"]
    assert {one["segment"] for one in block["segments"]} == {"(none)", "asks", "hot"}
