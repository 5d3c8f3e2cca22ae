"""Advantages without a critic: by definition, and by what they must be equal to."""

import pytest
import torch

from iterppo.rl.group_advantages import group_relative_advantages, leave_one_out_advantages


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
