"""All diagnostics together: the verdict on a Q̂ that is known to be good, blind or noise; what may
not change them; and inputs of which nothing can be made."""

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from iterppo.statistics import discrimination
from iterppo.statistics.q_diagnostics import HeldOut, SampledActions, diagnose
from iterppo.statistics.regression import auc, explained_variance

CONSTANT = 0.4
TEXTS = ["no", "yes, gladly", "a discount?", "let me look that up for you at once"]


@dataclasses.dataclass(frozen=True)
class World:
    """Turns whose true Q = V(turn, state) + A(state, action) is known, and the turns held out."""

    value: np.ndarray  # (turn, state)
    advantage: np.ndarray  # (state, action), mean 0 over the actions
    heldout: HeldOut
    turn_means: dict[int, float]
    indices: tuple[np.ndarray, np.ndarray, np.ndarray]  # turn − 1, state, action of each turn

    def truth(self) -> np.ndarray:
        turn, state, action = self.indices
        return self.value[turn, state] + self.advantage[state, action]

    def with_q(self, q: np.ndarray) -> HeldOut:
        return dataclasses.replace(self.heldout, q=q.tolist())

    def sampled(self, q_of_action: np.ndarray) -> SampledActions:
        """Six actions at every state of the first turn."""
        action = np.random.default_rng(0).integers(4, size=(5, 6))
        state = np.arange(5)[:, None]
        q = self.value[0, state] + q_of_action[state, action]
        return SampledActions(q, np.array([len(text) / 4 for text in TEXTS])[action])


def world(seed: int, *, num_conversations: int = 400, num_turns: int = 4) -> World:
    """Turns of a conversation share their luck u: G = 1 where u < Q. States are not kept."""
    generator = np.random.default_rng(seed)
    value = np.linspace(0.3, 0.5, num_turns)[:, None] + generator.permutation(
        np.linspace(-0.15, 0.15, 5)
    )
    advantage = np.array([generator.permutation([-0.15, -0.05, 0.05, 0.15]) for _ in range(5)])
    size = num_conversations * num_turns
    turn = np.tile(np.arange(num_turns), num_conversations)
    state, action = generator.integers(5, size=size), generator.integers(4, size=size)
    q = value[turn, state] + advantage[state, action]
    luck = np.repeat(generator.random(num_conversations), num_turns)
    key = [f"{t} {s}" for t, s in zip(turn, state, strict=True)]
    heldout = HeldOut(
        conversation_id=[f"c{n // num_turns}" for n in range(size)],
        turn=(turn + 1).tolist(),
        state=key,
        matched=key,
        action=[TEXTS[a] for a in action],
        q=q.tolist(),
        state_value=value[turn, state].tolist(),
        return_=(luck < q).astype(float).tolist(),
        weight=generator.uniform(1, 1.5, size=size).tolist(),
        segments={"adoption": np.where(action > 1, "verbatim", "edited").tolist()},
        unit=[f"k{n // num_turns}" for n in range(size)],
    )
    means = {t + 1: float(value[t].mean()) for t in range(num_turns)}
    return World(value, advantage, heldout, means, (turn, state, action))


def diagnosed(
    heldout: HeldOut,
    *,
    turn_means: dict[int, float] | None = None,
    sampled: SampledActions | None = None,
    samples: int = 200,
) -> dict[str, Any]:
    found = diagnose(
        heldout,
        constant=CONSTANT,
        turn_means=turn_means or {},
        sampled=sampled,
        samples=samples,
        seed=0,
    )
    json.dumps(found, allow_nan=False)
    return found


# --- the verdict on a Q̂ that is known -----------------------------------------------------------


def test_the_truth_is_usable() -> None:
    for seed in range(8):
        each = world(seed)
        found = diagnosed(
            each.heldout, turn_means=each.turn_means, sampled=each.sampled(each.advantage)
        )

        assert found["verdict"] == "usable", found["verdict_reason"]
        assert found["discrimination_matched_by"] == "state"
        assert found["discrimination_gain_low"] > 0
        assert found["explained_variance_over_state_only_low"] > 0
        assert found["explained_variance_over_state_only"] < found["explained_variance"]
        assert found["action_share"] > 0.2


def test_noise_is_noise() -> None:
    for seed in range(20):
        each = world(seed, num_conversations=100)
        noise = CONSTANT + 0.05 * np.random.default_rng(seed).normal(size=400)
        found = diagnosed(each.with_q(noise), turn_means=each.turn_means)

        assert found["verdict"] == "noise", found["verdict_reason"]
        assert found["better_than_constant"] is False


def test_noise_with_a_better_mean_than_the_constant_is_noise() -> None:
    """Held-out conversations went less well than training ones: to be near their mean is luck."""
    better = noise = 0
    for seed in range(20):
        each = world(seed, num_conversations=100)
        guess = CONSTANT - 0.15 + 0.02 * np.random.default_rng(seed).normal(size=400)
        unlucky = np.random.default_rng(seed + 50).random(400) < 0.5
        g = np.where(unlucky, 0.0, np.array(each.heldout.return_))
        heldout = dataclasses.replace(each.with_q(guess), return_=g.tolist())
        found = diagnosed(heldout, turn_means=each.turn_means)
        better += found["better_than_constant"]
        noise += found["verdict"] == "noise"

    assert better == 20
    # 2.5 % pass; 4 or more of 20 would have a probability of 0.1 %.
    assert noise >= 17


def test_a_q_that_knows_only_the_state_is_weak() -> None:
    for seed in range(8):
        each = world(seed)
        turn, state, _ = each.indices
        found = diagnosed(
            each.with_q(each.value[turn, state]),
            turn_means=each.turn_means,
            sampled=each.sampled(np.zeros((5, 4))),
        )

        assert found["verdict"] == "weak", found["verdict_reason"]
        assert "rank actions" in found["verdict_reason"]
        assert (found["discrimination"], found["action_share"]) == (0.5, 0)


def test_what_it_makes_up_about_actions_is_seldom_taken_for_knowledge() -> None:
    """V plus an opinion of each action that has nothing to do with the truth."""
    verdicts = []
    for seed in range(30):
        each = world(seed, num_conversations=200)
        turn, state, action = each.indices
        opinion = 0.03 * np.random.default_rng(seed + 100).normal(size=(5, 4))
        each_advantage = each.advantage.ravel() - each.advantage.mean()
        opinion = opinion.ravel() - opinion.mean()
        opinion -= each_advantage * (opinion @ each_advantage) / (each_advantage @ each_advantage)
        q = each.value[turn, state] + opinion.reshape(5, 4)[state, action]
        verdicts.append(diagnosed(each.with_q(q), turn_means=each.turn_means)["verdict"])

    # 5 % are promised; more than 5 of 30 would have a probability of 0.3 %.
    assert verdicts.count("usable") <= 5
    assert verdicts.count("weak") > 15


def test_the_better_model_of_the_state_has_not_thereby_shown_that_it_ranks_actions() -> None:
    each = world(0)
    turn, state, _ = each.indices
    q = each.value[turn, state]
    poor = dataclasses.replace(each.with_q(q), state_value=[CONSTANT] * len(q))

    found = diagnosed(poor, turn_means=each.turn_means, sampled=each.sampled(np.zeros((5, 4))))

    assert found["explained_variance_over_state_only_low"] > 0
    assert found["verdict"] == "weak"
    assert "0.00% of its variance comes from the action" in found["verdict_reason"]


def test_a_q_that_knows_only_the_turn_is_weak() -> None:
    each = world(0, num_conversations=2000)
    turn = each.indices[0]
    q = each.value.mean(axis=1)[turn]

    found = diagnosed(each.with_q(q), turn_means=each.turn_means)

    assert found["better_than_constant"] is True
    assert found["explained_variance_over_turn_means"] == pytest.approx(0, abs=1e-9)
    assert found["verdict"] == "weak"
    assert "turn number" in found["verdict_reason"]


# --- the numbers ---------------------------------------------------------------------------------


SMALL = HeldOut(
    conversation_id=["a", "a", "b", "c"],
    turn=[1, 2, 1, 1],
    state=["x", "y", "x", "x"],
    matched=["x", "y", "x", "x"],
    action=["hi", "hello", "hello", "hi"],
    q=[0.5, 1.0, 0.0, 0.5],
    state_value=[0.5, 0.5, 0.25, 0.0],
    return_=[1.0, 1.0, 0.0, None],
    weight=[1.0, 1.0, 2.0, 1.0],
)


def test_the_numbers_are_those_worked_by_hand() -> None:
    found = diagnose(SMALL, constant=0.25, turn_means={2: 0.75}, sampled=None, samples=20, seed=0)

    assert (found["num_turns"], found["num_conversations"]) == (3, 2)
    assert (found["num_turns_left_out"], found["num_turns_positive"]) == (1, 2)
    assert found["return_mean"] == pytest.approx(2 / 4)
    assert found["q_mean"] == pytest.approx(1.5 / 4)
    assert found["mse"] == pytest.approx(0.25 / 4)
    assert found["mse_constant"] == pytest.approx((2 * 0.75**2 + 2 * 0.25**2) / 4)
    # The first turn is not among the means: it has the constant.
    assert found["mse_turn_means"] == pytest.approx((0.75**2 + 0.25**2 + 2 * 0.25**2) / 4)
    assert found["mse_state_only"] == pytest.approx((0.25 + 0.25 + 2 * 0.25**2) / 4)
    for name, baseline in (
        ("explained_variance", "mse_constant"),
        ("explained_variance_over_turn_means", "mse_turn_means"),
        ("explained_variance_over_state_only", "mse_state_only"),
    ):
        assert found[name] == pytest.approx(1 - found["mse"] / found[baseline])
    assert found["state_only_explained_variance"] == pytest.approx(
        1 - found["mse_state_only"] / found["mse_constant"]
    )
    # Both positives are above the other turn; "hi" in a beats "hello" in b, in state x.
    assert (found["auc"], found["discrimination"], found["discrimination_pairs"]) == (1, 1, 1)
    # Residuals 1/2, 0, 0 of weights 1, 1, 2 and lengths 2, 5, 5: only the first differs.
    assert found["residual_length_correlation"] == pytest.approx(-1)
    assert found["verdict"] == "noise"


def test_turns_from_the_sixth_on_are_one_group_and_segments_keep_their_names() -> None:
    each = world(0, num_turns=8, num_conversations=40)
    labels = [None, "new"] * 160
    heldout = dataclasses.replace(each.heldout, segments={"policy_version": labels})

    found = diagnosed(heldout)

    groups = found["by_turn"]["groups"]
    assert [group["label"] for group in groups] == ["1", "2", "3", "4", "5", "6+"]
    assert [group["num_turns"] for group in groups] == [40] * 5 + [120]
    assert found["by_turn"]["num_groups_left_out"] == 0
    (segment,) = found["by_segment"]
    assert segment == "policy_version"
    assert [group["label"] for group in found["by_segment"][segment]["groups"]] == ["(none)", "new"]


def test_sampled_actions_of_one_conversation_are_drawn_together() -> None:
    generator = np.random.default_rng(0)
    q = np.repeat(generator.normal(size=(10, 3)), 8, axis=0)
    length = np.repeat(generator.uniform(1, 9, size=(10, 3)), 8, axis=0)
    alone = SampledActions(q, length)
    together = SampledActions(q, length, [f"c{n // 8}" for n in range(80)])

    by_state, by_conversation = (diagnosed(SMALL, sampled=each) for each in (alone, together))

    assert by_state["num_states_sampled"] == 80
    assert by_state["sampled_q_mean"] == pytest.approx(float(np.mean(alone.q_SK)))
    assert diagnosed(SMALL)["sampled_q_mean"] is None
    for name in ("action_share", "length_correlation", "q_per_10_tokens"):
        assert by_state[name] == by_conversation[name]
        widths = [
            each[f"{name}_high"] - each[f"{name}_low"] for each in (by_state, by_conversation)
        ]
        assert widths[1] > 1.5 * widths[0]


# --- what may not change them --------------------------------------------------------------------


def assert_same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name in expected:
            assert_same(found[name], expected[name])
    elif isinstance(expected, list):
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)
    else:
        assert found == expected


def test_the_order_of_the_turns_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discrimination, "MOST_PAIRS", 100)  # chosen by the seed alone
    heldout = world(0, num_conversations=60).heldout
    order = np.random.default_rng(0).permutation(len(heldout))

    def shuffled(column: Any) -> Any:
        if isinstance(column, dict):
            return {name: shuffled(labels) for name, labels in column.items()}
        return [column[row] for row in order]

    columns = {
        each.name: shuffled(getattr(heldout, each.name)) for each in dataclasses.fields(heldout)
    }
    assert_same(diagnosed(HeldOut(**columns)), diagnosed(heldout))


def test_the_unit_of_the_weights_does_not_matter() -> None:
    heldout = world(0, num_conversations=60).heldout
    scaled = dataclasses.replace(heldout, weight=[8 * w for w in heldout.weight])
    expected, found = diagnosed(heldout), diagnosed(scaled)
    for each in expected["calibration_curve"]:
        each["weight"] *= 8

    assert_same(found, expected)


def test_turns_without_weight_or_return_change_nothing_but_their_count() -> None:
    each = world(0, num_conversations=60)
    heldout = each.heldout
    more = {
        field.name: [*getattr(heldout, field.name), *getattr(heldout, field.name)[:2]]
        for field in dataclasses.fields(heldout)
        if field.name != "segments"
    }
    more["weight"][-2:], more["return_"][-1] = [0.0, 1.0], math.nan
    adoption = [*heldout.segments["adoption"], "x", "y"]

    found = diagnosed(HeldOut(**more, segments={"adoption": adoption}))

    assert found.pop("num_turns_left_out") == 2
    expected = diagnosed(heldout)
    assert expected.pop("num_turns_left_out") == 0
    assert_same(found, expected)


def test_the_seed_decides_intervals_and_nothing_else() -> None:
    heldout = world(0, num_conversations=60).heldout
    one, again, other = (
        diagnose(heldout, constant=0.4, turn_means={}, sampled=None, samples=50, seed=seed)
        for seed in (0, 0, 1)
    )

    assert one == again
    assert one["auc"] == other["auc"]
    assert one["auc_low"] != other["auc_low"]


def test_auc_and_explained_variance_are_those_of_their_functions() -> None:
    each = world(3, num_conversations=60)
    q, g, w = (np.array(x) for x in (each.truth(), each.heldout.return_, each.heldout.weight))

    found = diagnosed(each.heldout)

    assert found["auc"] == pytest.approx(auc(q, g > 0, w))
    assert found["explained_variance"] == pytest.approx(
        explained_variance(q, g, w, baseline=CONSTANT)
    )
    assert found["auc_low"] < found["auc"] < found["auc_high"]


# --- inputs of which nothing can be made ---------------------------------------------------------


def empty() -> HeldOut:
    return HeldOut([], [], [], [], [], [], [], [], [], {"adoption": []})


def changed(**columns: Any) -> HeldOut:
    heldout = world(0, num_conversations=30).heldout
    size = len(heldout)
    return dataclasses.replace(heldout, **{name: value(size) for name, value in columns.items()})


@pytest.mark.parametrize(
    ("heldout", "said"),
    [
        pytest.param(empty(), "known return to say: 0", id="no turn"),
        pytest.param(
            changed(return_=lambda n: [None] * n), "known return to say: 0", id="nothing known"
        ),
        pytest.param(changed(weight=lambda n: [0.0] * n), "known return to say: 0", id="no weight"),
        pytest.param(
            changed(conversation_id=lambda n: ["a"] * n, turn=range),
            "known return to say: 1",
            id="one conversation",
        ),
        pytest.param(
            changed(return_=lambda n: [0.0] * n), "Every held-out return is 0", id="no positives"
        ),
        pytest.param(
            changed(return_=lambda n: [1.0] * n), "Every held-out return is 1", id="only positives"
        ),
        pytest.param(
            changed(return_=lambda n: [CONSTANT] * n), "return is 0.4", id="a perfect constant"
        ),
        pytest.param(changed(q=lambda n: [0.3] * n), "Q is 0.3 at every", id="constant Q"),
        pytest.param(
            changed(q=lambda n: [math.nan] * n), "not a finite number at 120", id="no number"
        ),
        pytest.param(
            changed(q=lambda n: [math.inf] + [0.5] * (n - 1)),
            "not a finite number at 1 ",
            id="infinite once",
        ),
    ],
)
def test_what_cannot_be_judged_is_noise_with_a_reason(heldout: HeldOut, said: str) -> None:
    found = diagnosed(heldout, sampled=SampledActions(np.empty((0, 4)), np.empty((0, 4))))

    assert found["verdict"] == "noise"
    assert said in found["verdict_reason"]


def test_without_resamples_nothing_is_shown() -> None:
    each = world(0, num_conversations=30)

    found = diagnosed(each.heldout, sampled=each.sampled(each.advantage), samples=0)

    assert found["explained_variance"] is not None
    assert found["explained_variance_low"] is None
    assert found["verdict"] == "noise"
    assert "(no interval)" in found["verdict_reason"]


@pytest.mark.parametrize("value", [None, "with a hole"], ids=["none", "not finite somewhere"])
def test_without_a_state_only_model_the_rest_is_still_said(value: str | None) -> None:
    heldout = world(0).heldout
    holed = None if value is None else [math.nan, *(heldout.state_value or [])[1:]]

    found = diagnosed(dataclasses.replace(heldout, state_value=holed))

    assert found["explained_variance_over_state_only"] is None
    assert found["state_only_explained_variance"] is None
    assert found["verdict"] == "usable"  # pairs in the same state need no model of it


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match=r"different lengths: .*'turn': 3.*'adoption': 2"):
        dataclasses.replace(SMALL, turn=[1, 2, 3], segments={"adoption": ["x", "y"]})
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(3, 2\)"):
        SampledActions(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="1 conversations of 2 states"):
        SampledActions(np.zeros((2, 3)), np.zeros((2, 3)), ["a"])
