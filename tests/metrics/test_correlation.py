from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from perturbia.metrics import effect_correlation, top_gene_correlation, top_genes


@pytest.fixture
def effects():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(6, 40))
    return truth, 0.5 * truth + rng.normal(size=truth.shape)


def test_flattened_matches_scipy(effects):
    truth, prediction = effects
    expected = scipy.stats.pearsonr(truth.ravel(), prediction.ravel()).statistic
    assert effect_correlation(truth, prediction) == pytest.approx(expected, abs=1e-12)


def test_rows_match_scipy(effects):
    truth, prediction = effects
    expected = [scipy.stats.pearsonr(a, b).statistic for a, b in zip(truth, prediction, strict=True)]
    np.testing.assert_allclose(effect_correlation(truth, prediction, per_perturbation=True), expected, atol=1e-12)


def test_float32_agrees_with_float64(effects):
    truth, prediction = effects
    single = effect_correlation(truth.astype(np.float32), prediction.astype(np.float32))
    assert single == pytest.approx(effect_correlation(truth, prediction), abs=1e-6)


def test_ignores_scale_shift_and_order(effects):
    truth, prediction = effects
    order = np.random.default_rng(1).permutation(truth.shape[1])
    changed = effect_correlation(truth[::-1][:, order], 3 * prediction[::-1][:, order] + 7)
    assert changed == pytest.approx(effect_correlation(truth, prediction), abs=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, -3.7e5])
def test_constant_prediction_scores_zero(effects, value):
    truth, _ = effects
    prediction = np.full_like(truth, value)
    assert effect_correlation(truth, prediction) == 0.0
    np.testing.assert_array_equal(effect_correlation(truth, prediction, per_perturbation=True), 0.0)


def test_constant_row_of_truth_is_nan_with_warning(effects):
    truth, prediction = effects
    truth[2] = 0.3
    with pytest.warns(RuntimeWarning, match="constant for 1 perturbations"):
        scores = effect_correlation(truth, prediction, per_perturbation=True)
    np.testing.assert_array_equal(np.isnan(scores), np.arange(6) == 2)


def test_top_genes_sorts_by_size_and_breaks_ties_by_position():
    np.testing.assert_array_equal(
        top_genes(np.array([[1.0, -5.0, 2.0, -1.0], [3.0, 3.0, -3.0, 0.0]]), k=3)[0], [1, 2, 0]
    )
    np.testing.assert_array_equal(top_genes(np.array([[3.0, 3.0, -3.0, 0.0]]), k=2), [[0, 1]])


def test_top_gene_correlation_matches_brute_force(effects):
    truth, prediction = effects
    selection = np.random.default_rng(2).normal(size=truth.shape)
    chosen = [sorted(range(truth.shape[1]), key=lambda g, row=row: -abs(selection[row, g]))[:5] for row in range(6)]
    a = [truth[row, genes] for row, genes in enumerate(chosen)]
    b = [prediction[row, genes] for row, genes in enumerate(chosen)]
    flat = scipy.stats.pearsonr(np.ravel(a), np.ravel(b)).statistic
    assert top_gene_correlation(truth, prediction, selection=selection, k=5) == pytest.approx(flat, abs=1e-12)
    rows = top_gene_correlation(truth, prediction, selection=selection, k=5, per_perturbation=True)
    np.testing.assert_allclose(
        rows, [scipy.stats.pearsonr(x, y).statistic for x, y in zip(a, b, strict=True)], atol=1e-12
    )


def test_all_genes_selected_is_plain_correlation(effects):
    truth, prediction = effects
    assert top_gene_correlation(truth, prediction, selection=truth, k=40) == pytest.approx(
        effect_correlation(truth, prediction), abs=1e-12
    )


def test_selection_on_the_scored_effects_flatters_an_overfitted_prediction():
    # No effect at all: a copy of the training noise must not correlate with independent test noise.
    rng = np.random.default_rng(3)
    train, test, other = rng.normal(size=(3, 50, 500))
    honest = top_gene_correlation(test, train, selection=other, k=20)
    winner = top_gene_correlation(test, test + train, selection=test, k=20)
    assert abs(honest) < 0.1
    assert winner > effect_correlation(test, test + train) + 0.1


GOOD = np.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("truth", "prediction", "match"),
    [
        (GOOD, GOOD[:, :2], "prediction: expected the shape of truth"),
        (GOOD.ravel(), GOOD.ravel(), "truth: expected a two-dimensional"),
        (np.empty((0, 3)), np.empty((0, 3)), "truth: expected at least 1 row"),
        (GOOD[:, :1], GOOD[:, :1], "at least 1 row.s. and 2 column"),
        (np.where(GOOD == 1, np.nan, GOOD), GOOD, "truth: expected finite numbers, got 1 NaN"),
        (GOOD, np.where(GOOD == 1, np.inf, GOOD), "prediction: expected finite"),
        (np.ones((2, 3)), GOOD, "truth: expected effects that vary"),
        (GOOD.astype(str), GOOD, "truth: expected real numbers"),
    ],
)
@pytest.mark.parametrize("per_perturbation", [False, True])
def test_bad_input(truth, prediction, match, per_perturbation):
    with pytest.raises(ValueError, match=match):
        effect_correlation(truth, prediction, per_perturbation=per_perturbation)


@pytest.mark.parametrize(
    ("selection", "k", "match"),
    [
        (GOOD, 4, "k: expected 1 to 3"),
        (GOOD, 1, "k: expected at least 2"),
        (GOOD[:1], 2, "selection: expected the shape of truth"),
        (GOOD * np.nan, 2, "selection: expected finite"),
    ],
)
def test_bad_selection(selection, k, match):
    with pytest.raises(ValueError, match=match):
        top_gene_correlation(GOOD, GOOD, selection=selection, k=k)
