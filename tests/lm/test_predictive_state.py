"""What the future depends on, where it is known."""

import numpy as np
import pytest
import torch

from iterppo.lm.predictive_state import PredictiveState

Log = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@pytest.fixture
def log() -> Log:
    """x of states, whose first number times the second is what follows, h of pairs, what is sent,
    and what follows, which the third number of h has a part in."""
    random = torch.Generator().manual_seed(0)
    x_ND = torch.randn(3000, 8, generator=random) * torch.tensor([1.0, 5.0, 0.2, 1, 1, 1, 1, 1]) + 2
    pair_NH = torch.randn(3000, 6, generator=random)
    standard = (x_ND - x_ND.mean(0)) / x_ND.std(0)
    hidden_N = standard[:, 0] * standard[:, 1]
    noise_N4 = torch.randn(3000, 4, generator=random)
    future_NF = torch.stack([hidden_N + pair_NH[:, 2], 3 * hidden_N - pair_NH[:, 2]], dim=1)
    sent_NE = torch.randn(3000, 2, generator=random)
    return x_ND, pair_NH, sent_NE, torch.cat([future_NF, noise_N4], dim=1)


def made(log: Log, **settings: int) -> PredictiveState:
    return PredictiveState.of(*log, **{"rows": 60, "states": 2, "actions": 3, "seed": 0} | settings)


def correlation(one_N: torch.Tensor, other_N: torch.Tensor) -> float:
    return abs(float(torch.corrcoef(torch.stack([one_N, other_N]))[0, 1]))


def test_the_product_that_the_future_depends_on_is_found(log: Log) -> None:
    x_ND, pair_NH, _, _ = log
    found = made(log)
    standard = (x_ND - x_ND.mean(0)) / x_ND.std(0)
    assert correlation(found.of_states(x_ND)[:, 1], standard[:, 0] * standard[:, 1]) > 0.95
    a_NA = found.of_pairs(pair_NH, x_ND)[:, 1:4]
    assert max(correlation(a_NA[:, k], pair_NH[:, 2]) for k in range(3)) > 0.9


def test_a_state_is_what_the_business_sends_as_well(log: Log) -> None:
    x_ND, pair_NH, sent_NE, future_NF = log
    habit_N = x_ND[:, 4]
    found = made((x_ND, pair_NH, sent_NE + habit_N[:, None], future_NF), states=2)
    s_NS = found.of_states(x_ND)[:, 1:3]
    assert max(correlation(s_NS[:, k], habit_N) for k in range(2)) > 0.95
    unheard = made(log, states=2).of_states(x_ND)[:, 1:3]
    assert max(correlation(unheard[:, k], habit_N) for k in range(2)) < 0.2


def test_an_action_is_what_the_state_does_not_foretell(log: Log) -> None:
    x_ND, pair_NH, *followed = log
    standard = (x_ND - x_ND.mean(0)) / x_ND.std(0)
    read_twice = pair_NH.clone()
    read_twice[:, 0] = standard[:, 0] * standard[:, 1]  # which tells most of what follows
    found = made((x_ND, read_twice, *followed), actions=1)
    a_N = found.of_pairs(read_twice, x_ND)[:, 1]
    assert correlation(a_N, pair_NH[:, 2]) > 0.98
    assert correlation(a_N, read_twice[:, 0]) < 0.02


def test_what_the_heads_are_linear_in(log: Log) -> None:
    x_ND, pair_NH, _, _ = log
    found = made(log)
    pairs, states = found.widths
    of_states, of_pairs = found.of_states(x_ND), found.of_pairs(pair_NH, x_ND)
    assert of_states.shape == (3000, states) == (3000, 1 + 2 + 3)
    assert of_pairs.shape == (3000, pairs) == (3000, 3 * 4)

    s_NS, a_NA = of_states[:, 1:3], of_pairs[:, 1:4]
    np.testing.assert_allclose(s_NS.mean(0), 0, atol=1e-3)
    for numbers in (s_NS, a_NA):
        assert ((numbers.std(0) > 0.5) & (numbers.std(0) < 1.001)).any()
        assert (numbers.std(0) < 1.001).all(), "the ridges hold them back"
    products = [s_NS[:, 0] ** 2, s_NS[:, 0] * s_NS[:, 1], s_NS[:, 1] ** 2]
    torch.testing.assert_close(of_states[:, 3:], torch.stack(products, dim=1))
    one_and_s = torch.cat([torch.ones(3000, 1), s_NS], dim=1)
    one_and_a = torch.cat([torch.ones(3000, 1), a_NA], dim=1)
    expected = torch.stack(
        [torch.outer(s, a).flatten() for s, a in zip(one_and_s, one_and_a, strict=True)]
    )
    torch.testing.assert_close(of_pairs, expected)


def test_what_never_changed_says_nothing(log: Log) -> None:
    x_ND, pair_NH, *followed = log
    x_ND = x_ND.clone()
    x_ND[:, 7] = 7.1
    x_ND[:, 1] *= 1e-4  # small beside the others, and not constant
    found = made((x_ND, pair_NH, *followed))
    other = x_ND.clone()
    other[:, 7] = -1e4
    assert torch.equal(found.of_states(x_ND), found.of_states(other))
    other[:, 1] = 0.0
    assert not torch.equal(found.of_states(x_ND), found.of_states(other))


def test_it_is_what_its_weights_say(log: Log) -> None:
    found = made(log)
    again = PredictiveState.like(found.state_dict())
    assert again.widths == found.widths
    assert torch.equal(found.of_pairs(log[1], log[0]), again.of_pairs(log[1], log[0]))
    with pytest.raises(KeyError):
        PredictiveState.like({"rows_LD": found.rows_LD})


def test_a_few_turns_are_enough_to_be_made(log: Log) -> None:
    few = tuple(part[:3] for part in log)
    found = made(few, states=8, actions=16)  # type: ignore[arg-type]
    assert torch.isfinite(found.of_pairs(log[1], log[0])).all()


def test_of_a_log_in_which_nothing_foretells_anything_a_constant_is_left(log: Log) -> None:
    found = made(tuple(each[:1].expand(20, -1) for each in log))  # type: ignore[arg-type]
    x_ND, pair_NH, _, _ = log

    assert found.widths == (1, 1)
    assert found.of_states(x_ND).tolist() == [[1.0]] * 3000
    assert found.of_pairs(pair_NH, x_ND).tolist() == [[1.0]] * 3000
