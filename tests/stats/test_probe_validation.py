"""Nested validation equals loops over folds, penalties and blocks, and is not optimistic."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import RidgeClassifier
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from perturbia.stats.grouped_folds import fold_support, spread_folds
from perturbia.stats.linear_probe import LogisticProbe, NeighbourProbe, RidgeProbe
from perturbia.stats.probe_validation import choose_block, earliest_good, validate_block

PENALTIES = (100.0, 1.0, 1e-2)


def plates(seed: int = 0, *, d: int = 8, n_labels: int = 5, n_plates: int = 9, strength: float = 1.0):
    """Labels of unequal number, not all on every plate; plates have an offset."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n_plates), rng.integers(8, 20, n_plates))
    codes = np.minimum(rng.geometric(0.35, len(groups)) - 1, n_labels - 1)
    X = strength * rng.normal(size=(n_labels, d))[codes] + rng.normal(size=(n_plates, d))[groups]
    return (X + rng.normal(size=X.shape)), codes, groups


def by_loop(X, codes, train, test, *, balanced):
    """Score of every penalty by scikit-learn."""
    Y, y = X[train], codes[train]
    known = np.isin(codes[test], y)
    T, t = X[test][known], codes[test][known]
    counts = np.bincount(y)
    weights = (len(y) / ((counts > 0).sum() * np.maximum(counts, 1)))[y] if balanced else np.ones(len(y))
    centred = Y - np.average(Y, axis=0, weights=weights)
    eigenvalues = np.linalg.svd(centred * np.sqrt(weights)[:, None], compute_uv=False) ** 2
    unit = (eigenvalues**2).sum() / eigenvalues.sum()
    scores = []
    for penalty in PENALTIES:
        model = RidgeClassifier(alpha=penalty * unit, class_weight="balanced" if balanced else None, solver="svd")
        guess = model.fit(Y, y).predict(T)
        truly = np.mean([(guess[t == one] == one).mean() for one in np.unique(t)])
        if set(guess) <= set(t):  # else scikit-learn warns of labels that are guessed and not there
            assert balanced_accuracy_score(t, guess) == pytest.approx(truly)
        scores.append(truly if balanced else accuracy_score(t, guess))
    return scores


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize("d", [8, 400])
def test_every_fold_and_pair_of_folds_is_scored_as_by_a_loop(balanced, d):
    X, codes, groups = plates(d=d)
    folds = spread_folds(codes, groups, n_folds=4)
    found = validate_block(X, codes, folds, probe=RidgeProbe(PENALTIES), balanced=balanced)
    assert found.outer.shape == (4, 3)
    assert found.inner.shape == (4, 4, 3)
    for k in range(4):
        np.testing.assert_allclose(found.outer[k], by_loop(X, codes, folds != k, folds == k, balanced=balanced))
        assert np.isnan(found.inner[k, k]).all()
        for j in set(range(4)) - {k}:
            expected = by_loop(X, codes, (folds != k) & (folds != j), folds == j, balanced=balanced)
            np.testing.assert_allclose(found.inner[k, j], expected)
    assert found.seconds > 0


def test_labels_that_a_fit_has_not_seen_are_not_scored():
    rng = np.random.default_rng(0)
    codes = np.array([0, 1, 2, 0, 1, 2, 0, 1, 3, 0, 1, 3])  # 2 is lost without folds 0 and 1, 3 without 2 and 3
    folds = np.repeat(np.arange(4), 3)
    X = 10 * np.eye(4)[codes] + 0.01 * rng.normal(size=(12, 4))
    found = validate_block(X, codes, folds, probe=RidgeProbe((1e-3,)))
    np.testing.assert_allclose(found.outer, 1.0)
    np.testing.assert_allclose(found.inner[~np.eye(4, dtype=bool)], 1.0)
    alone = validate_block(X[:6], codes[:6], np.repeat([0, 1, 2], 2), probe=RidgeProbe((1.0,)))
    support = fold_support(codes[:6], np.repeat([0, 1, 2], 2), balanced=True)
    np.testing.assert_array_equal(np.isnan(alone.outer[:, 0]), ~support.outer)
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_array_equal(np.isnan(alone.inner[off][:, 0]), ~support.inner[off])


@pytest.mark.parametrize(
    "probe",
    [RidgeProbe(PENALTIES), NeighbourProbe((5, 1)), LogisticProbe((1.0, 0.1))],
    ids=["ridge", "knn", "logistic"],
)
def test_many_features_are_but_a_rotation(probe):
    X, codes, groups = plates(d=6)
    folds = spread_folds(codes, groups, n_folds=3)
    wide = X @ np.linalg.qr(np.random.default_rng(1).normal(size=(500, 6)))[0].T
    few = validate_block(X, codes, folds, probe=probe, n_components=4)
    many = validate_block(wide, codes, folds, probe=probe, n_components=4)
    np.testing.assert_allclose(many.outer, few.outer, atol=0.02 if isinstance(probe, LogisticProbe) else 1e-9)


def test_order_of_rows_and_precision_do_not_matter():
    X, codes, groups = plates()
    folds = spread_folds(codes, groups, n_folds=4)
    order = np.random.default_rng(0).permutation(len(codes))
    expected = validate_block(X, codes, folds, probe=RidgeProbe(PENALTIES))
    moved = validate_block(X[order].astype(np.float32), codes[order], folds[order], probe=RidgeProbe(PENALTIES))
    np.testing.assert_allclose(moved.inner, expected.inner)
    np.testing.assert_allclose(moved.outer, expected.outer)


scores = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(rng=scores, rule=st.sampled_from(["one_se", "best"]))
def test_choice_is_that_of_a_loop_and_never_above_the_naive_one(rng, rule):
    n_blocks, n_folds, n_settings = rng.integers(1, 6), rng.integers(3, 6), rng.integers(1, 5)
    # few distinct values, so that ties are common
    outer = rng.integers(0, 6, (n_blocks, n_folds, n_settings)) / 5
    inner = rng.integers(0, 6, (n_blocks, n_folds, n_folds, n_settings)) / 5
    inner[:, np.arange(n_folds), np.arange(n_folds)] = np.nan
    found = choose_block(outer, inner, rule=rule)
    for k in range(n_folds):
        others = [j for j in range(n_folds) if j != k]
        table = []
        for b in range(n_blocks):
            means = [np.round(np.mean([inner[b, k, j, s] for j in others]), 12) for s in range(n_settings)]
            best = means.index(max(means))
            assert found.setting[b, k] == best
            assert found.score[b, k] == outer[b, k, best]
            assert found.naive[b, k] == outer[b, k].max()
            table.append([inner[b, k, j, best] for j in others])
        assert found.nested_block[k] == earliest_good(np.array(table), rule)
        assert found.nested[k] == found.score[found.nested_block[k], k]
        assert found.naive_best[k] == outer[:, k].max()
    assert found.selected == earliest_good(found.score, rule)
    assert (found.score <= found.naive).all()
    assert (found.nested <= found.naive_best).all()


@pytest.mark.parametrize(
    ("table", "rule", "expected"),
    [
        ([[0.1, 0.1], [0.5, 0.7], [0.55, 0.75]], "best", 2),
        ([[0.1, 0.1], [0.5, 0.7], [0.55, 0.75]], "one_se", 1),  # 0.60 against 0.65 - 0.10
        ([[0.1, 0.1], [0.5, 0.7], [0.75, 0.75]], "one_se", 2),  # no spread, no allowance
        ([[0.5, 0.5], [0.5, 0.5]], "best", 0),
        ([[0.2], [0.5]], "one_se", 1),
        ([[0.2, np.nan, 0.2], [0.5, np.nan, 0.5]], "one_se", 1),
    ],
)
def test_earliest_good(table, rule, expected):
    assert earliest_good(np.array(table), rule) == expected


def test_without_signal_the_nested_score_is_at_chance_and_the_naive_one_above():
    nested, naive = [], []
    for seed in range(40):
        X, codes, groups = plates(seed, d=24, n_labels=3, strength=0.0)
        folds = spread_folds(codes, groups, n_folds=3, seed=seed)
        own = [validate_block(X[:, 4 * b : 4 * b + 4], codes, folds, probe=RidgeProbe(PENALTIES)) for b in range(6)]
        choice = choose_block(np.stack([one.outer for one in own]), np.stack([one.inner for one in own]), rule="best")
        nested.append(choice.nested.mean())
        naive.append(choice.naive_best.mean())
    error = np.std(nested, ddof=1) / np.sqrt(len(nested))
    assert abs(np.mean(nested) - 1 / 3) < 3 * error
    assert np.mean(naive) > 1 / 3 + 5 * error
