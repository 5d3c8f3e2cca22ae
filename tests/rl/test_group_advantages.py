"""Advantages without a critic: by definition, and by what they must be equal to."""

import math

import pytest
import torch

from iterppo.rl.group_advantages import (
    group_relative_advantages,
    leave_one_out_advantages,
    less_the_others,
)


@pytest.mark.parametrize("per_prompt", [2, 3, 5])
def test_leave_one_out_is_the_score_less_the_mean_of_the_others(per_prompt: int) -> None:
    score_B = torch.rand(4 * per_prompt, generator=torch.Generator().manual_seed(0))
    found = leave_one_out_advantages(score_B, per_prompt=per_prompt)
    for start in range(0, len(score_B), per_prompt):
        group = score_B[start : start + per_prompt].tolist()
        for k, score in enumerate(group):
            others = [other for j, other in enumerate(group) if j != k]
            expected = score - sum(others) / len(others)
            assert found[start + k].item() == pytest.approx(expected, abs=1e-6)


def test_group_relative_advantages_have_mean_zero_and_unit_spread_in_every_group() -> None:
    score_B = torch.rand(12, generator=torch.Generator().manual_seed(1)) * 100
    found_PK = group_relative_advantages(score_B, per_prompt=4).view(3, 4)
    assert found_PK.mean(dim=1).tolist() == pytest.approx([0, 0, 0], abs=1e-5)
    assert found_PK.std(dim=1).tolist() == pytest.approx([1, 1, 1], abs=1e-4)


@pytest.mark.parametrize("of", [group_relative_advantages, leave_one_out_advantages])
def test_a_group_of_equal_scores_has_nothing_to_tell(of: object) -> None:
    assert callable(of)
    assert of(torch.zeros(4), per_prompt=4).tolist() == [0, 0, 0, 0]
    assert of(torch.ones(4), per_prompt=4).tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("per_prompt", [1, 3])
def test_completions_that_are_no_groups_are_refused(per_prompt: int) -> None:
    with pytest.raises(ValueError, match="groups"):
        leave_one_out_advantages(torch.zeros(4), per_prompt=per_prompt)


def test_who_was_cut_off_is_nobody_elses_baseline() -> None:
    score_B = torch.tensor([1.0, 3.0, 8.0, math.nan, 6.0, 7.0])
    ended_B = torch.tensor([True, True, False, False, True, False])
    found = less_the_others(score_B, ended_B, per_prompt=3)

    assert found[:3].tolist() == [1.0 - 3.0, 3.0 - 1.0, 8.0 - 2.0]
    assert found[4] == 0.0, "its others were all cut off"
    score_B[3] = 5.0
    whole_B = torch.ones(6, dtype=torch.bool)
    torch.testing.assert_close(
        less_the_others(score_B, whole_B, per_prompt=3),
        leave_one_out_advantages(score_B, per_prompt=3),
    )
