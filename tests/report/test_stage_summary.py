"""The three lines at the end of every stage."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from iterppo.artifact import Manifest
from iterppo.pipeline import STAGES
from iterppo.report.stage_summary import three_lines

COUNTS: dict[str, dict[str, int]] = {
    "rollout": {"conversations": 40, "turns": 120, "outcomes": 9},
    "ingest": {
        **{"conversations": 100, "conversations_heldout": 21, "conversations_censored": 4},
        **{"conversations_terminal": 96, "messages": 600},
        **{"turns": 300, "outcomes": 25, "rejects": 0, "lines": 100},
    },
    "init": {},
    "credit": {"turns_scored": 290, "turns_censored": 10},
    "returns": {"turns_with_return": 290, "turns_censored": 10, "turns_capped": 0},
    "actions": {"states": 300, "states_too_long": 0},
    "fit-q": {"turns_scored": 300},
    "prompts": {"prompts": 300, "prompts_heldout": 60, "prompts_cut": 2, "states": 300},
    "ppo": {"updates": 16},
    "evaluate": {"conversations": 300},
    "export": {},
}
METRICS: dict[str, dict[str, Any]] = {
    "rollout": {
        **{"policy_version": "policy-1", "outcome_rate": 0.225},
        **{"outcome_rate_low": 0.12, "outcome_rate_high": 0.375},
    },
    "ingest": {},
    "init": {
        **{"policy_version": "policy-0", "parameters": 770944.0},
        **{"action_loss_train": 0.25, "action_loss_heldout": 0.5, "uniform_loss": 6.0},
    },
    "credit": {
        **{"heldout_bce_gain": 0.125, "heldout_bce_gain_low": 0.0625},
        **{"heldout_bce_gain_high": 0.1875, "heldout_kendall_tau": 0.5},
        **{"heldout_kendall_tau_low": 0.25, "heldout_kendall_tau_high": 0.75},
    },
    "returns": {
        **{"mean_return_weighted": 0.5, "mean_return_weighted_low": 0.25},
        **{"mean_return_weighted_high": 0.75, "weight_max": 1.5},
    },
    "actions": {"policy_version": "policy-0"},
    "fit-q": {
        **{"verdict": "usable", "verdict_reason": "It ranks.", "heldout_auc": 0.75},
        **{"heldout_explained_variance": 0.125, "sampled_q_mean": 1.04},
        **{"return_min": 0.0, "return_max": 1.0},
    },
    "prompts": {},
    "ppo": {
        **{"policy_version": "policy-1", "q_first": 0.125, "q_last": 0.25, "kept_update": 12.0},
        **{"watched_q_first": 0.125, "watched_q_kept": 0.25, "watched_kl_kept": 0.5},
        **{"stopped": "", "return_min": 0.0, "return_max": 1.0},
    },
    "evaluate": {
        **{"gate": "ship", "gate_reason": "it is better", "method": "dr", "value": 0.5},
        **{"value_low": 0.25, "value_high": 0.75, "difference": 0.125},
    },
    "export": {"policy_version": "policy-1", "check_completion": "Which\nroom?"},
}
TOLD = {
    "rollout": "40 conversations of policy-1, 120 turns; outcome rate 0.225 [0.120, 0.375]",
    "ingest": "100 conversations (21 held out, 4 still open), 300 turns, 25 outcomes; 0 of 100 "
    "lines rejected",
    "init": "policy-0, 770944 parameters; loss of held-out suggestions 0.500 nats per token "
    "(training 0.250)",
    "credit": "290 turns scored, 10 censored; held out: 0.125 [0.062, 0.188] nats better than the "
    "mean outcome, Kendall's τ 0.500 [0.250, 0.750]",
    "returns": "290 turns with a return, 10 censored; mean return 0.500 [0.250, 0.750]",
    "actions": "300 states, 0 too long for policy-0",
    "fit-q": "300 turns scored, verdict usable; held out: AUC 0.750, explained variance 0.125",
    "prompts": "300 prompts (60 held out, 2 cut to fit) of 300 states",
    "ppo": "policy-1 behind 16 updates; held-out Q 0.125 -> 0.250 (kept: update 12), KL 0.500 nats "
    "per completion",
    "evaluate": "value 0.500 [0.250, 0.750], improvement 0.125 by dr; the gate says ship",
    "export": "policy-1, a Hugging Face folder; served in a fresh process it says: 'Which room?'",
}
NEXT = {
    "rollout": "iterppo ingest out --out …",
    "ingest": "iterppo returns --trajectories out …",
    "init": "iterppo returns …",
    "credit": "iterppo returns --rewards credit --credit out …",
    "returns": "iterppo fit-q --returns out …",
    "actions": "iterppo fit-q --set fit-q.method=fqe --actions out …",
    "fit-q": "iterppo ppo --q out …",
    "prompts": "iterppo ppo --prompts out …",
    "ppo": "iterppo export --policy out …",
    "evaluate": "iterppo export …",
    "export": "serve it (vllm serve out), log what comes back, and ingest that as a new round",
}


def manifest(stage: str, *, counts: Any = None, metrics: Any = None) -> Manifest:
    kind = STAGES[stage].writes[0].kind
    return Manifest(
        kind=kind,
        version=1,
        stage=stage,
        fingerprint="",
        config={},
        seed=0,
        rows=7,
        counts={**COUNTS[stage], **(counts or {})},
        metrics={**METRICS[stage], **(metrics or {})},
        inputs={},
        files={},
        digest="",
        iterppo_version="",
        libraries={},
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_ends_with_what_was_made_what_it_amounts_to_and_what_is_next(
    stage: str,
) -> None:
    made = manifest(stage)

    lines = three_lines(Path("out"), made, round_folder=None).split("\n")

    assert lines == [f"out: {made.kind}@1, 7 rows", f"  {TOLD[stage]}", f"  next: {NEXT[stage]}"]


def test_a_stage_that_nobody_has_written_a_sentence_for_tells_its_numbers() -> None:
    made = manifest("returns").model_copy(
        update={
            "stage": "waiting",
            "kind": "waiting",
            "counts": {"turns": 7},
            "metrics": {"m": 0.5},
        }
    )

    assert three_lines(Path("out"), made, round_folder=None).split("\n")[1:] == [
        "  turns 7, m 0.500",
        "  next: iterppo inspect out",
    ]


@pytest.mark.parametrize(
    ("stage", "counts", "metrics", "worry"),
    [
        ("rollout", {"outcomes": 0}, {}, "no conversation reached the outcome"),
        (
            *("init", {}, {"action_loss_heldout": 11102.0}),
            "of held-out suggestions a uniform choice among the vocabulary would lose 6.000 nats "
            "per token, and the policy loses 11102.000. Lower init.learning_rate",
        ),
        ("init", {}, {"action_loss_heldout": 5.5}, "its loss of held-out suggestions is hardly"),
        ("credit", {}, {"heldout_kendall_tau_low": -0.1}, "it was not shown to rank held-out"),
        ("credit", {}, {"heldout_kendall_tau_low": None}, "it was not shown to rank held-out"),
        ("credit", {}, {"heldout_bce_gain": -0.1}, "it ranks held-out conversations, and is surer"),
        ("returns", {"turns_with_return": 0}, {}, "no return is known"),
        ("returns", {}, {"weight_max": 0.0}, "the 290 turns with a return weigh nothing"),
        ("returns", {"turns_capped": 5}, {}, "the weight of 5 turns was cut"),
        ("returns", {}, {"weight_max": 12.0}, "a weight of 12.000"),
        ("fit-q", {}, {"verdict": "weak"}, "Q is weak. It ranks. All of it: iterppo inspect out"),
        ("fit-q", {}, {"verdict": "noise"}, "Q is noise. ppo refuses it. It ranks."),
        ("prompts", {"states_too_long": 2}, {}, "2 states are longer than"),
        ("prompts", {"prompts_cut": 61}, {}, "61 prompts lost their beginning"),
        ("evaluate", {}, {"gate": "hold", "gate_reason": "too few"}, "hold: too few"),
        ("ppo", {}, {"kept_update": 0.0}, "no update was better on held-out prompts"),
        ("ppo", {}, {"stopped": "the KL passed its budget"}, "it stopped early: the KL passed"),
    ],
)
def test_what_there_is_to_worry_about_comes_before_what_is_next(
    stage: str, counts: Any, metrics: Any, worry: str
) -> None:
    made = manifest(stage, counts=counts, metrics=metrics)

    *_, last = three_lines(Path("out"), made, round_folder=None).split("\n")

    assert last.startswith(f"  worry: {worry}")


@pytest.mark.parametrize(
    ("counts", "worry"),
    [
        pytest.param(
            {"turns": 0, "messages_after_cutoff": 600, "messages": 0},
            "no turn is left: the messages were written after ingest.cutoff.",
            id="a cutoff before the log",
        ),
        pytest.param(
            {"messages_after_cutoff": 601},
            "601 of 1201 messages were written after ingest.cutoff, and cut.",
            id="a cutoff within the log",
        ),
        pytest.param(
            {"turns": 0, "messages": 0, "messages_ignored": 100, "outcomes": 0},
            "no conversation has a message of a customer or a business.",
            id="no messages",
        ),
        pytest.param(
            {"turns": 0, "messages_blank": 590, "messages_cut_after_outcome": 10},
            "no turn is left: of 600 messages 590 are blank, and 10 come after the outcome.",
            id="blank messages",
        ),
        pytest.param(
            {"outcome_events_joined": 4, "outcome_events_unknown": 5, "outcomes": 0},
            "5 of 9 events match no conversation. Are the ids",
            id="unknown ids of events",
        ),
        pytest.param(
            {
                **{"outcome_events_joined": 4, "outcome_events_unknown": 1},
                **{"outcome_events_outside_windows": 5},
            },
            "6 of 10 events match no conversation, since they lie outside",
            id="times of events",
        ),
        pytest.param(
            {"outcome_events_joined": 4, "outcome_events_unknown": 4, "rejects": 2},
            "2 lines were not taken",
            id="half of the events",
        ),
        pytest.param(
            {"suggestions_like_null": 7, "outcomes": 0},
            "7 suggestions are the word NULL, None or nan, and are taken for what was suggested.",
            id="suggestions that were nulls",
        ),
        pytest.param(
            {"suggestions_like_null": 6, "rejects": 2}, "2 lines were not taken", id="a few of them"
        ),
        pytest.param(
            {"conversations_terminal": 0, "outcomes": 0},
            "no conversation ended",
            id="all of them open",
        ),
        pytest.param({"outcomes": 0}, "no conversation reached the outcome", id="no outcome"),
        pytest.param(
            {"outcomes": 96, "rejects": 3},
            "every conversation that ended reached the outcome",
            id="no failure",
        ),
        pytest.param(
            {"conversations_with_times_backwards": 51, "outcomes": 0, "rejects": 3},
            "in 51 of 100 conversations times run backwards. Is the log newest first?",
            id="newest first",
        ),
        pytest.param(
            {"conversations_with_fact.budget": 0, "conversations_with_fact.product": 1},
            "no conversation has 'budget' in its meta, and ingest.facts names that.",
            id="a fact misspelt",
        ),
        pytest.param({"rejects": 3}, "3 lines were not taken", id="rejects"),
        pytest.param(
            {"conversations_censored": 51, "conversations_terminal": 49},
            "most conversations were still open",
            id="most of them open",
        ),
        pytest.param(
            {"conversations_heldout": 19}, "only 19 held-out conversations", id="few held out"
        ),
    ],
)
def test_ingest_worries_about_a_log_that_is_not_what_it_was_taken_for(
    counts: Any, worry: str
) -> None:
    made = manifest("ingest", counts=counts)

    *_, last = three_lines(Path("out"), made, round_folder=None).split("\n")

    assert last.startswith(f"  worry: {worry}")


@pytest.mark.parametrize(
    ("stage", "metrics", "said"),
    [
        (
            *("fit-q", {"sampled_q_mean": 1.06}),
            "worry: Q of the policy's own suggestions is 1.060 on average, and the returns that it "
            "was fitted on lie in [0.000, 1.000]: there it does not know what it says. Try another "
            "fit-q.method",
        ),
        (
            *("fit-q", {"sampled_q_mean": -0.5, "verdict": "weak"}),
            "worry: Q is weak. It ranks. Q of the policy's own suggestions is -0.500 on average",
        ),
        ("fit-q", {"sampled_q_mean": 7.0, "return_min": 1.0}, "next: "),
        ("fit-q", {"sampled_q_mean": 7.0, "return_max": None}, "next: "),
        (
            *("ppo", {"watched_q_kept": 1.5}),
            "worry: Q of this policy's suggestions is 1.500 on average, and the returns",
        ),
        (
            *("ppo", {"watched_q_first": -0.681}),
            "worry: Q of the first policy's suggestions is -0.681 on average, and the returns",
        ),
        ("ppo", {"watched_q_kept": 1.04, "watched_q_first": -0.04}, "next: "),
    ],
)
def test_a_q_that_no_policy_can_be_worth_is_worried_about(
    stage: str, metrics: Any, said: str
) -> None:
    *_, last = three_lines(Path("out"), manifest(stage, metrics=metrics), round_folder=None).split(
        "\n"
    )

    assert last.startswith(f"  {said}")


def test_of_two_things_to_worry_about_none_is_kept_back() -> None:
    made = manifest("ppo", metrics={"watched_q_kept": -1.0, "kept_update": 0.0})

    *_, last = three_lines(Path("out"), made, round_folder=None).split("\n")

    assert last.startswith("  worry: Q of this policy's suggestions is -1.000 on average")
    assert "look at the coverage. Besides, no update was better on held-out prompts" in last


def test_within_a_round_the_next_stage_is_the_first_that_made_nothing_yet(tmp_path: Path) -> None:
    folder = tmp_path / "000"
    said = []
    order = ("trajectories rejects", "init", "returns", "q", "prompts", "policy", "export")
    for places in ("log", *order):
        for place in places.split():
            (folder / place).mkdir(parents=True)
        *_, last = three_lines(folder, manifest("returns"), round_folder=folder).split("\n")
        said.append(last.removeprefix("  next: ").removesuffix(f" --round {folder}"))

    assert said == [
        *(f"iterppo {name}" for name in ("ingest", "init", "returns", "fit-q", "prompts")),
        "iterppo ppo",
        "iterppo export",
        f"what this made stale: iterppo status {folder}",
    ]


def test_a_later_round_is_not_told_to_make_a_first_policy(tmp_path: Path) -> None:
    (tmp_path / "000" / "policy").mkdir(parents=True)
    folder = tmp_path / "001"
    for place in ("trajectories", "rejects"):
        (folder / place).mkdir(parents=True)

    *_, last = three_lines(folder, manifest("ingest"), round_folder=folder).split("\n")

    assert last == f"  next: iterppo returns --round {folder}"


def test_credit_is_made_to_be_taken_by_the_returns_of_its_round(tmp_path: Path) -> None:
    for place in ("log", "trajectories", "rejects", "init", "returns"):
        (tmp_path / place).mkdir()

    *_, last = three_lines(Path("out"), manifest("credit"), round_folder=tmp_path).split("\n")

    assert last == f"  next: iterppo returns --rewards credit --round {tmp_path}"
