"""The best epoch is the one that is taken, also after a kill."""

import math

import pytest
import torch

from iterppo.lm.best_epoch import BestEpoch


def after(losses: list[float], best: BestEpoch, weight: torch.nn.Parameter) -> float:
    """Epoch n sets the weight to n; what is taken in the end."""
    for loss in losses:
        with torch.no_grad():
            weight.fill_(len(best.history))
        best.note(loss)
    best.take()
    return weight.item()


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([0.7, 0.6, 0.5], 2),
        ([0.7, 0.5, 0.6], 1),
        ([0.5, 0.5, 0.6], 0),
        ([math.nan, math.nan], 1),
    ],
    ids=["the last", "in between", "the first of equals", "unknown: the newest"],
)
def test_the_lowest_loss_wins(losses: list[float], expected: int) -> None:
    weight = torch.nn.Parameter(torch.zeros(()))
    best = BestEpoch([weight])

    assert after(losses, best, weight) == expected == best.number
    assert str(best.history) == str(losses)


def test_what_was_saved_is_what_is_gone_on_from() -> None:
    weight = torch.nn.Parameter(torch.zeros(()))
    before = BestEpoch([weight])
    after([0.7, 0.4], before, weight)
    again = BestEpoch([weight])
    again.restore(before.saved())

    assert after([0.5, 0.6], again, weight) == 1
    assert again.history == [0.7, 0.4, 0.5, 0.6]
