"""`benchmarks.itpo`: its statistics against numbers worked out by hand, and its loop on a model too
small to learn anything."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import itpo_dialogues
from benchmarks.itpo import changed, summed_up
from benchmarks.itpo_claims import late_success, learning_claims
from benchmarks.itpo_credit import METHODS, Credit, credit, group_advantages, token_rewards
from benchmarks.itpo_dialogues import (
    Counts,
    Dialogue,
    Written,
    as_drawn,
    counts_of,
    dialogue_of,
    hold_by_model,
    hold_by_script,
    read_tokens,
)
from benchmarks.itpo_models import ImplicitModel, ValueModel
from benchmarks.itpo_online import improve
from benchmarks.itpo_settings import Settings
from benchmarks.itpo_statistics import (
    Estimate,
    bootstrapped,
    hits,
    mean_of,
    over_seeds,
    slope,
    spearman_with_last,
    units_of,
)
from benchmarks.itpo_study import study, summary
from benchmarks.itpo_worlds import SCRIPT, WORLDS, first_policy
from benchmarks.kept_runs import once
from iterppo.environments.protocol import Observation
from iterppo.environments.tutor import Tutor
from iterppo.lm.generation import Sampled, complete
from iterppo.lm.policy import Policy, prepare_libraries
from iterppo.lm.rendering import decisions

TUTOR = WORLDS["tutor"]
MICRO = Settings(
    hidden_size=24,
    num_layers=1,
    clone_conversations=40,
    clone_steps=130,
    num_prompts=2,
    per_prompt=3,
    updates=2,
    policy_minibatch=3,
    credit_minibatch=3,
    study_batches=3,
    study_checkpoints=3,
    study_conversations=24,
)


class Lenient(Tutor):
    """Ends well by chance, so that a model that knows nothing has both successes and failures."""

    def clone(self, seed: int | None = None) -> Lenient:
        copy = Lenient()
        copy.__dict__.update(super().clone(seed).__dict__)
        return copy

    def step(self, suggestion: str | None) -> Observation:
        seen = super().step(suggestion)
        assert seen.sent is not None
        solved = len(seen.sent) % 4 == 0
        return dataclasses.replace(seen, outcome=True, done=True) if solved else seen


@pytest.fixture(scope="module")
def first() -> Policy:
    prepare_libraries()
    torch.set_num_threads(1)
    return first_policy(
        TUTOR,
        conversations=MICRO.clone_conversations,
        hidden_size=MICRO.hidden_size,
        num_layers=MICRO.num_layers,
        max_steps=MICRO.clone_steps,
        learning_rate=5e-3,
        seed=0,
    )


# --- statistics ---


def test_a_hit_is_the_truly_best_turn() -> None:
    score = np.array([0.1, 0.9, 0.0, 5.0, 5.0, 1.0, 7.0, 2.0, 3.0])
    truth = np.array([0.0, 0.3, 0.1, 0.2, -0.1, 0.0, 0.4, 0.5, 0.5])
    turns = np.array([3, 3, 1, 2])

    found = hits(score, truth, turns)

    # The second names two turns, one of them right; the third has one turn, the fourth no best one.
    assert found[:2].tolist() == [1.0, 0.5]
    assert np.isnan(found[2:]).all()
    assert mean_of(found) == Estimate(0.75, pytest.approx(math.sqrt(0.125 / 2)))


def test_who_scores_all_turns_alike_hits_by_chance() -> None:
    truth = np.array([1.0, 0.0, 0.0, 0.0, 1.0, 1.0])

    assert hits(np.zeros(6), truth, np.array([4, 2])).tolist()[0] == 0.25
    assert hits(np.zeros(6), -truth, np.array([4, 2])).tolist()[0] == 0.75


def test_ranks_are_compared_with_the_last_checkpoint() -> None:
    checkpoints = [np.array([1.0, 2.0, 4.0, 3.0]), np.array([4.0, 3.0, 2.0, 1.0])]
    checkpoints.append(np.array([1.0, 2.0, 3.0, 4.0]))

    # 1 − 6 Σ d² / n(n² − 1): Σ d² is 2 and 20.
    assert spearman_with_last(checkpoints) == pytest.approx([0.8, -1.0])


def test_the_slope_is_that_of_least_squares() -> None:
    assert slope(np.array([0.0, 0.0, 2.0, 2.0]), np.array([0.0, 1.0, 1.0, 1.0])) == 0.25
    assert math.isnan(slope(np.ones(3), np.arange(3.0)))


def test_resampled_conversations_bring_all_their_units() -> None:
    assert units_of(np.array([2, 0]), np.array([2, 3, 1])).tolist() == [5, 0, 1]


def test_the_bootstrap_of_a_mean_has_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=400)

    found = bootstrapped(lambda c: float(values[c].mean()), 400, samples=400, seed=1)

    assert found.value == pytest.approx(values.mean())
    assert found.standard_error == pytest.approx(values.std() / 20, rel=0.15)


def test_intervals_are_students_over_seeds_and_the_runs_own_over_one() -> None:
    three = over_seeds([Estimate(x, 9.0) for x in (1.0, 2.0, 3.0)])
    one = over_seeds([Estimate(0.5, 0.1)])

    assert three == (
        2.0,
        pytest.approx((2 - 4.3027 / math.sqrt(3), 2 + 4.3027 / math.sqrt(3)), abs=1e-3),
    )
    assert one == (0.5, pytest.approx((0.304, 0.696)))


def test_a_study_of_rewards_that_are_the_truth_finds_everything() -> None:
    counts = Counts(np.array([2, 1] * 12), np.full(12, 2))
    reward = np.random.default_rng(0).normal(size=36)
    truth = np.stack([reward[0::3] + reward[1::3], reward[2::3]], axis=1).ravel()
    outcome = (truth[0::2] + truth[1::2] > 0).astype(float)

    found = summary(
        [reward / 2, reward], mc_q_K=-truth, truth_K=truth, outcome_B=outcome, counts=counts
    )

    assert found["spearman_turns"] == pytest.approx([1.0])
    assert found["spearman_tokens"] == pytest.approx([1.0])
    assert found["best"]["sum"].value == found["worst"]["sum"].value == 1.0
    assert found["best"]["mc-q"].value == found["worst"]["mc-q"].value == 0.0
    assert found["best"]["uniform"].value == 0.5
    assert found["growth"].value == pytest.approx(2.0)
    assert found["growth_batch"].value == pytest.approx(1.0, abs=1e-4)
    assert found["norm_error"] < 1e-12
    # The sum tells the outcomes apart without error, and no τ_b of a binary outcome is larger.
    share = outcome.mean()
    pairs = 12 * 11 / 2
    ties = sum(n * (n - 1) / 2 for n in (12 * share, 12 * (1 - share)))
    expected = 144 * share * (1 - share) / math.sqrt(pairs * (pairs - ties))
    assert found["kendall_tau"].value == pytest.approx(expected)
    assert found["kendall_bound"] == pytest.approx(math.sqrt(2 * share * (1 - share)))


# --- credit ---


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
def test_an_outcome_is_compared_with_those_of_its_prompt(estimator: str) -> None:
    counts = Counts(np.array([2, 1, 3]), np.array([2, 1]))
    paid = Credit("conversation", np.array([1.0, 0.0]), counts)

    found = group_advantages(paid, estimator, per_prompt=2)

    size = 1.0 if estimator == "rloo" else 0.5 / (math.sqrt(0.5) + 1e-4)
    assert found == pytest.approx([size] * 3 + [-size] * 3)


def test_turns_are_compared_with_turns_and_q_differences_are_taken_as_they_are() -> None:
    counts = Counts(np.array([2, 1, 3]), np.array([2, 1]))
    turn = Credit("turn", np.array([1.0, 1.0, 4.0]), counts)
    difference = Credit("advantage", np.array([0.1, -0.2, 0.3]), counts)

    # Returns 2, 1 and 4; the other conversation has no second turn.
    assert group_advantages(turn, "rloo", per_prompt=2).tolist() == [-2, -2, 1, 2, 2, 2]
    assert (
        group_advantages(difference, "rloo", per_prompt=2).tolist() == [0.1, 0.1, -0.2] + [0.3] * 3
    )


@pytest.mark.parametrize(
    ("unit", "paid", "expected"),
    [
        ("conversation", [1.0, 2.0], [0, 0, 1, 0, 0, 2]),
        ("turn", [1.0, 2.0, 3.0], [0, 1, 2, 0, 0, 3]),
        ("token", [1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6]),
    ],
)
def test_ppo_is_paid_where_what_is_paid_for_ends(
    unit: str, paid: list[float], expected: list[float]
) -> None:
    counts = Counts(np.array([2, 1, 3]), np.array([2, 1]))

    assert token_rewards(Credit(unit, np.array(paid), counts)).tolist() == expected


# --- conversations and models ---


def test_one_pass_reads_what_was_drawn_as_it_was_drawn(
    first: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Sampled] = []

    def noted(policy: Policy, prompts: list[list[int]]) -> list[Sampled]:
        said = complete(policy, prompts)
        seen.extend(said)
        return said

    monkeypatch.setattr(itpo_dialogues, "complete", noted)
    dialogues = hold_by_model(
        TUTOR.factory, first, num_prompts=2, per_prompt=2, max_turns=6, seed=3
    )
    with torch.no_grad():
        found = read_tokens(first.model, dialogues).logprob_N
    pieces = found.split(counts_of(dialogues).tokens_K.tolist())

    drawn = [
        dialogue.ids[start : start + length]
        for dialogue in dialogues
        for start, length in dialogue.spans
    ]
    assert sorted(drawn) == sorted(one.tokens for one in seen)
    expected = sorted(one.logprob for one in seen)
    assert sorted(float(piece.sum()) for piece in pieces) == pytest.approx(expected, abs=1e-3)
    other = [one for one in seen if one.tokens != first.renderer.action_ids(one.text or "")]
    assert other, "texts have other spellings"
    assert dialogues[0].turns[0]["customer"] == dialogues[1].turns[0]["customer"]


def test_a_conversation_may_be_as_long_as_it_is_allowed_to_be(first: Policy) -> None:
    def held(**more: int) -> list[Dialogue]:
        return hold_by_model(
            TUTOR.factory, first, num_prompts=1, per_prompt=2, max_turns=2, seed=3, **more
        )

    longest = max(len(dialogue.ids) for dialogue in held())
    assert [one.ids for one in held(max_tokens=longest)] == [one.ids for one in held()]
    with pytest.raises(ValueError, match=f"exceeds {longest - 1} tokens"):
        held(max_tokens=longest - 1)


def test_a_conversation_of_a_script_is_spelled_as_its_texts_are(first: Policy) -> None:
    ((turns, _),) = hold_by_script(TUTOR.factory, SCRIPT, number=1, max_turns=6, seed=2)
    found = dialogue_of(
        turns,
        outcome=True,
        drawn=None,
        renderer=first.renderer,
        system_prompt=TUTOR.system_prompt,
        max_tokens=TUTOR.context_tokens,
    )

    taken = list(decisions(turns, system_prompt=TUTOR.system_prompt))
    (segment,), _ = first.renderer.segments(taken, max_tokens=TUTOR.context_tokens)
    assert (found.ids, found.states) == (segment.ids, segment.states)
    assert found.ends == [end for _, end in segment.ends]
    for (start, length), turn in zip(found.spans, taken, strict=True):
        assert found.ids[start : start + length] == first.renderer.action_ids(turn.action or "")


def test_messages_are_put_in_as_they_were_drawn() -> None:
    ids = [1, 2, 30, 31, 9, 5, 6, 40, 9, 7]
    messages = [Written(2, 3, [33, 34, 35, 9]), Written(7, 2, [44, 44])]

    assert as_drawn(ids, messages, eos_id=9) == (
        [1, 2, 33, 34, 35, 9, 5, 6, 44, 44, 9, 7],
        [2, 8],
    )


@pytest.mark.parametrize(("world", "number"), [("tutor", 150), ("shop", 40)])
def test_exact_advantages_of_the_script_are_nothing_on_average(world: str, number: int) -> None:
    place = WORLDS[world]
    held = hold_by_script(place.factory, SCRIPT, number=number, max_turns=place.max_turns, seed=1)
    dialogues = [Dialogue([], [], [], [], float(outcome), list(turns)) for turns, outcome in held]

    advantage_K = place.advantages(dialogues)

    error = advantage_K.std() / math.sqrt(len(advantage_K))
    assert len(advantage_K) == sum(len(turns) for turns, _ in held)
    assert np.ptp(advantage_K) > 0.2
    assert abs(advantage_K.mean()) < 4 * error


@pytest.mark.parametrize("method", METHODS)
def test_untrained_credit_is_no_credit_and_the_outcome_is_shared_out(
    first: Policy, method: str
) -> None:
    dialogues = hold_by_model(
        TUTOR.factory, first, num_prompts=2, per_prompt=2, max_turns=6, seed=4
    )
    dialogues[0] = dataclasses.replace(dialogues[0], outcome=1.0)
    implicit = ImplicitModel(first.model, beta=0.1, learning_rate=1e-2, minibatch=2, seed=0)
    values = ValueModel(first.model, learning_rate=1e-2, minibatch=2, seed=0)

    paid = credit(method, dialogues, implicit=implicit, values=values).paid

    if method in ("prime", "itpo", "mc-q"):
        assert paid == pytest.approx(0, abs=1e-4)
    else:
        assert paid.sum() == pytest.approx(1)


def test_models_learn_which_conversations_end_well(first: Policy) -> None:
    dialogues = hold_by_model(
        TUTOR.factory, first, num_prompts=4, per_prompt=2, max_turns=6, seed=5
    )
    dialogues = [
        dataclasses.replace(dialogue, outcome=float(index % 2))
        for index, dialogue in enumerate(dialogues)
    ]
    implicit = ImplicitModel(first.model, beta=0.5, learning_rate=5e-3, minibatch=8, seed=0)
    values = ValueModel(first.model, learning_rate=5e-3, minibatch=8, seed=0)

    for model in (implicit, values):
        losses = [model.update(dialogues) for _ in range(15)]
        assert losses[0] == pytest.approx(math.log(2), abs=1e-3)
        assert losses[-1] < 0.9 * losses[0]


def test_settings_are_changed_by_name() -> None:
    found = changed(MICRO, ["beta=0.5", "updates=3"])

    assert found == dataclasses.replace(MICRO, beta=0.5, updates=3)
    assert found.digest() != MICRO.digest()
    with pytest.raises(SystemExit, match="--set bta=1: no setting of this name"):
        changed(MICRO, ["bta=1"])


# --- the whole ---


@pytest.mark.parametrize(
    ("method", "estimator"), [("norm-itpo-mean", "rloo"), ("itpo", "grpo"), ("prime", "ppo")]
)
def test_two_updates_of_the_online_loop_change_the_policy(
    first: Policy, method: str, estimator: str
) -> None:
    before = {name: weight.clone() for name, weight in first.model.state_dict().items()}

    world = dataclasses.replace(TUTOR, factory=Lenient)
    curve = improve(world, first, method=method, estimator=estimator, settings=MICRO, seed=0)

    assert len(curve) == 2
    assert curve[0]["kl"] == 0 < curve[1]["kl"]
    assert all(math.isfinite(value) for point in curve for value in point.values())
    assert all(torch.equal(first.model.state_dict()[name], w) for name, w in before.items())


def test_a_study_and_its_curves_become_claims(first: Policy, tmp_path: Path) -> None:
    file = tmp_path / "study.json"
    found = once(file, lambda: study(TUTOR, first, MICRO, seed=0))
    again = once(file, lambda: pytest.fail("a run that is there is not run again"))
    curve = [{"success": s, "standard_error": 0.01} for s in (0.1, 0.2, 0.3)]
    curves = {("rloo", "norm-itpo-sum"): [curve], ("rloo", "outcome"): [[*curve[:2], curve[0]]]}

    result = summed_up({"tutor": [found]}, {"tutor": curves}, MICRO, quick=True, seeds=1)

    assert found == again == json.loads(file.read_text())
    assert late_success(curve) == Estimate(0.3, 0.01)
    learned = learning_claims("tutor", curves)
    (name,) = learned
    assert name == "tutor, rloo: norm-itpo-sum learns faster than outcome"
    assert learned[name]["holds"]
    assert learned[name]["value"] == 0.2
    assert learned[name].items() <= result["claims"][name].items()
    assert result["claims"]["tutor: Norm-ITPO pays exactly the outcome"]["holds"]
    assert json.loads(json.dumps(result))["success"]["tutor"]["rloo outcome"][0] == 0.1
