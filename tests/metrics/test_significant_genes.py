from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from perturbia.metrics import (
    de_recall,
    de_spearman_lfc,
    de_spearman_significant,
    direction_match,
    overlap_at_n,
)


@pytest.fixture
def tables():
    """Fold changes and rates of both sides; the second perturbation has no significant gene on either side."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(7, 60)) * rng.uniform(0.5, 2.0, size=(7, 1))
    prediction = 0.6 * truth + 0.6 * rng.normal(size=truth.shape)
    rates = [
        np.minimum(1.0, np.exp(-3 * np.abs(lfc)) * rng.uniform(0.2, 3.0, lfc.shape)) for lfc in (truth, prediction)
    ]
    for fdr in rates:
        fdr[1] = 0.5
    return truth, rates[0], prediction, rates[1]


def top(lfc, fdr, n):
    called = [g for g in range(len(lfc)) if fdr[g] < 0.05]
    return sorted(called, key=lambda g: -abs(lfc[g]))[:n]


@pytest.mark.parametrize(("n", "size"), list(itertools.product([None, 3, 1000], ["truth", "prediction"])))
def test_overlap_matches_sets(tables, n, size):
    truth, truth_fdr, prediction, prediction_fdr = tables
    expected = []
    for row in range(len(truth)):
        sides = [top(lfc[row], fdr[row], None) for lfc, fdr in ((truth, truth_fdr), (prediction, prediction_fdr))]
        k = len(sides[size == "prediction"])
        k = k if n is None else min(n, k)
        expected.append(len(set(sides[0][:k]) & set(sides[1][:k])) / k if k else 0.0)
    ours = overlap_at_n(*tables, n=n, size=size, per_perturbation=True)
    np.testing.assert_allclose(ours, expected)
    assert ours[1] == 0.0
    assert 0.1 < ours.mean() < 0.95
    assert overlap_at_n(*tables, n=n, size=size) == pytest.approx(ours.mean())


def test_ties_at_the_edge_are_shared_or_taken_in_order():
    fdr = np.full((1, 4), 0.01)
    truth_fdr = np.array([[0.01, 0.01, 0.9, 0.9]])
    lfc, infinite = np.array([[3.0, 2.0, 1.0, 0.5]]), np.array([[-np.inf, np.inf, np.inf, 0.5]])
    assert overlap_at_n(lfc, truth_fdr, infinite, fdr) == pytest.approx(2 / 3)  # two of three places, two wanted genes
    assert overlap_at_n(lfc, truth_fdr, infinite, fdr, ties="first") == 1.0
    assert overlap_at_n(lfc, truth_fdr, infinite[:, ::-1], fdr, ties="first") == 0.5


def test_recall_matches_sets(tables):
    _, truth_fdr, _, prediction_fdr = tables
    with pytest.warns(RuntimeWarning, match="no gene is significant for 1 of 7"):
        ours = de_recall(truth_fdr, prediction_fdr, per_perturbation=True)
    for row in (0, 2, 3, 4, 5, 6):
        called, guessed = (set(np.flatnonzero(fdr[row] < 0.05)) for fdr in (truth_fdr, prediction_fdr))
        assert ours[row] == pytest.approx(len(called & guessed) / len(called))
    assert np.isnan(ours[1])
    with pytest.warns(RuntimeWarning, match="left out of the mean"):
        assert de_recall(truth_fdr, prediction_fdr) == pytest.approx(np.nanmean(ours))


def test_direction_matches_signs(tables):
    truth, truth_fdr, prediction, _ = tables
    mask = truth_fdr < 0.05
    with pytest.warns(RuntimeWarning, match="no gene is significant for 1 of 7"):
        ours = direction_match(truth, prediction, significant=mask, per_perturbation=True)
    for row in (0, 2, 3, 4, 5, 6):
        assert ours[row] == np.mean(truth[row, mask[row]] * prediction[row, mask[row]] > 0)
    assert direction_match(truth, 0 * truth, significant=np.ones_like(mask)) == 0.0
    assert direction_match(truth, -truth, significant=np.ones_like(mask)) == 0.0


def test_spearman_of_fold_changes_matches_scipy(tables):
    truth, truth_fdr, prediction, _ = tables
    truth[0, :2], prediction[0, 1:3] = [np.inf, -np.inf], np.inf
    truth_fdr[0, :4] = 0.001
    prediction = np.round(prediction, 1)  # ties
    with pytest.warns(RuntimeWarning, match="fewer than two significant genes differ for 1 of 7"):
        ours = de_spearman_lfc(truth, truth_fdr, prediction, per_perturbation=True)
    for row in (0, 2, 3, 4, 5, 6):
        mask = truth_fdr[row] < 0.05
        assert ours[row] == pytest.approx(scipy.stats.spearmanr(truth[row, mask], prediction[row, mask]).statistic)


def test_constant_fold_changes_score_zero(tables):
    truth, truth_fdr, _, _ = tables
    kept = np.arange(7) != 1
    assert de_spearman_lfc(truth[kept], truth_fdr[kept], np.full((6, 60), 0.1)) == 0.0


def test_spearman_of_counts_matches_scipy(tables):
    _, truth_fdr, _, prediction_fdr = tables
    prediction_fdr[1, :40] = 0.001  # false calls where nothing happens
    counts = [(fdr < 0.05).sum(axis=1) for fdr in (truth_fdr, prediction_fdr)]
    kept = counts[0] > 0
    expected = scipy.stats.spearmanr(counts[0][kept], counts[1][kept]).statistic
    assert de_spearman_significant(truth_fdr, prediction_fdr) == pytest.approx(expected)
    everything = de_spearman_significant(truth_fdr, prediction_fdr, perturbations="all")
    assert everything == pytest.approx(scipy.stats.spearmanr(*counts).statistic)
    assert everything < expected
    assert de_spearman_significant(truth_fdr, np.ones_like(truth_fdr)) == 0.0


LFC, FDR = np.array([[1.0, -2.0, 0.5], [0.1, 3.0, 1.0]]), np.array([[0.01, 0.01, 0.9], [0.9, 0.01, 0.02]])


@pytest.mark.parametrize(
    ("changed", "options", "match"),
    [
        ({0: LFC * np.nan}, {}, "truth_lfc: expected finite"),
        ({0: np.where(LFC == 1.0, np.inf, np.where(LFC == 0.1, np.nan, LFC))}, {}, "truth_lfc: expected finite"),
        ({2: LFC[:1]}, {}, "prediction_lfc: expected the shape of truth_lfc"),
        ({1: -np.log10(FDR)}, {}, r"truth_fdr: expected false discovery rates in \[0, 1\]"),
        ({3: np.where(FDR == 0.9, np.nan, FDR)}, {}, "prediction_fdr: expected finite"),
        ({}, {"alpha": 0}, "alpha: expected"),
        ({}, {"n": 0}, "n: expected None or at least 1"),
        ({}, {"size": "both"}, "size: expected one of"),
        ({}, {"ties": "random"}, "ties: expected one of"),
    ],
)
def test_bad_overlap(changed, options, match):
    tables = [changed.get(i, table) for i, table in enumerate((LFC, FDR, LFC, FDR))]
    with pytest.raises(ValueError, match=match):
        overlap_at_n(*tables, **options)


def test_bad_rates_and_masks():
    with pytest.raises(ValueError, match="significant: expected a boolean mask"):
        direction_match(LFC, LFC, significant=FDR)
    with pytest.raises(ValueError, match="significant: expected the shape of truth"):
        direction_match(LFC, LFC, significant=FDR[:1] < 0.05)
    with pytest.raises(ValueError, match="no gene is significant in every row"):
        direction_match(LFC, LFC, significant=FDR < 0)
    with pytest.raises(ValueError, match="no gene is significant in every row"):
        de_recall(np.ones((2, 3)), FDR)
    with pytest.raises(ValueError, match="prediction_fdr: expected the shape"):
        de_recall(FDR, FDR[:1])
    with pytest.raises(ValueError, match="fewer than two significant genes differ"):
        de_spearman_lfc(LFC, np.ones((2, 3)), LFC)
    with pytest.raises(ValueError, match="differ in their number of significant genes"):
        de_spearman_significant(FDR, FDR)
    with pytest.raises(ValueError, match="differ in their number of significant genes"):
        de_spearman_significant(np.ones((2, 3)), FDR)
