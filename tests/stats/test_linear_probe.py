"""Probes are the classifiers of scikit-learn, fitted once for all settings."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier

from perturbia.errors import ConvergenceWarning
from perturbia.stats import linear_probe
from perturbia.stats.linear_probe import LogisticProbe, NeighbourProbe, RidgeProbe, training_space

PENALTIES = (100.0, 1.0, 1e-2, 1e-4)


def rows(
    n: int, d: int, n_labels: int, *, seed: int = 0, even: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Training rows with correlated features and labels of unequal number, and test rows."""
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % n_labels if even else np.minimum(rng.geometric(0.4, n) - 1, n_labels - 1)
    codes[:n_labels] = np.arange(n_labels)
    mixing = rng.normal(size=(d, d)) * np.exp(-np.arange(d) / d * 4)[:, None]
    centres = rng.normal(size=(n_labels, d))
    return (
        (centres[codes] + rng.normal(size=(n, d))) @ mixing + 3,
        codes,
        (rng.normal(size=(150, d)) * 1.5) @ mixing + 3,
    )


def weights_of(codes: np.ndarray, *, balanced: bool) -> np.ndarray:
    counts = np.bincount(codes)
    return (len(codes) / (len(counts) * counts))[codes] if balanced else np.ones(len(codes))


def scatter_of(X: np.ndarray, weights: np.ndarray) -> np.ndarray:
    centred = X - np.average(X, axis=0, weights=weights)
    return (centred * weights[:, None]).T @ centred


def unit_of(scatter: np.ndarray) -> float:
    """Sum of squared eigenvalues over their sum."""
    return float((scatter**2).sum() / np.trace(scatter))


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(("n", "d", "n_labels"), [(80, 10, 5), (80, 10, 2), (25, 60, 4)])
def test_ridge_is_the_ridge_classifier_at_every_penalty(n, d, n_labels, balanced):
    X, codes, test = rows(n, d, n_labels)
    weights = weights_of(codes, balanced=balanced)
    unit = unit_of(scatter_of(X, weights))
    found = RidgeProbe(PENALTIES).fit(X, codes, n_components=None, balanced=balanced)(test)
    assert found.shape == (150, 4)
    for column, penalty in zip(found.T, PENALTIES, strict=True):
        oracle = RidgeClassifier(alpha=penalty * unit, class_weight="balanced" if balanced else None, solver="svd")
        np.testing.assert_array_equal(column, oracle.fit(X, codes).predict(test))
    assert len(np.unique(found)) == n_labels


def test_components_are_the_weighted_principal_axes_of_the_training_rows():
    X, codes, test = rows(90, 12, 4)
    weights = weights_of(codes, balanced=True)
    scatter = scatter_of(X, weights)
    values, vectors = np.linalg.eigh(scatter)
    axes = vectors[:, ::-1][:, :5]
    found = RidgeProbe(PENALTIES).fit(X, codes, n_components=5, balanced=True)(test)
    for column, penalty in zip(found.T, PENALTIES, strict=True):
        oracle = RidgeClassifier(alpha=penalty * unit_of(scatter), class_weight="balanced", solver="svd")
        np.testing.assert_array_equal(column, oracle.fit(X @ axes, codes).predict(test @ axes))
    space = training_space(X, codes, n_components=5)
    np.testing.assert_allclose(space.scatter, values[::-1][:5])
    np.testing.assert_allclose(space.axes.T @ space.axes, np.eye(5), atol=1e-12)
    np.testing.assert_allclose(space.shares, 0.25)


@pytest.mark.parametrize("n_labels", [2, 4])
def test_logistic_is_the_logistic_regression_at_every_penalty(n_labels):
    X, codes, test = rows(120, 8, n_labels)
    penalties = (1.0, 0.1, 0.01)
    weights = weights_of(codes, balanced=True)
    centre = np.average(X, axis=0, weights=weights)
    scale = np.sqrt(unit_of(scatter_of(X, weights)) / 120)
    found = LogisticProbe(penalties).fit(X, codes, n_components=None, balanced=True)(test)
    for column, penalty in zip(found.T, penalties, strict=True):
        oracle = LogisticRegression(C=1 / (penalty * 120), class_weight="balanced", max_iter=5000, tol=1e-8)
        oracle.fit((X - centre) / scale, codes)
        assert (column == oracle.predict((test - centre) / scale)).mean() > 0.98
    assert len(np.unique(found)) == n_labels


def test_logistic_says_when_it_does_not_converge():
    X, codes, _ = rows(60, 8, 3)
    with pytest.warns(ConvergenceWarning, match="penalties: a logistic probe stopped after 2 steps"):
        LogisticProbe((1e-6,), max_iter=2).fit(X, codes, n_components=None, balanced=True)


def test_neighbours_are_those_of_scikit_learn():
    X, codes, test = rows(90, 6, 3, even=True)
    sizes = (30, 5, 1)
    for balanced in (True, False):
        found = NeighbourProbe(sizes).fit(X, codes, n_components=None, balanced=balanced)(test)
        for column, k in zip(found.T, sizes, strict=True):
            oracle = KNeighborsClassifier(k).fit(X, codes)
            shares = np.sort(oracle.predict_proba(test), axis=1)
            clear = shares[:, -1] > shares[:, -2]  # of equal votes, scikit-learn takes the first label
            np.testing.assert_array_equal(column[clear], oracle.predict(test)[clear])
            assert clear.mean() > 0.8


def test_votes_of_frequent_labels_weigh_less():
    X, codes, test = rows(100, 4, 4, seed=3)
    weights = 1 / np.bincount(codes)
    found = NeighbourProbe((9,)).fit(X, codes, n_components=None, balanced=True)(test)
    expected = []
    for row in test:
        near = codes[np.argsort(((X - row) ** 2).sum(1))[:9]]
        expected.append(np.argmax([weights[code] * (near == code).sum() for code in range(4)]))
    np.testing.assert_array_equal(found[:, 0], expected)
    plain = NeighbourProbe((9,)).fit(X, codes, n_components=None, balanced=False)(test)
    assert (plain != found).any()


def test_no_more_neighbours_are_asked_than_there_are():
    X, codes, test = rows(12, 3, 3, even=True)
    found = NeighbourProbe((50, 12)).fit(X, codes, n_components=None, balanced=True)(test)
    np.testing.assert_array_equal(found[:, 0], found[:, 1])


@pytest.mark.parametrize(
    "probe",
    [RidgeProbe(PENALTIES), LogisticProbe((1.0, 0.1)), NeighbourProbe((7, 3))],
    ids=["ridge", "logistic", "knn"],
)
class TestEveryProbe:
    def test_scale_shift_and_rotation_of_features_do_not_matter(self, probe):
        X, codes, test = rows(80, 6, 4)
        rotation = np.linalg.qr(np.random.default_rng(5).normal(size=(6, 6)))[0]
        expected = probe.fit(X, codes, n_components=4, balanced=True)(test)
        moved = probe.fit(1e4 * X @ rotation + 7, codes, n_components=4, balanced=True)(1e4 * test @ rotation + 7)
        assert (moved == expected).mean() > 0.99  # logistic regressions stop at a tolerance

    def test_constant_features_know_one_label_only(self, probe):
        found = probe.fit(np.ones((9, 3)), np.arange(9) % 3, n_components=None, balanced=True)(np.ones((4, 3)))
        np.testing.assert_array_equal(found, np.zeros((4, len(probe.settings))))

    def test_blocks_of_rows_change_nothing(self, probe, monkeypatch):
        X, codes, test = rows(80, 6, 4)
        whole = probe.fit(X, codes, n_components=None, balanced=True)(test)
        monkeypatch.setattr(linear_probe, "_BLOCK_ENTRIES", 100)
        np.testing.assert_array_equal(probe.fit(X, codes, n_components=None, balanced=True)(test), whole)

    def test_codes_of_labels_come_back_where_some_are_missing(self, probe):
        X, codes, test = rows(60, 5, 3)
        found = probe.fit(X, np.array([2, 5, 9])[codes], n_components=None, balanced=True)(test)
        expected = probe.fit(X, codes, n_components=None, balanced=True)(test)
        np.testing.assert_array_equal(found, np.array([2, 5, 9])[expected])


@pytest.mark.parametrize("balanced", [True, False])
def test_equal_votes_go_to_the_label_of_the_nearest_row_whatever_it_is_called(balanced):
    X, codes, test = rows(60, 3, 4, even=True)
    sizes = (6, 4, 2)
    fitted = NeighbourProbe(sizes).fit(X, codes, n_components=None, balanced=balanced)(test)
    for column, k in zip(fitted.T, sizes, strict=True):
        near = codes[np.argsort(((X - test[:, None]) ** 2).sum(axis=2), axis=1)[:, :k]]
        expected = [max(row.tolist(), key=row.tolist().count) for row in near]  # max takes the first of equals
        np.testing.assert_array_equal(column, expected)
    renamed = np.array([3, 0, 2, 1])
    other = NeighbourProbe(sizes).fit(X, renamed[codes], n_components=None, balanced=balanced)(test)
    np.testing.assert_array_equal(other, renamed[fitted])


def test_two_neighbours_are_no_better_than_the_nearest():
    X = np.array([[0.0], [1.0], [10.0]])
    for codes in ([0, 1, 1], [1, 0, 0]):
        found = NeighbourProbe((2,)).fit(X, np.array(codes), n_components=None, balanced=False)(np.array([[0.1]]))
        assert found.item() == codes[0]
