from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.linear_model import Ridge

from perturbia.stats import dosage_ridge, group_means


@pytest.fixture
def cells():
    """Cells of controls, singles and doubles, with 5 targets and doses."""
    rng = np.random.default_rng(0)
    design = np.vstack([np.zeros((1, 5)), np.eye(5), np.eye(5)[:3] + np.eye(5)[2:], 0.5 * np.eye(5)[:1]])
    group = rng.integers(len(design), size=600)
    D = design[group]
    Y = 1.0 + D @ rng.normal(size=(5, 8)) + rng.normal(size=(600, 8))
    return D, np.where(np.abs(Y) > 0.5, Y, 0.0), design, group


@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("penalty", [0.0, 0.1, 30.0])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csr_array])
def test_matches_sklearn(cells, fit_intercept, penalty, weighted, container):
    D, Y, _, _ = cells
    weights = np.random.default_rng(1).uniform(0.5, 2, len(D)) if weighted else None
    oracle = Ridge(alpha=penalty, fit_intercept=fit_intercept, solver="cholesky").fit(D, Y, sample_weight=weights)
    fit = dosage_ridge(container(D), container(Y), penalty=penalty, weights=weights, fit_intercept=fit_intercept)
    np.testing.assert_allclose(fit.coefficients, oracle.coef_.T, atol=1e-9)
    np.testing.assert_allclose(fit.intercept, oracle.intercept_, atol=1e-9)
    np.testing.assert_allclose(fit.predict(container(D[:7])), oracle.predict(D[:7]), atol=1e-9)


@pytest.mark.parametrize("fit_intercept", [True, False])
def test_weighted_group_means_equal_cells(cells, fit_intercept):
    D, Y, design, group = cells
    moments = group_means(Y, group)
    by_cell = dosage_ridge(D, Y, penalty=2.0, fit_intercept=fit_intercept)
    by_group = dosage_ridge(
        design[moments.groups], moments.mean, weights=moments.count, penalty=2.0, fit_intercept=fit_intercept
    )
    np.testing.assert_allclose(by_group.coefficients, by_cell.coefficients, atol=1e-10)
    np.testing.assert_allclose(by_group.intercept, by_cell.intercept, atol=1e-10)


def test_prediction_of_a_combination_is_additive(cells):
    D, Y, _, _ = cells
    fit = dosage_ridge(D, Y, fit_intercept=False)
    single = fit.predict(np.eye(5))
    np.testing.assert_allclose(fit.predict(np.array([[1.0, 1, 0, 0, 0]]))[0], single[0] + single[1])


def test_target_without_dose_gets_no_effect(cells):
    D, Y, _, _ = cells
    fit = dosage_ridge(np.column_stack([D, np.zeros(len(D))]), Y)
    np.testing.assert_array_equal(fit.coefficients[5], 0)


def test_order_of_rows_and_targets_does_not_matter(cells):
    D, Y, _, _ = cells
    rows, targets = np.random.default_rng(2).permutation(len(D)), [3, 1, 4, 0, 2]
    fit = dosage_ridge(D[rows][:, targets], Y[rows])
    np.testing.assert_allclose(fit.coefficients, dosage_ridge(D, Y).coefficients[targets], atol=1e-10)


def test_repr_says_what_it_holds():
    assert repr(dosage_ridge(np.eye(2), np.eye(2))) == "DosageFit: 2 targets x 2 genes, penalty 0.1"


@pytest.mark.parametrize(
    ("dosage", "responses", "options", "match"),
    [
        (np.eye(3), np.eye(2), {}, "responses: expected the 3 rows of dosage"),
        (np.eye(3), np.eye(3) * np.nan, {}, "responses: expected finite"),
        (np.eye(3)[0], np.eye(3), {}, "dosage: expected a two-dimensional"),
        (np.eye(3), np.eye(3), {"penalty": -1}, "penalty: expected a finite number >= 0"),
        (np.ones((3, 2)), np.eye(3), {"penalty": 0}, "the doses of 2 targets have rank 1"),
        (np.eye(3), np.eye(3), {"weights": [1, 2]}, "weights: expected shape .3,."),
        (np.eye(3), np.eye(3), {"weights": [1, 0, 1]}, "weights: expected numbers > 0"),
    ],
)
def test_bad_input(dosage, responses, options, match):
    with pytest.raises(ValueError, match=match):
        dosage_ridge(dosage, responses, **options)


def test_predict_refuses_other_targets():
    with pytest.raises(ValueError, match="dosage: expected 3 targets as in the fit, got 2"):
        dosage_ridge(np.eye(3), np.eye(3)).predict(np.eye(2))
