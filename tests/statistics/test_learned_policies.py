"""Why the conversations that taught a policy do not tell how good it is."""

import numpy as np
import pytest

from iterppo.statistics.evaluation import estimates
from iterppo.statistics.off_policy_log import LoggedConversation
from iterppo.statistics.overlap import Limits

CONVERSATIONS, CANDIDATES, FEATURES = 1000, 8, 64
BETA = 0.1
RIDGE = 100.0
LIMITS = Limits(
    least_effective=50.0, most_weight=0.1, ratio_range=(0.1, 10.0), least_turn_overlap=0.3
)
LOGS = 40


def climbed(seed: int) -> dict[str, tuple[float, float, float]]:
    """The improvement, by the conversations that taught the policy and by those that did not, of a
    policy that tilts a uniform one by a Q̂ of a log in which nothing makes any difference."""
    rng = np.random.default_rng(seed)
    x_NKD = rng.normal(size=(CONVERSATIONS, CANDIDATES, FEATURES))
    said_N = rng.integers(CANDIDATES, size=CONVERSATIONS)
    x_ND = x_NKD[np.arange(CONVERSATIONS), said_N]
    outcome_N = (rng.random(CONVERSATIONS) < 0.3).astype(float)
    taught = np.arange(CONVERSATIONS) % 2 == 0
    moment_DD = x_ND[taught].T @ x_ND[taught] + RIDGE * np.eye(FEATURES)
    q_D = np.linalg.solve(moment_DD, x_ND[taught].T @ (outcome_N[taught] - 0.3))
    weight_NK = np.exp(x_NKD @ q_D / BETA)
    share_N = (weight_NK / weight_NK.sum(axis=1, keepdims=True))[np.arange(CONVERSATIONS), said_N]
    found = {}
    for name, chosen in (("taught", taught), ("unseen", ~taught)):
        log = [
            LoggedConversation(str(n), [outcome_N[n]], [float(np.log(CANDIDATES * share_N[n]))])
            for n in np.flatnonzero(chosen)
        ]
        wis = estimates(
            {"logged": log}, fitted=None, limits=LIMITS, gamma=1.0, seed=0, samples=200
        )[1]
        assert wis.method == "wis"
        assert wis.supported
        found[name] = tuple(wis.difference)
    return found


def test_by_the_conversations_that_taught_it_a_policy_that_learned_noise_is_better() -> None:
    found = [climbed(seed) for seed in range(LOGS)]
    better = {name: np.mean([each[name][1] > 0 for each in found]) for name in ("taught", "unseen")}

    assert better["taught"] > 0.9, "the lower end lies above 0: it would be shipped"
    assert better["unseen"] <= 0.15
    assert np.mean([each["unseen"][0] for each in found]) == pytest.approx(0, abs=0.01)
