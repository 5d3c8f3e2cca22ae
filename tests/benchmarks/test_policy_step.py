"""`benchmarks.policy_step`: what is told of a configuration."""

import pytest

from benchmarks.policy_step import CONFIGURATIONS, summary
from iterppo.config import PPOConfig
from iterppo.config_loading import load_config
from iterppo.pipeline import sections


def test_a_configuration_is_told_by_means_over_seeds_and_its_gains_interval() -> None:
    steps = [
        {"gain": gain, "of_q": 2 * gain, "kl": 1.0, "cpu_s": 50.0} for gain in (0.01, 0.02, 0.03)
    ]

    found = summary(steps)
    # Their standard error is .01 / √3, and t of 2 degrees of freedom 4.3027.
    assert found["gain"]["mean"] == 0.02
    assert found["gain"]["low"] == pytest.approx(0.02 - 4.3027 * 0.01 / 3**0.5, abs=1e-4)
    assert (found["of_q"], found["kl"], found["cpu_s"]) == (0.04, 1.0, 50.0)
    assert found["gains"] == [0.01, 0.02, 0.03]


def test_the_last_configuration_is_the_default() -> None:
    chosen = [f"ppo.{one}" for one in CONFIGURATIONS[-1].split()]

    assert load_config("ppo", PPOConfig, settings=chosen, sections=sections()) == PPOConfig()
