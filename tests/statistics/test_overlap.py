"""When importance sampling has no answer, and that it says so."""

import math
from dataclasses import replace

import pytest

from iterppo.statistics.off_policy_log import LoggedConversation, arrays
from iterppo.statistics.overlap import Limits, overlap, unsupported

LIMITS = Limits(least_effective=10, most_weight=0.2, ratio_range=(0.1, 10), least_turn_overlap=0.3)


def one_turn(log_ratios: list[float]) -> list[LoggedConversation]:
    return [LoggedConversation(str(n), [0.0], [each]) for n, each in enumerate(log_ratios)]


def reason(log_ratios: list[float]) -> str | None:
    return unsupported(overlap(arrays(one_turn(log_ratios)), LIMITS), LIMITS)


def test_the_numbers_are_those_by_hand() -> None:
    """Weights 3 and 1: ESS 16/10, the heavier has 3/4, the mean is 2."""
    found = overlap(arrays(one_turn([math.log(3), 0.0])), LIMITS)

    assert found.effective_sample_size == pytest.approx(1.6)
    assert found.max_weight_share == pytest.approx(0.75)
    assert found.mean_ratio == pytest.approx(2.0)
    assert found.mean_ratio_error == pytest.approx(math.sqrt(2) / 2)


def test_turns_overlap_where_their_ratio_lies_in_the_range() -> None:
    rows = [LoggedConversation("a", [0.0] * 4, [math.log(20), math.log(0.01), 0.5, 0.0])]

    assert overlap(arrays(rows), LIMITS).share_in_range == pytest.approx(1 / 3)  # 0.0: no action


@pytest.mark.parametrize(
    ("log_ratios", "said"),
    [
        pytest.param([0.1, -0.1] * 15, None, id="like policies"),
        pytest.param([0.0016, 0.0018] * 100, None, id="off by rounding"),
        pytest.param([0.016, 0.018] * 100, "the mean ratio is 1.02", id="off by more"),
        pytest.param([0.0] * 12, "12 conversations with a known outcome; 20", id="few"),
        pytest.param([5.0] * 3 + [-5.0] * 30, "effective sample size 3.0 of 33", id="few count"),
        pytest.param([2.0] + [-0.16] * 39, "one conversation has 18%", id="one rules"),
        pytest.param([-1.0, -1.1] * 15, "the mean ratio is 0.3", id="elsewhere"),
        pytest.param([-math.inf] * 30, "effective sample size 0.0", id="never the same"),
    ],
)
def test_what_the_log_cannot_support_says_why(log_ratios: list[float], said: str | None) -> None:
    limits = replace(LIMITS, most_weight=0.15)
    found = unsupported(overlap(arrays(one_turn(log_ratios)), limits), limits)

    assert found is None if said is None else said in (found or "")
