"""What is said of the newest policy, and on what grounds."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from scipy import stats

from iterppo.artifact import ArtifactWriter, InputRecord, open_artifact
from iterppo.config import EvaluateConfig, ExportConfig, FitQConfig
from iterppo.report.page.decision import Decision, decide, watched_gain
from iterppo.report.page.run import Place, Run, read_run
from iterppo.report.page.success import read_success
from iterppo.statistics.intervals import newcombe_interval
from tests.report.page.made_run import conversation, sample, write, write_policy, write_turns


def decision(run: Path) -> Decision:
    found = read_run(run)
    return decide(found, read_success(found))


def write_round(run: Path, *, outcomes: int = 10, **policy: Any) -> None:
    """Conversations of p0 and the policy that was made of them."""
    write_turns(run / "000" / "trajectories", version="p0", outcomes=outcomes)
    write_policy(run / "000" / "policy", of=[], samples=[sample(0, 0.5)], **policy)


def write_verdict(run: Path, verdict: str) -> None:
    with ArtifactWriter(
        run / "000" / "q", kind="q", stage="fit-q", config=FitQConfig(), inputs={}
    ) as writer:
        writer.metrics.update(verdict=verdict, verdict_reason="It says so.")


@pytest.mark.parametrize(
    ("outcomes", "word", "said"),
    [
        pytest.param(30, "Ship", "All of it is above zero.", id="better"),
        pytest.param(14, "Hold", "Zero is within it", id="perhaps better"),
        pytest.param(0, "Hold", "It is worse: go back to p0.", id="worse"),
    ],
)
def test_conversations_decide_where_there_are_any(
    tmp_path: Path, outcomes: int, word: str, said: str
) -> None:
    write_round(tmp_path, metrics={"kept_update": 0.0})
    write_turns(tmp_path / "001" / "trajectories", version="p1", outcomes=outcomes)

    found = decision(tmp_path)

    low, high = newcombe_interval(outcomes, 40, 10, 40)
    interval = f"95 % interval {100 * low:+.1f} to {100 * high:+.1f}".replace("-", "−")
    assert found.word == word
    assert said in found.reason
    assert interval in found.reason
    assert any("collected one after the other" in each.text for each in found.evidence)


def write_mixed(folder: Path, **arms: tuple[int, int]) -> None:
    """Conversations of several policies, so many of each with so many successes; `_`: nothing says
    of which."""
    rows = [
        row
        for version, (num, outcomes) in arms.items()
        for index in range(num)
        for row in conversation(
            f"{version}-{index}",
            version=version,
            outcome=index < outcomes,
            **({"policy_version": None} if version == "_" else {}),
        )
    ]
    write(folder, "trajectories", "ingest", sorted(rows, key=lambda row: row["conversation_id"]))


def test_policies_that_share_a_round_are_told_apart(tmp_path: Path) -> None:
    write_round(tmp_path)
    write_mixed(tmp_path / "001" / "trajectories", p0=(40, 20), p1=(50, 25))

    found = decision(tmp_path)

    assert found.word == "Hold"
    assert found.reason.startswith(
        "50.0 % of 50 conversations with π₁ succeeded, and 50.0 % of 40 with p0: 0.0 points"
    )
    assert found.evidence[-1].text.startswith("Both policies held conversations of round 001.")


def test_a_few_late_conversations_of_the_policy_before_are_no_arm_of_their_own(
    tmp_path: Path,
) -> None:
    write_round(tmp_path)
    write_mixed(tmp_path / "001" / "trajectories", p0=(2, 2), p1=(40, 30))

    assert "28.6 % of 42 with p0" in decision(tmp_path).reason


def test_conversations_that_nobody_says_who_held_are_not_the_new_policys(tmp_path: Path) -> None:
    write_round(tmp_path)
    write_mixed(tmp_path / "001" / "trajectories", _=(40, 40), p1=(40, 10))

    assert "25.0 % of 40 conversations with π₁" in decision(tmp_path).reason

    write_mixed(tmp_path / "001" / "trajectories", _=(40, 40))

    assert decision(tmp_path).evidence[-1].text == (
        "No conversation is known to have been held with π₁ (of round 001 some or all have no "
        "policy_version): only Q speaks for it."
    )


def test_conversations_under_a_persona_are_told_of(tmp_path: Path) -> None:
    write_round(tmp_path)
    rows = [
        row
        for index in range(40)
        for row in conversation(
            f"c{index:02}", version="p1", outcome=True, persona="warm" if index < 30 else None
        )
    ]
    write(tmp_path / "001" / "trajectories", "trajectories", "ingest", rows)

    found = decision(tmp_path)

    assert [each.text for each in found.evidence if "persona" in each.text] == [
        "75.0 % of these conversations with π₁ were held under a persona, and 0.0 % of those with "
        "p0: what is compared is mixtures, not the plain policies."
    ]
    write_turns(tmp_path / "001" / "trajectories", version="p1", outcomes=30)
    assert not any("persona" in each.text for each in decision(tmp_path).evidence)


def test_arms_with_other_shares_of_open_conversations_do_not_decide(tmp_path: Path) -> None:
    write_round(tmp_path)
    write_turns(tmp_path / "001" / "trajectories", version="p1", outcomes=10, num_open=30)

    found = decision(tmp_path)

    assert found.word == "Hold"
    assert "100.0 % of 10 conversations" in found.reason
    assert "wait until fewer are open" in found.reason


@pytest.mark.parametrize(
    ("policy", "verdict", "word", "said"),
    [
        pytest.param({}, "usable", "Hold", "+0.250 [-0.061, +0.561]", id="not shown"),
        pytest.param({"gain": (0.2, 0.21, 0.19)}, "weak", "Test", "+0.200", id="Q prefers it"),
        pytest.param({"gain": (0.2, 0.21, 0.19)}, "noise", "Hold", "noise", id="Q is noise"),
        pytest.param({"metrics": {"kept_update": 0.0}}, "usable", "Hold", "kept", id="none better"),
        pytest.param({"gain": (0.2, -0.2)}, "usable", "Hold", "does not prefer", id="no gain"),
    ],
)
def test_without_conversations_q_decides_on_a_test_at_most(
    tmp_path: Path, policy: dict[str, Any], verdict: str, word: str, said: str
) -> None:
    write_round(tmp_path, **policy)
    write_verdict(tmp_path, verdict)

    found = decision(tmp_path)

    assert found.word == word
    assert said in found.reason
    assert any("only Q speaks for it" in each.text for each in found.evidence)


@pytest.mark.parametrize(
    ("gate", "word"), [("ship", "Ship"), ("hold", "Hold")], ids=["ship", "hold"]
)
def test_without_conversations_the_gate_of_an_evaluation_decides(
    tmp_path: Path, gate: str, word: str
) -> None:
    write_round(tmp_path)
    run = with_evaluation(read_run(tmp_path), gate=gate, gate_reason="improvement +0.1")

    found = decide(run, read_success(run))

    assert (found.word, found.reason) == (word, "By the gate on logs: improvement +0.1.")
    assert found.evidence[-1].text.startswith("No conversation was held with π₁ yet")


def test_conversations_count_more_than_the_gate_which_is_told_beside(tmp_path: Path) -> None:
    write_round(tmp_path)
    write_turns(tmp_path / "001" / "trajectories", version="p1", outcomes=30)
    run = with_evaluation(read_run(tmp_path), gate="hold", gate_reason="KL exceeds")

    found = decide(run, read_success(run))

    assert found.word == "Ship"
    told = {each.text: each.sign for each in found.evidence}
    assert told["Before: By the gate on logs: KL exceeds."] == "against"


def write_evaluation(place: Path, *, of: Path, gate: str) -> None:
    """An evaluation of the policy that lies at `of` now."""
    with ArtifactWriter(
        place,
        kind="evaluation",
        stage="evaluate",
        config=EvaluateConfig(),
        inputs={"candidate": open_artifact(of, "policy").record()},
    ) as writer:
        writer.metrics.update(gate=gate, gate_reason=f"said {gate}")


def test_an_evaluation_of_a_policy_that_was_made_again_ships_nothing(tmp_path: Path) -> None:
    write_round(tmp_path)
    policy = tmp_path / "000" / "policy"
    write_evaluation(tmp_path / "000" / "evaluation", of=policy, gate="ship")
    assert decision(tmp_path).word == "Ship"
    write_policy(policy, of=[], samples=[sample(0, 0.75)], gain=(0.2, 0.21, 0.19))

    found = decision(tmp_path)

    assert found.word == "Test", "as where it was never evaluated"
    assert [each.text for each in found.evidence if "evaluation" in each.text] == [
        f"{tmp_path}/000/evaluation is of another policy than the one that lies in {policy} now: "
        f"it is not used. Run: iterppo evaluate --gate --round {tmp_path}/000"
    ]
    write_evaluation(tmp_path / "000" / "proof", of=policy, gate="hold")
    assert decision(tmp_path).reason == "By the gate on logs: said hold."


def test_an_export_of_a_policy_that_was_made_again_is_named(tmp_path: Path) -> None:
    write_round(tmp_path)
    policy, export = tmp_path / "000" / "policy", tmp_path / "000" / "export"
    inputs = {"policy": open_artifact(policy).record()}
    with ArtifactWriter(
        export, kind="export", stage="export", config=ExportConfig(), inputs=inputs
    ):
        pass
    assert not any("of another policy" in each.text for each in decision(tmp_path).evidence)
    write_policy(policy, of=[], samples=[sample(0, 0.75)])

    assert [each.text for each in decision(tmp_path).evidence if "export" in each.text] == [
        f"{export} is of another policy than the one that lies in {policy} now: whoever serves it "
        f"serves that one. Run: iterppo export --round {tmp_path}/000"
    ]


def with_evaluation(run: Run, **metrics: str) -> Run:
    """A run whose first round has been evaluated, as far as the manifest tells."""
    first, *others = run.rounds
    policy = first.places["policy"].manifest
    assert policy is not None
    candidate = InputRecord(path="policy", kind="policy", digest=policy.digest)
    update = {"kind": "evaluation", "metrics": metrics, "inputs": {"candidate": candidate}}
    manifest = policy.model_copy(update=update)
    place = Place("evaluation", first.path / "evaluation", manifest)
    evaluated = replace(first, places={**first.places, "evaluation": place})
    return replace(run, rounds=(evaluated, *others))


def test_a_step_that_wrote_the_policy_before_again_has_nothing_to_ship(tmp_path: Path) -> None:
    write_round(tmp_path, version="p0", metrics={"kept_update": 0.0})

    found = decision(tmp_path)

    assert found.word == "Hold"
    assert found.reason.endswith("the policy before was written again.")
    assert not any("No conversation was held" in each.text for each in found.evidence)


def test_a_later_round_that_kept_a_policy_takes_back_nothing_that_is_known_of_it(
    tmp_path: Path,
) -> None:
    write_round(tmp_path)
    write_turns(tmp_path / "001" / "trajectories", version="p1", outcomes=30)
    kept = {"behaviour_version": "p1", "kept_update": 0.0}
    write_policy(tmp_path / "001" / "policy", of=[], samples=[sample(0, 0.5)], metrics=kept)
    write_turns(tmp_path / "002" / "trajectories", version="p1", outcomes=14)

    found = decision(tmp_path)

    assert (found.word, found.policy) == ("Ship", "π₁")
    assert found.reason.startswith("55.0 % of 80 conversations with π₁"), "44 of all that it held"
    assert "Round 001 found nothing better than π₁, and kept it." in [
        each.text for each in found.evidence
    ]


def test_a_distance_of_nothing_has_no_sign(tmp_path: Path) -> None:
    write_round(tmp_path, metrics={"watched_kl_kept": -1e-9})

    assert any(": 0.00 nat of KL" in each.text for each in decision(tmp_path).evidence)


def test_the_gain_on_held_out_prompts_is_paired(tmp_path: Path) -> None:
    """Changes of 1/8, 2/8 and 3/8: mean 1/4, standard deviation 1/8."""
    write_round(tmp_path)
    half = stats.t.ppf(0.975, 2) * 0.125 / math.sqrt(3)

    assert watched_gain(read_run(tmp_path).rounds[0]) == pytest.approx(
        (0.25, 0.25 - half, 0.25 + half)
    )


def test_a_run_without_a_policy_has_nothing_to_decide(tmp_path: Path) -> None:
    write_turns(tmp_path / "000" / "trajectories", version="p0", outcomes=3)

    found = decision(tmp_path)

    assert (found.word, found.policy) == ("Nothing to decide yet", "")
    assert "Round 000 still lacks rejects, returns, q, prompts, policy, export." in found.reason


def test_a_policy_that_cannot_be_read_is_not_said_never_to_have_been_trained(
    tmp_path: Path,
) -> None:
    write_round(tmp_path)
    (tmp_path / "000" / "policy" / "manifest.json").write_text("junk")
    write_turns(tmp_path / "001" / "trajectories", version="p1", outcomes=30)

    found = decision(tmp_path)

    assert (found.word, found.policy) == ("Nothing to decide yet", "")
    assert found.reason.startswith("The policy of round 000 cannot be read: ")
    assert "policy/manifest.json: damaged" in found.reason
