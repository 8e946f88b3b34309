from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse as sp

from perturbia.stats import dosage_ridge, low_rank_ridge


def screen(seed, *, n_targets=30, n_genes=150, rank=3, noise=0.7):
    """Singles and doubles whose effects span `rank` programmes."""
    rng = np.random.default_rng(seed)
    pairs = rng.permuted(np.tile(np.arange(n_targets), (40, 1)), axis=1)[:, :2]
    dosage = np.vstack([np.eye(n_targets), np.eye(n_targets)[pairs].sum(axis=1)])
    truth = dosage @ rng.normal(size=(n_targets, rank)) @ rng.normal(size=(rank, n_genes)) / np.sqrt(rank)
    return dosage, truth, truth + noise * rng.normal(size=truth.shape)


def test_full_rank_is_ridge():
    dosage, _, effects = screen(0)
    fit = low_rank_ridge(dosage, effects, rank=30, penalty=0.5)
    np.testing.assert_allclose(fit.coefficients, dosage_ridge(dosage, effects, penalty=0.5).coefficients, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2])
def test_solves_the_rank_constrained_problem(rank):
    # Independent solution: minimise over the factors of B = U V by a general optimiser from several starts.
    rng = np.random.default_rng(1)
    dosage, effects, weights = rng.random((9, 4)), rng.normal(size=(9, 5)), rng.uniform(0.5, 2, 9)

    def loss(B):
        return (weights[:, None] * (effects - dosage @ B) ** 2).sum() + 0.3 * (B**2).sum()

    def factors(x):
        return x[: 4 * rank].reshape(4, rank) @ x[4 * rank :].reshape(rank, 5)

    best = min(scipy.optimize.minimize(lambda x: loss(factors(x)), rng.normal(size=9 * rank)).fun for _ in range(6))
    fit = low_rank_ridge(dosage, effects, rank=rank, penalty=0.3, weights=weights)
    assert np.linalg.matrix_rank(fit.coefficients) == rank
    assert loss(fit.coefficients) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_evidence_and_cross_validation_find_the_rank(seed):
    dosage, truth, effects = screen(seed)
    errors = np.full_like(effects, 0.7)
    full = np.mean((dosage_ridge(dosage, effects).predict(dosage) - truth) ** 2)
    for options in ({"rank": "evidence", "standard_errors": errors}, {"rank": "cv"}):
        fit = low_rank_ridge(dosage, effects, **options)
        assert fit.rank == 3
        assert np.mean((fit.predict(dosage) - truth) ** 2) < 0.4 * full


def test_evidence_keeps_the_rank_under_unequal_noise():
    rng = np.random.default_rng(2)
    dosage, truth, _ = screen(2, noise=0.0)
    errors = rng.uniform(0.2, 2, (len(truth), 1)) * rng.uniform(0.2, 2, truth.shape[1])
    effects = truth + errors * rng.normal(size=truth.shape)
    weighted = low_rank_ridge(dosage, effects, standard_errors=errors)
    plain = low_rank_ridge(dosage, effects, rank=3)
    assert weighted.rank == 3
    assert np.mean((weighted.predict(dosage) - truth) ** 2) < 0.6 * np.mean((plain.predict(dosage) - truth) ** 2)


def test_noise_alone_has_rank_zero():
    dosage, _, _ = screen(3)
    noise = np.random.default_rng(4).normal(size=(len(dosage), 150))
    fit = low_rank_ridge(dosage, noise, standard_errors=np.ones_like(noise))
    assert fit.rank == 0
    np.testing.assert_array_equal(fit.predict(dosage), 0)


def test_unit_of_effects_does_not_matter():
    dosage, _, effects = screen(5)
    errors = np.random.default_rng(6).uniform(0.5, 1, effects.shape)
    first = low_rank_ridge(dosage, effects, standard_errors=errors)
    second = low_rank_ridge(dosage, 1000 * effects, standard_errors=1000 * errors)
    assert first.rank == second.rank
    np.testing.assert_allclose(second.coefficients, 1000 * first.coefficients, rtol=1e-8, atol=1e-8)


def test_sparse_doses_and_genes_without_noise():
    dosage, _, effects = screen(7)
    errors = np.full_like(effects, 0.7)
    effects[:, 0], errors[:, 0], errors[5, 1] = 0.0, 0.0, 0.0
    dense = low_rank_ridge(dosage, effects, standard_errors=errors)
    sparse = low_rank_ridge(sp.csr_matrix(dosage), effects, standard_errors=errors)
    assert dense.rank == 3
    np.testing.assert_allclose(sparse.coefficients, dense.coefficients, atol=1e-10)
    np.testing.assert_allclose(dense.coefficients[:, 0], 0, atol=1e-10)


def test_evidence_penalty_is_the_noise_to_signal_ratio():
    rng = np.random.default_rng(8)
    dosage, _, _ = screen(8)
    truth = dosage @ rng.normal(0, 0.5, size=(30, 400))
    errors = np.broadcast_to(rng.uniform(0.5, 2, 400), truth.shape)
    fit = low_rank_ridge(
        dosage, (truth + rng.normal(size=truth.shape)) * errors, rank=30, penalty="evidence", standard_errors=errors
    )
    assert fit.penalty == pytest.approx(1 / 0.5**2, rel=0.05)


def test_max_rank_limits_the_choice():
    dosage, _, effects = screen(0)
    assert low_rank_ridge(dosage, effects, rank="cv", max_rank=2).rank == 2


D, Y = np.eye(3), np.arange(12.0).reshape(3, 4)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "standard_errors: expected an array for rank or penalty 'evidence', got None"),
        ({"rank": 4}, "rank: expected an integer from 0 to 3"),
        ({"rank": -1}, "rank: expected an integer from 0 to 3"),
        ({"rank": 1.5}, "rank: expected an integer"),
        ({"rank": "best"}, "rank: expected an integer"),
        ({"rank": "cv", "max_rank": 9}, "max_rank: expected an integer from 0 to 3"),
        ({"rank": "cv", "n_folds": 3}, "expected left-out perturbations whose targets occur in others"),
        ({"rank": "cv", "n_folds": 1}, "n_folds: expected 2 to 3"),
        ({"rank": 1, "standard_errors": np.ones((2, 4))}, "standard_errors: expected the shape of effects"),
        ({"rank": 1, "standard_errors": np.zeros((3, 4))}, "standard_errors: expected a positive entry in every row"),
        ({"rank": 1, "standard_errors": np.ones((3, 4)), "weights": np.ones(3)}, "weights: expected None"),
        ({"rank": 1, "penalty": -1.0}, "penalty: expected"),
        ({"rank": 1, "penalty": "evidence"}, "standard_errors: expected an array"),
        ({"rank": 1, "penalty": "best"}, "penalty: expected a number or 'evidence', got 'best'"),
    ],
)
def test_bad_input(options, match):
    with pytest.raises(ValueError, match=match):
        low_rank_ridge(D, Y, **options)
