"""What fit-q draws for itself has nothing to do with the split that ingest drew."""

import pytest

from iterppo.config import FitQConfig
from iterppo.lm.q_fitting import VALIDATION_SHARE, is_validation
from iterppo.logs.splits import split_of


@pytest.mark.parametrize("ingested_with", range(-1, 6))
def test_a_share_of_the_training_conversations_is_kept_out_whatever_the_seeds(
    ingested_with: int,
) -> None:
    names = [f"shop/{n}" for n in range(4000)]
    train = [n for n in names if split_of(n, heldout=0.2, seed=ingested_with) == "train"]
    kept_out = [name for name in train if is_validation(name, FitQConfig(seed=0))]

    assert len(kept_out) / len(train) == pytest.approx(VALIDATION_SHARE, abs=0.03)
