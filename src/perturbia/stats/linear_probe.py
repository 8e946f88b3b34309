"""Classifiers that read labels off frozen features, fitted once for all their settings: ridge, logistic, neighbours."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from perturbia.errors import ConvergenceWarning
from perturbia.stats._membership import one_hot

__all__ = ["LogisticProbe", "NeighbourProbe", "Predictor", "Probe", "RidgeProbe", "TrainingSpace", "training_space"]

#: From features (n, d) to label codes (n, n_settings), one column a setting.
Predictor = Callable[[np.ndarray], np.ndarray]

_BLOCK_ENTRIES = 4_000_000  # class scores held at a time
_TIE = 1e-9  # votes that differ by less of themselves are equal: sums of weights are rounded


@dataclass(frozen=True)
class TrainingSpace:
    """Training rows on their weighted principal axes.

    Attributes
    ----------
    labels
        Codes of the labels that rows have, ascending, shape (n_labels,).
    position
        Which of them each row has, shape (n_rows,).
    label_weight
        Weight of one row of each label, shape (n_labels,); weights of all rows sum to n_rows.
    shares
        Weighted share of each label, shape (n_labels,); 1 / n_labels if balanced.
    centre
        Weighted mean of the rows, shape (d,).
    axes
        Orthonormal axes in columns, that of most scatter first, shape (d, n_axes).
    scatter
        Weighted sum of squares along each axis, shape (n_axes,).
    contrasts
        Weighted cross products of coordinates and label indicators, shape (n_axes, n_labels).
    unit
        Mean of the eigenvalues of the weighted scatter, each weighing as much as it is large: what penalties are multiples
        of. Features that hardly vary do not change it, nor do rotations.
    """

    labels: np.ndarray
    position: np.ndarray
    label_weight: np.ndarray
    shares: np.ndarray
    centre: np.ndarray
    axes: np.ndarray
    scatter: np.ndarray
    contrasts: np.ndarray
    unit: float

    def coordinates(self, X: np.ndarray) -> np.ndarray:
        """Coordinates of rows (n, d) on the axes, (n, n_axes)."""
        return (X - self.centre) @ self.axes


def training_space(
    X: np.ndarray, codes: np.ndarray, *, n_components: int | None = None, balanced: bool = True
) -> TrainingSpace:
    """Weighted principal axes of training rows, by one symmetric eigendecomposition of the smaller Gram matrix.

    Parameters
    ----------
    X
        Training rows, float64, shape (n_rows, d).
    codes
        Label of every row, integers, shape (n_rows,).
    n_components
        Axes that are kept; None for all. With all of them this is but a rotation of the rows.
    balanced
        Whether every label has the same weight, as ``class_weight="balanced"`` of scikit-learn, else every row.

    Returns
    -------
    :class:`TrainingSpace`. Axes without scatter are left out.
    """
    labels, position, counts = np.unique(codes, return_inverse=True, return_counts=True)
    n_rows, n_labels = len(X), len(labels)
    label_weight = n_rows / (n_labels * counts) if balanced else np.ones(n_labels)
    sums = one_hot(position, n_labels).T @ X
    mass = label_weight * counts
    centre = label_weight @ sums / n_rows
    rows = (X - centre) * np.sqrt(label_weight[position])[:, None]
    axes, scatter, unit = _leading_axes(rows, n_components)
    cross = label_weight[:, None] * sums - mass[:, None] * centre
    return TrainingSpace(
        labels=labels,
        position=position,
        label_weight=label_weight,
        shares=mass / n_rows,
        centre=centre,
        axes=axes,
        scatter=scatter,
        contrasts=axes.T @ cross.T,
        unit=unit,
    )


def _leading_axes(rows: np.ndarray, n_axes: int | None) -> tuple[np.ndarray, np.ndarray, float]:
    """Right singular vectors (d, n_axes), squared singular values, and the mean of all of these, weighted by themselves."""
    tall = rows.shape[0] >= rows.shape[1]
    values, vectors = np.linalg.eigh(rows.T @ rows if tall else rows @ rows.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    real = values > values[0] * max(rows.shape) * np.finfo(np.float64).eps
    unit = float((values[real] ** 2).sum() / values[real].sum()) if real.any() else 0.0
    values, vectors = values[real][:n_axes], vectors[:, real][:, :n_axes]
    return (vectors if tall else rows.T @ (vectors / np.sqrt(values))), values, unit


class Probe(Protocol):
    """A classifier with a list of settings, from the smoothest to the most flexible."""

    @property
    def settings(self) -> tuple[float, ...]:
        """What is tried: penalties, or numbers of neighbours."""
        ...

    def fit(self, X: np.ndarray, codes: np.ndarray, *, n_components: int | None, balanced: bool) -> Predictor:
        """Fit to rows (n, d) with labels (n,), and return what predicts codes (m, n_settings) of rows (m, d)."""
        ...


@dataclass(frozen=True)
class RidgeProbe:
    r"""Least squares on label indicators with a ridge penalty: one label against the rest, all at once.

    .. math:: \min_{B, b} \sum_i w_i \lVert y_i - b - B^\top x_i \rVert^2 + \lambda u \lVert B \rVert^2

    with u the `unit` of :class:`TrainingSpace`. All labels and penalties share one decomposition. The same as
    ``RidgeClassifier(alpha=λu, class_weight="balanced")`` of scikit-learn.
    """

    settings: tuple[float, ...]

    def fit(self, X: np.ndarray, codes: np.ndarray, *, n_components: int | None, balanced: bool) -> Predictor:
        """Fit for all penalties; see :class:`Probe`."""
        space = training_space(X, codes, n_components=n_components, balanced=balanced)
        floor = np.asarray(self.settings) * space.unit
        shrunk = space.contrasts[:, None, :] / (space.scatter[:, None] + floor)[..., None]
        coefficients = shrunk.reshape(len(space.scatter), len(floor) * len(space.labels))

        def predict(rows: np.ndarray) -> np.ndarray:
            scores = (space.coordinates(rows) @ coefficients).reshape(len(rows), len(floor), -1)
            return space.labels[(scores + space.shares).argmax(axis=2)]

        return _by_blocks(predict, len(floor) * len(space.labels))


@dataclass(frozen=True)
class LogisticProbe:
    """Multinomial logistic regression of scikit-learn on the same axes, each penalty starting from the one before.

    Coordinates are divided by the root of `unit` / n_rows, and `C` is 1 / (λ n_rows), so that a penalty means what it does
    for :class:`RidgeProbe`.
    """

    settings: tuple[float, ...]
    max_iter: int = 1000

    def fit(self, X: np.ndarray, codes: np.ndarray, *, n_components: int | None, balanced: bool) -> Predictor:
        """Fit for all penalties; see :class:`Probe`."""
        from sklearn.exceptions import ConvergenceWarning as Unconverged
        from sklearn.linear_model import LogisticRegression

        space = training_space(X, codes, n_components=n_components, balanced=balanced)
        if len(space.scatter) == 0:  # constant features: nothing but the most frequent label is known
            return lambda rows: np.full((len(rows), len(self.settings)), space.labels[space.shares.argmax()])
        scale = np.sqrt(space.unit / len(X))
        coordinates, weights = space.coordinates(X) / scale, space.label_weight[space.position]
        model = LogisticRegression(warm_start=True, max_iter=self.max_iter)
        fitted = []
        for penalty in self.settings:
            model.set_params(C=1 / (penalty * len(X)))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Unconverged)  # ours says what to do
                model.fit(coordinates, space.position, sample_weight=weights)
            if model.n_iter_.max() >= self.max_iter:
                msg = f"penalties: a logistic probe stopped after {self.max_iter} steps. Use larger penalties, or the ridge probe."
                warnings.warn(msg, ConvergenceWarning, stacklevel=2)
            coefficients, intercept = model.coef_.T, model.intercept_
            if len(space.labels) == 2:  # one column says how much the second label is likelier than the first
                coefficients, intercept = coefficients * [-0.5, 0.5], intercept * [-0.5, 0.5]
            fitted.append((coefficients.copy(), np.array(intercept)))

        def predict(rows: np.ndarray) -> np.ndarray:
            values = space.coordinates(rows) / scale
            return np.column_stack([space.labels[(values @ B + b).argmax(axis=1)] for B, b in fitted])

        return _by_blocks(predict, len(space.labels))


@dataclass(frozen=True)
class NeighbourProbe:
    """Vote of the nearest training rows on the same axes, by Euclidean distance; the settings are numbers of neighbours.

    A vote weighs as much as its row, so that frequent labels do not win by number under `balanced`; otherwise the same as
    ``KNeighborsClassifier`` of scikit-learn. Of labels with equal votes, that of the nearest row, so that names of labels do
    not matter. No more neighbours are asked than there are training rows.
    """

    settings: tuple[float, ...]

    def fit(self, X: np.ndarray, codes: np.ndarray, *, n_components: int | None, balanced: bool) -> Predictor:
        """Find neighbours for all settings at once; see :class:`Probe`."""
        from sklearn.neighbors import NearestNeighbors

        space = training_space(X, codes, n_components=n_components, balanced=balanced)
        if len(space.scatter) == 0:
            return lambda rows: np.full((len(rows), len(self.settings)), space.labels[space.shares.argmax()])
        sizes = [min(int(k), len(X)) for k in self.settings]
        index = NearestNeighbors(n_neighbors=max(sizes)).fit(space.coordinates(X))
        n_labels = len(space.labels)

        def predict(rows: np.ndarray) -> np.ndarray:
            near = space.position[index.kneighbors(space.coordinates(rows), return_distance=False)]
            cell = near + n_labels * np.arange(len(rows))[:, None]

            def chosen(k: int) -> np.ndarray:
                weight = space.label_weight[near[:, :k]].ravel()
                votes = np.bincount(cell[:, :k].ravel(), weight, minlength=n_labels * len(rows))
                most = votes.reshape(len(rows), -1).max(axis=1, keepdims=True) * (1 - _TIE)
                first = (votes[cell[:, :k]] >= most).argmax(axis=1)  # of labels that have most votes, the nearest
                return space.labels[near[np.arange(len(rows)), first]]

            return np.column_stack([chosen(k) for k in sizes])

        return _by_blocks(predict, n_labels + max(sizes))


def _by_blocks(predict: Predictor, width: int) -> Predictor:
    """Predict blocks of rows, so that the scores of a block (`width` a row) stay within bounds."""
    size = max(1, _BLOCK_ENTRIES // max(width, 1))

    def predict_all(rows: np.ndarray) -> np.ndarray:
        if len(rows) <= size:
            return predict(rows)
        return np.concatenate([predict(rows[start : start + size]) for start in range(0, len(rows), size)])

    return predict_all
