"""When a policy step ends, and which policy is kept."""

import pytest

from iterppo.rl.stopping import Limits, Reading, best, broken


def reading(
    update: int,
    *,
    q: tuple[float, ...] = (0.5, 0.5),
    judge: tuple[float, ...] | None = None,
    kl: float = 0.0,
    entropy: float = 10.0,
    distinct: float = 0.8,
) -> Reading:
    """A reading in which nothing has happened but what is named."""
    return Reading(update, q, judge, kl, entropy, distinct)


START = reading(0, judge=(0.5, 0.5))


@pytest.mark.parametrize(
    ("last", "limits", "words"),
    [
        pytest.param(reading(4, kl=5.1), Limits(kl=5.0), "KL", id="KL over its budget"),
        pytest.param(
            reading(4, entropy=1.9), Limits(entropy=0.2), "entropy", id="entropy collapsed"
        ),
        pytest.param(
            reading(4, distinct=0.19), Limits(distinct=0.25), "bigrams", id="the same words again"
        ),
        pytest.param(
            reading(4, q=(0.7, 0.7), judge=(0.4, 0.41)),
            Limits(judge_fall=1.0),
            "other conversations",
            id="only the reward rises",
        ),
    ],
)
def test_a_limit_that_is_passed_ends_the_step_and_an_unset_one_does_not(
    last: Reading, limits: Limits, words: str
) -> None:
    assert words in (broken([START, last], limits) or "")
    assert broken([START, last], Limits()) is None


@pytest.mark.parametrize(
    "last",
    [
        pytest.param(reading(4, kl=5.0), id="KL at its budget"),
        pytest.param(reading(4, entropy=2.0), id="entropy at its share"),
        pytest.param(reading(4, q=(0.4, 0.4), judge=(0.3, 0.3)), id="both fall together"),
        pytest.param(reading(4, q=(0.7, 0.7), judge=(0.0, 0.9)), id="a fall within its error"),
        pytest.param(reading(4, q=(0.7, 0.7), judge=(0.6, 0.6)), id="both rise"),
    ],
)
def test_what_passes_no_limit_goes_on(last: Reading) -> None:
    limits = Limits(kl=5.0, entropy=0.2, distinct=0.25, judge_fall=1.0)
    assert broken([START, last], limits) is None


def test_a_fall_is_measured_prompt_by_prompt() -> None:
    # The prompts differ by far more than the fall, which is nearly the same on each.
    before = reading(2, q=(0.1, 0.9, 0.5), judge=(0.1, 0.9, 0.5))
    after = reading(4, q=(0.2, 1.0, 0.6), judge=(0.08, 0.88, 0.479))
    assert "other conversations" in (broken([before, after], Limits(judge_fall=2.0)) or "")


def test_a_fall_is_measured_from_the_best_not_from_the_one_before() -> None:
    readings = [
        reading(0, q=(0.5, 0.5), judge=(0.50, 0.50)),
        reading(2, q=(0.6, 0.6), judge=(0.60, 0.61)),
        reading(4, q=(0.7, 0.7), judge=(0.58, 0.62)),  # −0.005 ± 0.015 against the best
        reading(6, q=(0.8, 0.8), judge=(0.57, 0.58)),  # −0.03 ± 0
    ]
    assert broken(readings[:3], Limits(judge_fall=1.0)) is None
    assert broken(readings, Limits(judge_fall=1.0))
    assert best(readings, Limits()) == 1


def test_the_best_is_the_judges_within_the_budget_and_the_earliest_of_equals() -> None:
    readings = [
        reading(0, q=(0.1,), judge=(0.5,), kl=9.0),  # the policy before is always allowed
        reading(2, q=(0.2,), judge=(0.6,), kl=1.0),
        reading(4, q=(0.3,), judge=(0.6,), kl=2.0),
        reading(6, q=(0.4,), judge=(0.7,), kl=6.0),
    ]
    assert best(readings, Limits(kl=5.0)) == 1
    assert best(readings, Limits()) == 3
    assert best(readings[:1], Limits(kl=5.0)) == 0


def test_a_little_more_reward_is_not_worth_every_distance() -> None:
    readings = [
        reading(0, q=(0.10,), kl=0.0),
        reading(2, q=(0.16,), kl=2.0),  # .12 where a nat costs .02
        reading(4, q=(0.15,), kl=1.0),  # .13
        reading(6, q=(0.13,), kl=0.5),  # .12
    ]
    assert best(readings, Limits()) == 1
    assert best(readings, Limits(kl_coefficient=0.02)) == 2
    assert best(readings, Limits(kl_coefficient=1.0)) == 0


def test_without_a_judge_the_reward_decides() -> None:
    assert best([reading(0, q=(0.5,)), reading(2, q=(0.7,)), reading(4, q=(0.6,))], Limits()) == 1
