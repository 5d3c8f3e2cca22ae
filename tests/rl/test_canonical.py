"""Canonical directions: by definition, and where the answer is known."""

import numpy as np
import pytest

from iterppo.rl.canonical import Array, canonical_directions, foretold

NO_RIDGE = {"x_ridge": 0.0, "y_ridge": 0.0}


@pytest.fixture
def pair() -> tuple[Array, Array, Array]:
    """x, of whose five numbers y depends on two directions, and these directions' values."""
    random = np.random.default_rng(0)
    x_ND = random.normal(size=(4000, 5)) @ random.normal(size=(5, 5)) + 3.0
    centred = x_ND - x_ND.mean(axis=0)
    hidden_N2 = centred @ random.normal(size=(5, 2))
    y_NE = hidden_N2 @ random.normal(size=(2, 7)) + 0.1 * random.normal(size=(4000, 7)) - 8.0
    return x_ND, y_NE, hidden_N2


def told(direction_DK: Array, x_ND: Array) -> Array:
    return np.asarray((x_ND - x_ND.mean(axis=0)) @ direction_DK)


def share_explained(of_NK: Array, by_NJ: Array) -> float:
    best = by_NJ @ np.linalg.lstsq(by_NJ, of_NK, rcond=None)[0]
    return float(1 - np.square(of_NK - best).sum() / np.square(of_NK).sum())


def test_the_first_directions_are_all_that_the_other_depends_on(
    pair: tuple[Array, Array, Array],
) -> None:
    x_ND, y_NE, hidden_N2 = pair
    found_N2 = told(canonical_directions(x_ND, y_NE, number=2, **NO_RIDGE), x_ND)
    assert share_explained(hidden_N2, found_N2) > 0.999
    np.testing.assert_allclose(found_N2.T @ found_N2 / len(x_ND), np.eye(2), atol=1e-6)


def test_no_direction_has_a_higher_correlation_than_the_first(
    pair: tuple[Array, Array, Array],
) -> None:
    x_ND, y_NE, _ = pair
    y_N = y_NE[:, 0] - y_NE[:, 0].mean()

    def correlation(direction_D: Array) -> float:
        return float(abs(np.corrcoef(told(direction_D[:, None], x_ND)[:, 0], y_N)[0, 1]))

    (first_D,) = canonical_directions(x_ND, y_N[:, None], number=3, **NO_RIDGE).T
    others = np.random.default_rng(1).normal(size=(200, 5))
    assert correlation(first_D) > max(map(correlation, others))
    nudged = [first_D + 1e-2 * other for other in others]
    assert correlation(first_D) >= max(map(correlation, nudged)) - 1e-12


def test_scales_and_mixtures_change_nothing(pair: tuple[Array, Array, Array]) -> None:
    x_ND, y_NE, _ = pair
    random = np.random.default_rng(2)
    other_ND = x_ND @ random.normal(size=(5, 5)) * 40.0
    other_NE = y_NE @ random.normal(size=(7, 7)) - 1.0
    one, other = (
        told(canonical_directions(x, y, number=2, **NO_RIDGE), x)
        for x, y in ((x_ND, y_NE), (other_ND, other_NE))
    )
    np.testing.assert_allclose(np.abs(one.T @ other) / len(one), np.eye(2), atol=1e-6)


def test_what_never_changes_and_what_is_there_twice_do_no_harm(
    pair: tuple[Array, Array, Array],
) -> None:
    x_ND, y_NE, hidden_N2 = pair
    more_ND = np.concatenate([x_ND, x_ND[:, :2], np.full((len(x_ND), 1), 7.0)], axis=1)
    found = canonical_directions(more_ND, y_NE, number=2, **NO_RIDGE)
    assert np.isfinite(found).all()
    assert share_explained(hidden_N2, told(found, more_ND)) > 0.999


def test_a_ridge_prefers_what_varies() -> None:
    random = np.random.default_rng(3)
    y_N1 = random.normal(size=(500, 1))
    x_N2 = np.concatenate([y_N1 + 0.1 * random.normal(size=y_N1.shape), 1e-3 * y_N1], axis=1)

    def direction(ridge: float) -> Array:
        (found_D,) = canonical_directions(x_N2, y_N1, number=1, x_ridge=ridge, y_ridge=0.0).T
        return np.abs(found_D * x_N2.std(axis=0))

    assert direction(0.0)[1] > 0.99
    assert direction(100.0)[0] > 100 * direction(100.0)[1]
    assert 0.8 < direction(100.0)[0] < 0.99


def test_nothing_to_tell_is_no_direction() -> None:
    constant_N2 = np.ones((50, 2))
    found = canonical_directions(
        constant_N2, np.random.default_rng(0).normal(size=(50, 3)), number=2, **NO_RIDGE
    )
    assert found.shape == (2, 0)


def test_what_is_foretold_is_the_regression(pair: tuple[Array, Array, Array]) -> None:
    x_ND, y_NE, _ = pair
    by_ND = np.c_[np.ones(len(x_ND)), x_ND]
    expected = np.linalg.lstsq(by_ND, y_NE, rcond=None)[0]
    np.testing.assert_allclose(foretold(by_ND, y_NE, ridge=0.0), expected, atol=1e-8)


def test_partial_directions_tell_what_the_other_numbers_do_not() -> None:
    random = np.random.default_rng(0)
    state_N, action_N, noise_N = random.normal(size=(3, 4000))
    x_ND = np.c_[state_N + 0.1 * noise_N, action_N]
    y_NE = np.c_[3 * state_N + action_N, 2 * state_N - action_N]
    z_NV = np.c_[np.ones(4000), state_N]
    rest_ND, rest_NE = (one - z_NV @ foretold(z_NV, one, ridge=0.0) for one in (x_ND, y_NE))
    (first_D,) = canonical_directions(rest_ND, rest_NE, number=1, **NO_RIDGE).T
    assert abs(np.corrcoef(rest_ND @ first_D, action_N)[0, 1]) > 0.999
    (whole_D,) = canonical_directions(x_ND, y_NE[:, :1], number=1, **NO_RIDGE).T
    assert abs(np.corrcoef(x_ND @ whole_D, action_N)[0, 1]) < 0.5
