"""The controller of the KL coefficient."""

import pytest

from iterppo.rl.kl_control import AdaptiveKL


@pytest.mark.parametrize(
    ("kl", "expected"),
    [
        pytest.param(2.0, 0.1, id="on target: nothing changes"),
        pytest.param(2.2, 0.105, id="a tenth above: half of a tenth in half a horizon"),
        pytest.param(1.8, 0.095, id="a tenth below"),
        pytest.param(200.0, 0.11, id="an error is clipped above"),
        pytest.param(-3.0, 0.09, id="and below, where the estimate is negative"),
    ],
)
def test_the_coefficient_moves_with_the_error(kl: float, expected: float) -> None:
    control = AdaptiveKL(0.1, target=2.0, horizon=1000)
    control.update(kl, completions=500)
    assert control.coefficient == pytest.approx(expected)


def test_it_steers_a_policy_whose_kl_falls_with_the_coefficient_to_the_target() -> None:
    control = AdaptiveKL(0.5, target=2.0, horizon=1000)
    for _ in range(200):
        control.update(0.1 / control.coefficient, completions=128)  # KL = 0.1 / β, at β = 0.05: 2
    assert control.coefficient == pytest.approx(0.05, rel=1e-2)


def test_it_stays_positive_whatever_it_is_told() -> None:
    control = AdaptiveKL(0.1, target=2.0, horizon=10)
    for _ in range(50):
        control.update(0.0, completions=128)
    assert control.coefficient >= 0.0


@pytest.mark.parametrize(("target", "horizon"), [(0.0, 10), (1.0, 0)])
def test_a_target_or_horizon_that_is_not_positive_is_refused(target: float, horizon: int) -> None:
    with pytest.raises(ValueError, match="positive"):
        AdaptiveKL(0.1, target=target, horizon=horizon)
