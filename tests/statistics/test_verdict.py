"""Each rule of the verdict alone, and the sentence that it gives."""

from typing import Any

import pytest

from iterppo.statistics.verdict import judge


def shown(name: str, value: float | None, low: float | None, high: float | None) -> dict[str, Any]:
    return {name: value, f"{name}_low": low, f"{name}_high": high}


GOOD: dict[str, Any] = {
    "num_turns_q_not_finite": 0,
    "num_conversations": 400,
    "num_independent": 400,
    "return_min": 0.0,
    "return_max": 1.0,
    "q_min": 0.1,
    "q_max": 0.7,
    **shown("explained_variance", 0.12, 0.08, 0.16),
    **shown("correlation", 0.3, 0.2, 0.4),
    **shown("explained_variance_over_turn_means", 0.1, 0.05, 0.15),
    **shown("explained_variance_over_state_only", 0.05, 0.02, 0.08),
    **shown("discrimination", 0.6, 0.55, 0.65),
    **shown("discrimination_gain", 0.1, 0.05, 0.15),
    "discrimination_pairs": 900,
    "discrimination_conversations": 300,
    "discrimination_matched_by": "state",
    "calibration_error": 0.03,
    "calibration_error_by_chance_high": 0.05,
    **shown("action_share", 0.2, 0.1, 0.3),
    **shown("length_correlation", 0.1, 0.05, 0.15),
    **shown("residual_length_correlation", 0.0, -0.1, 0.1),
}
BLIND_PAIRS = shown("discrimination", 0.51, 0.45, 0.57) | shown(
    "discrimination_gain", 0.01, -0.05, 0.07
)
NO_BETTER_THAN_V = shown("explained_variance_over_state_only", 0.01, -0.02, 0.04)


def test_a_q_that_passes_every_rule_is_usable() -> None:
    found = judge(GOOD)

    assert found.verdict == "usable"
    assert found.reason == (
        "Q predicts held-out returns (explained variance 0.12) and can rank actions: of two "
        "different actions in one state it prefers the better one with a share of 0.6 (95 % "
        "interval 0.55 to 0.65)."
    )


@pytest.mark.parametrize(
    ("changed", "verdict", "said"),
    [
        pytest.param(
            {"num_turns_q_not_finite": 3},
            "noise",
            "Q is not a finite number at 3 held-out turns.",
            id="not a number",
        ),
        pytest.param(
            {"num_conversations": 19},
            "noise",
            "Too few held-out conversations with a known return to say: 19, and 20 are needed.",
            id="too few conversations",
        ),
        pytest.param(
            {"num_independent": 19},
            "noise",
            "Too few customers with held-out conversations to say: 19, and 20 are needed.",
            id="too few customers",
        ),
        pytest.param(
            {"return_max": 0.0},
            "noise",
            "Every held-out return is 0, so there is nothing to tell apart.",
            id="no outcome",
        ),
        pytest.param(
            {"q_max": 0.1},
            "noise",
            "Q is 0.1 at every held-out turn, so it prefers nothing.",
            id="constant Q",
        ),
        pytest.param(
            shown("explained_variance", 0.02, -0.01, 0.05),
            "noise",
            "Q is not shown to predict held-out returns better than a constant: explained variance "
            "0.02 (95 % interval -0.01 to 0.05).",
            id="no better than the constant",
        ),
        pytest.param(
            shown("explained_variance", 0.02, None, None),
            "noise",
            "Q is not shown to predict held-out returns better than a constant: explained variance "
            "0.02 (no interval).",
            id="no interval",
        ),
        pytest.param(
            shown("explained_variance", None, None, None),
            "noise",
            "Q is not shown to predict held-out returns better than a constant: explained variance "
            "unknown.",
            id="nothing to explain",
        ),
        pytest.param(
            shown("correlation", 0.0, -0.1, 0.1),
            "noise",
            "Held-out returns are not shown to rise with Q: correlation 0 (95 % interval -0.1 to "
            "0.1).",
            id="only its mean is right",
        ),
        pytest.param(
            shown("explained_variance_over_turn_means", 0.0, -0.02, 0.02),
            "weak",
            "Q is not shown better than the mean return of each turn number: explained variance "
            "over it 0 (95 % interval -0.02 to 0.02).",
            id="turn means",
        ),
        pytest.param(
            NO_BETTER_THAN_V | BLIND_PAIRS,
            "weak",
            "Q predicts returns, but nothing shows that it can rank actions: explained variance "
            "over a model that sees only the state is 0.01 (95 % interval -0.02 to 0.04), and in "
            "pairs of different actions its share in the right order is 0.01 (95 % interval -0.05 "
            "to 0.07) above what the state alone gives.",
            id="state only",
        ),
        pytest.param(
            NO_BETTER_THAN_V | {"discrimination_pairs": 49},
            "weak",
            "Q predicts returns, but nothing shows that it can rank actions: explained variance "
            "over a model that sees only the state is 0.01 (95 % interval -0.02 to 0.04), and only "
            "49 pairs of different actions can be compared.",
            id="too few pairs",
        ),
        pytest.param(
            BLIND_PAIRS | shown("action_share", 0.009, 0.001, 0.02),
            "weak",
            "Q predicts returns, but nothing shows that it can rank actions: 0.90% of its variance "
            "comes from the action, and in pairs of different actions its share in the right order "
            "is 0.01 (95 % interval -0.05 to 0.07) above what the state alone gives.",
            id="the better model of the state",
        ),
        pytest.param(
            BLIND_PAIRS | shown("explained_variance_over_state_only", None, None, None),
            "weak",
            "Q predicts returns, but nothing shows that it can rank actions: there is no "
            "state-only model to compare with, and in pairs of different actions its share in the "
            "right order is 0.01 (95 % interval -0.05 to 0.07) above what the state alone gives.",
            id="no state-only model",
        ),
        pytest.param(
            {"calibration_error": 0.12},
            "weak",
            "Q is off by 0.12 of an outcome on average (calibration error; at most 0.1 is wanted).",
            id="calibration",
        ),
        pytest.param(
            shown("residual_length_correlation", -0.15, -0.2, -0.1),
            "weak",
            "At a fixed state Q prefers long actions (correlation 0.1) and overrates them: what Q "
            "misses of the return is correlated with length by -0.15 (95 % interval -0.2 to -0.1).",
            id="overrates length",
        ),
        pytest.param(
            shown("length_correlation", -0.4, -0.5, -0.3)
            | shown("residual_length_correlation", 0.15, 0.1, 0.2),
            "weak",
            "At a fixed state Q prefers short actions (correlation -0.4) and overrates them: what "
            "Q misses of the return is correlated with length by 0.15 (95 % interval 0.1 to 0.2).",
            id="overrates brevity",
        ),
    ],
)
def test_one_thing_wrong_decides(changed: dict[str, Any], verdict: str, said: str) -> None:
    found = judge(GOOD | changed)

    assert (found.verdict, found.reason) == (verdict, said)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        pytest.param(NO_BETTER_THAN_V, "in one state it prefers the better one", id="by pairs"),
        pytest.param(BLIND_PAIRS, "only the state it explains 0.05 (95 %", id="by V"),
        pytest.param(
            {"discrimination_conversations": 19}, "only the state it explains", id="pairs of few"
        ),
        pytest.param(
            {"discrimination_matched_by": "matched"},
            "above the state-only model's by 0.1 (95 %",
            id="by pairs in like states",
        ),
        pytest.param(
            BLIND_PAIRS | shown("action_share", None, None, None),
            "only the state it explains",
            id="no sampled actions",
        ),
        pytest.param(
            {"calibration_error": 0.2, "calibration_error_by_chance_high": 0.25},
            "usable",
            id="calibration error within chance",
        ),
        pytest.param(
            shown("residual_length_correlation", -0.05, -0.06, -0.04),
            "usable",
            id="overrates length, by little",
        ),
        pytest.param(
            shown("residual_length_correlation", 0.3, 0.2, 0.4),
            "usable",
            id="underrates what it prefers",
        ),
    ],
)
def test_what_is_not_held_against_it(changed: dict[str, Any], said: str) -> None:
    found = judge(GOOD | changed)

    assert found.verdict == "usable"
    assert said in f"{found.verdict}: {found.reason}"
