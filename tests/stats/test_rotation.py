from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from perturbia.stats import sparse_rotation, varimax

ROTATIONS = [varimax, sparse_rotation]


def planted(*, n_rows: int, n_latent: int, seed: int, density: float = 0.25, noise: float = 0.0) -> tuple:
    """Sparse effects on true axes, and the same seen in a random basis."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n_rows, n_latent)) < density
    mask[np.arange(n_rows), rng.integers(0, n_latent, n_rows)] = True
    true = mask * rng.normal(0, 1.5, mask.shape) + noise * rng.normal(size=mask.shape)
    turn = scipy.stats.ortho_group.rvs(n_latent, random_state=seed)
    return true, true @ turn


def alignment(true: np.ndarray, found: np.ndarray) -> float:
    """Mean absolute cosine of matched columns."""
    unit = [matrix / np.linalg.norm(matrix, axis=0) for matrix in (true, found)]
    cosine = np.abs(unit[0].T @ unit[1])
    rows, columns = scipy.optimize.linear_sum_assignment(-cosine)
    return float(cosine[rows, columns].mean())


def assert_orthogonal(rotation: np.ndarray, n: int) -> None:
    assert rotation.shape == (n, n)
    assert rotation.dtype == np.float64
    np.testing.assert_allclose(rotation @ rotation.T, np.eye(n), atol=1e-9)


@pytest.mark.parametrize("turn", ROTATIONS)
@given(
    shape=st.tuples(st.integers(1, 12), st.integers(1, 6)),
    seed=st.integers(0, 1000),
    zero=st.integers(0, 12),
    scale=st.sampled_from([1e-12, 1.0, 1e9]),
    normalize=st.booleans(),
)
def test_always_orthogonal(turn, shape, seed, zero, scale, normalize) -> None:
    """Few rows, null rows, one latent, tiny and huge numbers."""
    effects = scale * np.random.default_rng(seed).normal(size=shape)
    effects[:zero] = 0
    before = effects.copy()
    assert_orthogonal(turn(effects, normalize=normalize), shape[1])
    np.testing.assert_array_equal(effects, before)


@pytest.mark.parametrize("seed", range(4))
def test_a_planted_sparse_basis_comes_back(seed: int) -> None:
    true, seen = planted(n_rows=60, n_latent=6, seed=seed)
    assert alignment(true, seen) < 0.8
    assert alignment(true, seen @ sparse_rotation(seen)) > 0.999
    assert alignment(true, seen @ varimax(seen)) > 0.9


@pytest.mark.parametrize("seed", range(3))
def test_noise_and_null_rows_do_not_hide_it(seed: int) -> None:
    true, seen = planted(n_rows=60, n_latent=5, seed=seed, noise=0.05)
    noise = 0.3 * np.random.default_rng(seed).normal(size=(100, 5))
    noisy = np.vstack([seen, noise])
    level = 0.3 * 5**0.5
    assert alignment(true, seen @ sparse_rotation(noisy, noise=3 * level)) > 0.98
    # without the level, null rows are blown up to unit length and outvote the others
    told, untold = (np.abs(noisy[:60] @ sparse_rotation(noisy, noise=value)).sum() for value in (3 * level, 0.0))
    assert told <= untold + 1e-9


@pytest.mark.parametrize("seed", range(3))
def test_fewer_rows_than_latents(seed: int) -> None:
    """Four sparse rows of eight latents: as many axes as they need, the rest stay empty."""
    rng = np.random.default_rng(seed)
    true = np.zeros((4, 8))
    true[np.arange(4), np.arange(4)] = rng.uniform(1, 2, 4)
    seen = true @ scipy.stats.ortho_group.rvs(8, random_state=seed)
    rotated = seen @ sparse_rotation(seen)
    assert ((np.abs(rotated) > 1e-2).sum(1) == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_each_criterion_improves(seed: int) -> None:
    _, seen = planted(n_rows=20, n_latent=5, seed=seed, noise=0.3)
    unit = seen / np.linalg.norm(seen, axis=1, keepdims=True)

    def l1(rotation: np.ndarray) -> float:
        return np.abs(unit @ rotation).sum()

    def spread(rotation: np.ndarray) -> float:
        return ((unit @ rotation) ** 2).var(0).sum()

    best_varimax, best_l1 = varimax(seen), sparse_rotation(seen)
    assert l1(best_l1) <= l1(best_varimax) + 1e-9
    assert l1(best_l1) < l1(np.eye(5))
    assert spread(best_varimax) > spread(np.eye(5))
    rng = np.random.default_rng(seed)
    for _ in range(50):
        # a small turn of any pair does not help: both are local optima
        i, j = rng.choice(5, 2, replace=False)
        angle = rng.choice([-1, 1]) * 0.02
        turn = np.eye(5)
        turn[[i, i, j, j], [i, j, i, j]] = np.cos(angle), np.sin(angle), -np.sin(angle), np.cos(angle)
        assert l1(best_l1 @ turn) > l1(best_l1) - 2e-3
        assert spread(best_varimax @ turn) < spread(best_varimax) + 1e-6


@pytest.mark.parametrize("turn", ROTATIONS)
def test_normalised_rows_vote_alike(turn) -> None:
    _, seen = planted(n_rows=30, n_latent=4, seed=0)
    stretched = seen * np.geomspace(0.1, 100, 30)[:, None]
    np.testing.assert_allclose(turn(stretched), turn(seen), atol=1e-6)
    np.testing.assert_allclose(turn(1e-3 * seen), turn(seen), atol=1e-6)
    assert not np.allclose(turn(stretched, normalize=False), turn(seen, normalize=False), atol=1e-2)


def test_a_start_at_the_optimum_stays() -> None:
    true, seen = planted(n_rows=60, n_latent=4, seed=1)
    best = sparse_rotation(seen)
    start = best.copy()
    np.testing.assert_allclose(sparse_rotation(seen, start=start), best, atol=1e-9)
    np.testing.assert_array_equal(start, best)


@pytest.mark.parametrize("turn", ROTATIONS)
@pytest.mark.parametrize(
    ("effects", "match"),
    [
        (np.ones(3), r"effects: expected a matrix.*\(3,\)"),
        (np.ones((0, 3)), "effects: expected a matrix"),
        (np.ones((3, 0)), "effects: expected a matrix"),
        (np.array([[1.0, np.nan]]), "effects: expected finite"),
        (np.array([[1.0, np.inf]]), "effects: expected finite"),
    ],
)
def test_bad_input(turn, effects, match) -> None:
    with pytest.raises(ValueError, match=match):
        turn(effects)


@pytest.mark.parametrize("start", [np.eye(2), np.ones((3, 3)), np.full((3, 3), np.nan)])
def test_bad_start(start) -> None:
    with pytest.raises(ValueError, match="start: expected an orthogonal matrix of shape"):
        sparse_rotation(np.ones((4, 3)), start=start)
