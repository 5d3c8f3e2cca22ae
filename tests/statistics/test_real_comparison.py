"""Real conversations that chance divided do not differ."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from iterppo.artifact import open_artifact
from iterppo.assignment import assign
from iterppo.config import IngestConfig
from iterppo.logs.arms import Arm, read_arm
from iterppo.logs.sources import LogFile
from iterppo.stages import ingest
from iterppo.statistics.always_valid import always_valid, rate_variance
from iterppo.statistics.comparison import Question, compare_arms, sample_ratio
from iterppo.statistics.rate_difference import newcombe_p_value

NUM_SPLITS = 2000


@pytest.fixture(scope="module", params=["craigslist-dev", "star", "casino"])
def whole(
    request: pytest.FixtureRequest, real_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Arm:
    log = real_data / f"{request.param}.jsonl.gz"
    folder = tmp_path_factory.mktemp(request.param)
    ingest.run(
        IngestConfig(),
        logs=[LogFile(str(log), str(log))],
        out=folder / "trajectories",
        rejects=folder / "rejects",
    )
    artifact = open_artifact(folder / "trajectories", "trajectories")
    return read_arm(artifact, name="whole", gamma=0.99, cluster=None, segment=None)


def test_arms_by_hash_do_not_differ(whole: Arm) -> None:
    names = np.asarray([assign(one, salt="real", arms={"a": 1, "b": 1}) for one in whole.id_N])
    arms = [whole.part(names == name, name=name) for name in ("a", "b")]

    found = compare_arms(arms, Question())

    assert sample_ratio(arms, [1, 1])["holds"]
    assert not found["arms"][1]["differs"]
    assert found["open"]["alike"]


def test_of_all_divisions_into_halves_few_differ(whole: Arm) -> None:
    """All of them: the outcomes in one half have a hypergeometric distribution."""
    outcome = whole.outcome_N[~whole.is_censored_N]
    num, won = len(outcome), int(outcome.sum())
    half = num // 2
    in_half = stats.hypergeom(num, won, half)
    differ = 0.0
    for count in range(max(0, won - num + half), min(half, won) + 1):
        if in_half.pmf(count) > 1e-9:
            p_value = newcombe_p_value(count, half, won - count, num - half)
            differ += in_half.pmf(count) * (p_value <= 0.05)

    assert 0.03 < differ <= 0.055


def test_of_many_divisions_few_differ_on_any_day(whole: Arm) -> None:
    """Drawn anew with replacement, 30 conversations per arm and day for 60 days."""
    outcome = whole.outcome_N[~whole.is_censored_N]
    drawn = np.random.default_rng(0).choice(outcome, size=(2, NUM_SPLITS, 60, 30))
    won, base_won = drawn.sum(axis=3).cumsum(axis=2)
    num = 30 * np.arange(1, 61)

    found = always_valid(
        (won - base_won) / num, rate_variance(won, num, base_won, num), scale=0.05, level=0.95
    )

    assert np.mean((found.p_value <= 0.05).any(axis=1)) <= 0.055
