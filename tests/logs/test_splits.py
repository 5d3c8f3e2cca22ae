"""Splits: by conversation, the same everywhere, of about the size asked for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iterppo.logs.splits import split_of, unit_hash

ROOT = Path(__file__).resolve().parents[2]
MANY = [f"conversation/{number}" for number in range(20_000)]


def test_the_hash_of_a_text_never_changes() -> None:
    # The first 14 digits that sha256sum prints for "0:star/6", over 2^56. Another value would move
    # conversations between the splits of logs that were ingested already.
    assert unit_hash("star/6", seed=0) == 0.23756737885665613
    assert unit_hash("star/6", seed=1) == 0.7850139390944335
    assert unit_hash("ü\n🙂", seed=0) == 0.15842125249217462


def test_another_process_makes_the_same_split() -> None:
    code = "from iterppo.logs.splits import unit_hash; print(unit_hash('star/6', seed=0))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "12345"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert float(done.stdout) == unit_hash("star/6", seed=0)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.2, 0.5, 1.0])
def test_about_the_asked_share_is_held_out(share: float) -> None:
    held_out = sum(split_of(one, heldout=share, seed=0) == "heldout" for one in MANY)

    # Five standard errors of 20,000 draws are 0.018 at most.
    assert held_out / len(MANY) == pytest.approx(share, abs=0.018 if 0 < share < 1 else 0)


def test_a_larger_share_holds_out_the_same_conversations_and_more() -> None:
    small = {one for one in MANY if split_of(one, heldout=0.1, seed=3) == "heldout"}
    large = {one for one in MANY if split_of(one, heldout=0.3, seed=3) == "heldout"}

    assert small < large


def test_another_seed_makes_an_unrelated_split() -> None:
    both = sum(
        split_of(one, heldout=0.5, seed=0) == split_of(one, heldout=0.5, seed=1) for one in MANY
    )

    assert both / len(MANY) == pytest.approx(0.5, abs=0.018)


@given(text=st.text(), seed=st.integers(-(2**70), 2**70))
def test_the_hash_lies_in_the_unit_interval_whatever_the_text(text: str, seed: int) -> None:
    assert 0 <= unit_hash(text, seed=seed) < 1
