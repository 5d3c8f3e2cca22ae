"""`benchmarks.fit_q` compares like with like. On a dozen conversations its numbers mean little."""

import math
from pathlib import Path

import pytest
import torch

from benchmarks.fit_q import make_log, measure_fits
from benchmarks.per_turn_trainer import pairs_of
from benchmarks.training_clock import TrainingClock
from iterppo.config import FitQConfig
from iterppo.lm.policy import load_renderer, prepare_libraries
from iterppo.lm.rendering import decisions


@pytest.mark.slow
def test_both_fits_are_measured_on_the_same_turns(tmp_path: Path) -> None:
    prepare_libraries()
    torch.set_num_threads(1)
    config = FitQConfig(epochs=1, max_steps=10**9, members=1)
    log = make_log(None, tmp_path, 12, 1, config)
    found = measure_fits(log, config)

    assert found["conversations"] == 12
    wanted = {"speedup", "loss_ratio", "padding_share", "flop_share", "branch_speedup"}
    assert wanted < set(found)
    assert all(math.isfinite(found[name]) for name in wanted)
    assert found["tokens_ratio"] > 1
    assert 0 <= found["padding_share"] < 1
    assert 0 < found["flop_share"] < 1
    assert found["branch_difference"] <= 1e-5
    assert found["branches"] > 0

    renderer = load_renderer(log.policy)
    conversation = log.conversations[0]
    pairs = pairs_of(conversation.monte_carlo())
    turns = [t for t in decisions(conversation.rows, system_prompt=log.system_prompt)]
    assert [pair.ids for pair in pairs] == [renderer.pair_ids(t.state, t.action) for t in turns]


def test_the_clock_runs_in_training_mode_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class Model(torch.nn.Linear):
        device = torch.device("cpu")

    seconds = iter(range(100))
    monkeypatch.setattr("time.process_time", lambda: next(seconds))
    model = Model(1, 1)
    with TrainingClock(model) as clock:
        model.train()  # 0
        model.train()  # 1: goes on, 2
        model.eval()  # 3
        assert not model.training
        model.train()  # 4
    assert clock.time.busy_s == 3  # 0 to 1, 2 to 3, 4 to 5
    assert model.train() is model
