"""What is said of an implicit reward model: by hand, and by its definitions."""

import itertools
import math

import numpy as np
import pytest

from iterppo.statistics.credit_diagnostics import diagnose_credit

LOGIT = [2.0, -1.0, 0.5, -3.0, 0.5, 1.0]
OUTCOME = [1.0, 0.0, 0.25, 0.0, 1.0, 0.75]


def diagnosed(
    logit: list[float], outcome: list[float], **changed: float
) -> dict[str, float | None]:
    arguments = {"base_rate": 0.5, "samples": 0, "seed": 0} | changed
    return diagnose_credit(logit, outcome, **arguments)  # type: ignore[arg-type]  # whole numbers


def test_cross_entropy_is_that_of_the_prediction_and_of_the_base_rate() -> None:
    found = diagnosed(LOGIT, OUTCOME, base_rate=0.4)

    def entropy(p: float, r: float) -> float:
        return -(r * math.log(p) + (1 - r) * math.log(1 - p))

    model = [entropy(1 / (1 + math.exp(-z)), r) for z, r in zip(LOGIT, OUTCOME, strict=True)]
    base = [entropy(0.4, r) for r in OUTCOME]
    assert found["bce"] == pytest.approx(sum(model) / 6)
    assert found["bce_base_rate"] == pytest.approx(sum(base) / 6)
    assert found["bce_gain"] == pytest.approx((sum(base) - sum(model)) / 6)


def test_kendalls_tau_counts_pairs_in_order_and_corrects_for_ties() -> None:
    found = diagnosed(LOGIT, OUTCOME)

    agree = ties_logit = ties_outcome = pairs = 0
    both = list(zip(LOGIT, OUTCOME, strict=True))
    for (z1, r1), (z2, r2) in itertools.combinations(both, 2):
        agree += int(np.sign(z1 - z2) * np.sign(r1 - r2))
        ties_logit += z1 == z2
        ties_outcome += r1 == r2
        pairs += 1
    expected = agree / math.sqrt((pairs - ties_logit) * (pairs - ties_outcome))
    assert found["kendall_tau"] == pytest.approx(expected)


def test_range_and_auc_by_hand() -> None:
    found = diagnosed(LOGIT, OUTCOME)

    assert (found["logit_lowest"], found["logit_highest"]) == (-3.0, 2.0)
    # Successes have 2, 0.5 and 1, the others -1, 0.5 and -3: one tie in nine pairs.
    assert found["auc"] == pytest.approx(8.5 / 9)


def test_a_model_that_says_the_base_rate_gains_nothing_and_has_no_order() -> None:
    found = diagnosed([0.0, 0.0, 0.0], [1.0, 0.0, 0.0], samples=20)

    assert found["bce_gain"] == pytest.approx(0, abs=1e-12)
    assert found["kendall_tau"] is None
    assert found["auc"] == 0.5


@pytest.mark.parametrize("base_rate", [0.0, 1.0], ids=["no success", "no failure"])
def test_a_split_without_both_outcomes_says_what_it_can(base_rate: float) -> None:
    found = diagnosed([1.0, 2.0], [base_rate] * 2, base_rate=base_rate, samples=20)

    assert found["bce_base_rate"] == pytest.approx(0, abs=1e-6)
    assert found["auc"] is None
    assert found["kendall_tau"] is None


def test_of_no_conversation_nothing_is_known() -> None:
    found = diagnosed([], [], samples=20)

    assert found.pop("num_conversations") == 0
    assert found.pop("base_rate") == 0.5
    assert set(found.values()) == {None}


def test_with_four_times_the_conversations_intervals_are_half_as_wide() -> None:
    few, many = (diagnosed(LOGIT * n, OUTCOME * n, samples=200) for n in (4, 16))

    for name in ("bce_gain", "kendall_tau", "auc"):
        widths = []
        for found in (few, many):
            low, value, high = (found[f"{name}{end}"] for end in ("_low", "", "_high"))
            assert low is not None
            assert value is not None
            assert high is not None
            assert low < value < high
            widths.append(high - low)
        assert widths[1] / widths[0] == pytest.approx(0.5, abs=0.12)
