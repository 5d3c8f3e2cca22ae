"""The slow way to resample conversations, which every fast one must agree with."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from iterppo.statistics.intervals import percentile_interval
from iterppo.statistics.resampling import Resamples

SlowInterval = Callable[[Resamples, Callable[[Any], float]], tuple[float, float]]


@pytest.fixture
def slow_interval() -> SlowInterval:
    """Interval of a statistic of row indices: rows of a conversation drawn twice stand twice."""

    def interval(resamples: Resamples, statistic: Callable[[Any], float]) -> tuple[float, float]:
        values = []
        for block in resamples.times():
            for times in block.astype(int):
                repeats = times[resamples.conversation_N]
                values.append(statistic(np.repeat(np.arange(len(repeats)), repeats)))
        return percentile_interval(np.array(values))

    return interval
