"""`evaluate` on a log whose every probability is known."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from typer.testing import CliRunner

from iterppo.artifact import ArtifactWriter, open_artifact
from iterppo.cli import app
from iterppo.config import (
    ActionsConfig,
    EvaluateConfig,
    FitQConfig,
    GuardrailSettings,
    IngestConfig,
    InitConfig,
    LengthRule,
    ReturnsConfig,
)
from iterppo.errors import UsageError
from iterppo.lm import off_policy
from iterppo.lm.likelihood import action_logprobs
from iterppo.lm.off_policy import suggestions_in
from iterppo.lm.rendering import decisions
from iterppo.stages import evaluate
from iterppo.statistics.off_policy import weighted_importance_sampling
from iterppo.statistics.off_policy_log import LoggedConversation, arrays
from tests.lm.two_policies import NUM, Setting, exact_value, random_q, set_up, write

CONFIG = EvaluateConfig(samples=2, states=60, bootstrap_samples=200, least_effective=20.0)


@pytest.fixture(scope="module")
def setting(
    tmp_path_factory: pytest.TempPathFactory, make_policy: Callable[..., Path], pairs: Any
) -> Setting:
    return set_up(tmp_path_factory.mktemp("log"), make_policy, pairs)


def found(out: Path) -> dict[tuple[str, str | None], dict[str, Any]]:
    rows = open_artifact(out, "evaluation").rows()
    return {(row["method"], row["logprobs"]): row for row in rows}


def told(out: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((out / "evaluation.json").read_text(encoding="utf-8"))
    return content


@pytest.mark.parametrize("conversations", ["heldout", "all"])
def test_importance_sampling_is_that_of_the_probabilities_of_both_policies(
    conversations: Literal["heldout", "all"], setting: Setting, tmp_path: Path
) -> None:
    config = CONFIG.model_copy(update={"conversations": conversations})
    evaluate.run(config, **setting.paths(), out=tmp_path / "e")
    rows = found(tmp_path / "e")
    taken = [c for c in setting.rows if conversations == "all" or c[0]["split"] == "heldout"]

    after = [
        action_logprobs(
            setting.new,
            [
                (each.state, each.action or "")
                for each in decisions(c, system_prompt=setting.new.settings.system_prompt)
            ],
        )
        for c in taken
    ]
    log = arrays(
        [
            LoggedConversation(
                c[0]["conversation_id"],
                [row["reward"] for row in c],
                [new - row["suggestion_logprob"] for new, row in zip(ratio, c, strict=True)],
            )
            for c, ratio in zip(taken, after, strict=True)
        ]
    )
    expected = weighted_importance_sampling(log, gamma=1.0, seed=0, samples=200)
    for source in ("logged", "recomputed"):
        row = rows["wis", source]
        assert row["supported"]
        assert row["value"] == pytest.approx(expected.value.value, abs=1e-4)
        assert row["difference_low"] == pytest.approx(expected.difference.low, abs=1e-3)
        assert 20 < row["effective_sample_size"] < len(taken)
    assert told(tmp_path / "e")["logprobs"]["share_apart"] == 0
    assert not rows["fqe", None]["supported"]
    assert rows["behaviour", None]["value"] == pytest.approx(
        np.mean([sum(row["reward"] for row in c) for c in taken])
    )
    counts = open_artifact(tmp_path / "e").manifest.counts
    assert (counts["conversations"], counts["conversations_estimated_on"]) == (NUM, len(taken))


def test_a_policy_that_is_certain_of_what_it_says_has_a_ratio(
    setting: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """log 1 = 0 is a probability, and not the sign of a turn without an action."""
    read = off_policy.logprobs_of_log

    def certain(policy: Any, rows: Any, *, own_turns_only: bool) -> list[list[float]]:
        if own_turns_only:  # the old one
            return read(policy, rows, own_turns_only=True)
        return [[0.0] * len(each) for each in rows]

    monkeypatch.setattr(off_policy, "logprobs_of_log", certain)
    evaluate.run(CONFIG, **setting.paths(), out=tmp_path / "e")
    rows = found(tmp_path / "e")
    heldout = [c for c in setting.rows if c[0]["split"] == "heldout"]
    expected = np.mean([np.exp(-sum(row["suggestion_logprob"] for row in c)) for c in heldout])

    assert expected > 2
    for source in ("logged", "recomputed"):
        assert rows["wis", source]["mean_ratio"] == pytest.approx(expected, rel=1e-3)


def test_without_a_conversation_held_out_there_is_nothing_to_estimate_on(
    setting: Setting, tmp_path: Path
) -> None:
    changed = [row | {"split": "train"} for each in setting.rows for row in each]
    write(tmp_path / "t", "trajectories", IngestConfig(heldout=0), changed)

    with pytest.raises(UsageError, match=r"holds no conversation out.*heldout above 0.*=all"):
        evaluate.run(
            CONFIG, **setting.paths() | {"trajectories": tmp_path / "t"}, out=tmp_path / "e"
        )


@pytest.mark.parametrize("learned", ["trajectories", "earlier 0 trajectories", None])
def test_all_conversations_are_warned_of_where_they_taught_the_policy(
    learned: str | None, setting: Setting, tmp_path: Path
) -> None:
    taught = open_artifact(setting.folder / "trajectories").record()
    inputs = {"trajectories": taught.model_copy(update={"digest": "0" * 64})}
    if learned is not None:
        inputs[learned] = taught
    write(tmp_path / "q", "q", FitQConfig(), inputs=inputs, verdict="usable")
    config = CONFIG.model_copy(update={"conversations": "all"})
    evaluate.run(config, **setting.paths(), q=tmp_path / "q", out=tmp_path / "e")

    warnings = told(tmp_path / "e")["gate"]["warnings"]
    assert ["flatter the policy" in each for each in warnings] == [True] * (learned is not None)


def test_the_interval_covers_what_the_new_policy_does_when_it_is_asked(
    setting: Setting, tmp_path: Path
) -> None:
    evaluate.run(CONFIG, **setting.paths(), out=tmp_path / "e")
    row = found(tmp_path / "e")["wis", "logged"]
    truth = exact_value(setting.new)

    assert row["value_low"] < truth < row["value_high"]
    assert row["difference_low"] > 0, "it was taught to say yes"


def test_a_log_of_another_temperature_is_noticed(
    setting: Setting, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = [
        row | {"suggestion_logprob": 1.5 * row["suggestion_logprob"]}
        for each in setting.rows
        for row in each
    ]
    write(tmp_path / "t", "trajectories", IngestConfig(), changed)
    evaluate.run(CONFIG, **setting.paths() | {"trajectories": tmp_path / "t"}, out=tmp_path / "e")

    (warning,) = told(tmp_path / "e")["gate"]["warnings"]
    assert "logged and recomputed log-probabilities differ" in warning
    assert warning in capsys.readouterr().err


def test_without_log_probabilities_and_their_policy_nobody_can_say(
    setting: Setting, tmp_path: Path
) -> None:
    changed = [
        row | {"suggestion_logprob": None, "policy_version": "another"}
        for each in setting.rows
        for row in each
    ]
    write(tmp_path / "t", "trajectories", IngestConfig(), changed)
    evaluate.run(CONFIG, **setting.paths() | {"trajectories": tmp_path / "t"}, out=tmp_path / "e")
    rows = found(tmp_path / "e")

    assert "turns without a log-probability in the log" in rows["wis", "logged"]["reason"]
    assert "by the policy that is said" in rows["wis", "recomputed"]["reason"]
    assert rows["wis", "logged"]["value"] is None
    assert "no method can say" in told(tmp_path / "e")["gate"]["reason"]


@pytest.fixture(scope="module")
def with_q(setting: Setting) -> dict[str, Path]:
    """Proposals of the new policy, and a Q that says it was fitted with them."""
    drawn = suggestions_in(setting.new, setting.rows, samples=2, seed=0)
    split = {each[0]["conversation_id"]: each[0]["split"] for each in setting.rows}
    write(
        setting.folder / "proposals",
        "actions",
        ActionsConfig(),
        [
            {
                "conversation_id": name,
                "turn": number,
                "sample": k,
                "action": text,
                "logprob": None,
                "policy_version": setting.new.settings.version,
                "split": split[name],
            }
            for (name, number), texts in drawn.items()
            for k, text in enumerate(texts, start=1)
        ],
    )
    actions = open_artifact(setting.folder / "proposals", "actions").record()
    with ArtifactWriter(
        setting.folder / "fqe",
        kind="q",
        stage="fit-q",
        config=FitQConfig(method="fqe", members=3),
        inputs={"actions": actions},
    ) as writer:
        random_q(setting.folder / "policy").save(writer.folder / "model")
        writer.metrics.update(verdict="usable")
    return {name: setting.folder / name for name in ("proposals", "fqe")}


def test_with_a_q_of_the_new_policy_every_method_answers(
    setting: Setting, with_q: dict[str, Path], tmp_path: Path
) -> None:
    evaluate.run(CONFIG, **setting.paths(), **with_q, q=with_q["fqe"], out=tmp_path / "e")
    rows = found(tmp_path / "e")
    num_heldout = sum(each[0]["split"] == "heldout" for each in setting.rows)

    assert all(row["supported"] for row in rows.values())
    assert rows["dr", "logged"]["num_conversations"] == num_heldout
    assert rows["fqe", None]["num_conversations"] == num_heldout
    assert rows["fqe", None]["value_low"] < rows["fqe", None]["value"]
    assert told(tmp_path / "e")["decisive"]["method"] == "dr"
    assert open_artifact(tmp_path / "e").manifest.metrics["method"] == "dr"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        pytest.param({"method": "mc"}, "was fitted by neither fqe nor lstdq", id="another method"),
        pytest.param({"digest": "0" * 64}, "other actions than those of", id="another policy"),
        pytest.param({"verdict": "noise"}, "Q is noise", id="noise"),
        pytest.param({"returns": "0" * 64}, "fitted on other returns than", id="other returns"),
        pytest.param({"rewards": "credit"}, "fitted on credit", id="credit"),
    ],
)
def test_a_q_that_does_not_tell_the_new_policys_value_is_not_believed(
    setting: Setting,
    with_q: dict[str, Path],
    tmp_path: Path,
    changes: dict[str, str],
    said: str,
) -> None:
    actions = open_artifact(with_q["proposals"]).record()
    digest = {"digest": changes["digest"]} if "digest" in changes else {}
    returns = tmp_path / "returns"
    config = ReturnsConfig(gamma=1.0, rewards=changes.get("rewards", "outcomes"))  # type: ignore[arg-type]
    write(returns, "returns", config, list(open_artifact(setting.folder / "returns").rows()))
    paid = open_artifact(returns).record()
    with ArtifactWriter(
        tmp_path / "fqe",
        kind="q",
        stage="fit-q",
        config=FitQConfig(method=changes.get("method", "fqe")),  # type: ignore[arg-type]
        inputs={
            "actions": actions.model_copy(update=digest),
            "returns": paid.model_copy(update={"digest": changes.get("returns", paid.digest)}),
        },
    ) as writer:
        random_q(setting.folder / "policy").save(writer.folder / "model")
        writer.metrics.update(verdict=changes.get("verdict", "usable"))
    evaluate.run(
        CONFIG,
        **setting.paths() | {"returns": returns},
        **with_q | {"fqe": tmp_path / "fqe"},
        out=tmp_path / "e",
    )

    assert said in found(tmp_path / "e")["fqe", None]["reason"]


def write_fqe(setting: Setting, actions: Path, out: Path, **config: Any) -> Path:
    with ArtifactWriter(
        out,
        kind="q",
        stage="fit-q",
        config=FitQConfig(method="fqe", **config),
        inputs={"actions": open_artifact(actions).record()},
    ) as writer:
        random_q(setting.folder / "policy", members=config["members"]).save(writer.folder / "model")
        writer.metrics.update(verdict="usable")
    return out


def test_twins_of_two_halves_read_every_conversation(
    setting: Setting, with_q: dict[str, Path], tmp_path: Path
) -> None:
    twins = {
        name: write_fqe(setting, with_q["proposals"], tmp_path / name, members=3, part=part)
        for name, part in (("fqe", "first-half"), ("twin", "second-half"))
    }
    config = CONFIG.model_copy(update={"conversations": "all"})
    evaluate.run(config, **setting.paths(), **with_q | {"fqe": twins["fqe"]}, out=tmp_path / "one")
    evaluate.run(config, **setting.paths(), **with_q | twins, out=tmp_path / "both")
    of_one, of_both = (
        found(tmp_path / name)["dr", "logged"]["num_conversations"] for name in ("one", "both")
    )

    assert NUM / 2 < of_one < of_both == NUM


def test_twins_have_as_many_members(
    setting: Setting, with_q: dict[str, Path], tmp_path: Path
) -> None:
    twin = write_fqe(setting, with_q["proposals"], tmp_path / "twin", members=2)

    with pytest.raises(UsageError, match="--fqe has 3 members and --twin 2"):
        evaluate.run(CONFIG, **setting.paths(), **with_q, twin=twin, out=tmp_path / "e")


def test_guardrails_read_both_policies_in_the_same_states(setting: Setting, tmp_path: Path) -> None:
    """yes is pressure in this lexicon, and the new policy says it more often."""
    lexicon = tmp_path / "lexicon.toml"
    lexicon.write_text("agreement = ['^yes$']\n", encoding="utf-8")
    config = CONFIG.model_copy(
        update={
            "lexicon": str(lexicon),
            "samples": 8,
            "guardrails": GuardrailSettings(length=LengthRule(action="off")),
        }
    )
    evaluate.run(config, **setting.paths(), out=tmp_path / "e")
    guarded = {each["name"]: each for each in told(tmp_path / "e")["guardrails"]}

    assert "length" not in guarded
    assert guarded["pressure"]["fails"]
    assert guarded["pressure"]["new"] > guarded["pressure"]["old"] + 0.05
    assert "guardrail pressure got worse" in told(tmp_path / "e")["gate"]["reason"]


def test_a_lexicon_that_is_none_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"lexicon": str(tmp_path / "none.toml")})
    nowhere = {name: tmp_path for name in ("trajectories", "returns", "policy", "candidate")}

    with pytest.raises(UsageError, match=r"none\.toml: no lexicon to read"):
        evaluate.run(config, **nowhere, out=tmp_path / "e")


def test_the_verdict_of_a_q_that_the_policy_was_not_trained_on_is_refused(
    setting: Setting, tmp_path: Path
) -> None:
    write(tmp_path / "q", "q", FitQConfig(), verdict="usable")
    climbed = open_artifact(tmp_path / "q").record()
    for name, digest in (("its own", climbed.digest), ("another", "0" * 64)):
        with ArtifactWriter(
            tmp_path / name,
            kind="policy",
            stage="ppo",
            config=InitConfig(),
            inputs={"q": climbed.model_copy(update={"digest": digest})},
        ) as writer:
            shutil.copytree(setting.folder / "candidate" / "model", writer.folder / "model")

    def judged(candidate: str) -> None:
        paths = setting.paths() | {"candidate": tmp_path / candidate}
        evaluate.run(CONFIG, **paths, q=tmp_path / "q", out=tmp_path / "e")

    judged("its own")
    with pytest.raises(UsageError, match=r"another was not trained on .*/q\. Name the one"):
        judged("another")


def command(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_the_gate_decides_the_exit_status_and_also_of_what_is_up_to_date(
    setting: Setting, tmp_path: Path
) -> None:
    arguments = [
        "evaluate",
        *(text for name, path in setting.paths().items() for text in (f"--{name}", path)),
        *("--out", tmp_path / "e", "--set", "evaluate.samples=2", "--set", "evaluate.states=60"),
        *("--set", "evaluate.least_effective=20", "--set", "evaluate.kl_budget=0"),
        *("--set", "evaluate.bootstrap_samples=200"),
    ]
    without = command(*arguments)
    held_back = command(*arguments, "--gate")
    shipped = command(*arguments, "--gate", "--set", "evaluate.least_verdict=any")

    assert without.exit_code == 0
    assert "hold: the verdict on Q is not known" in without.stdout
    assert held_back.exit_code == 1
    assert "up to date" in held_back.stdout
    assert str(held_back.exception).startswith(f"{tmp_path / 'e'}: hold: the verdict on Q")
    assert shipped.exit_code == 0
    assert "\nship: improvement +" in shipped.stdout
