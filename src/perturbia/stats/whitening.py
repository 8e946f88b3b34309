"""Whitening by reference rows, with few of them: axes that are kept, and shrinkage of what is known of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["Whitening", "fit_whitening", "ledoit_wolf_shrinkage", "likely_shrinkage"]


@dataclass(frozen=True)
class Whitening:
    r"""Principal axes of reference rows, and how far each is scaled down.

    Rows :math:`y` become :math:`\Lambda_\alpha^{-1/2} V^\top y`, with :math:`\Lambda_\alpha = (1 - \alpha) \Lambda + \alpha
    \bar\lambda`.

    Attributes
    ----------
    axes
        Orthonormal, in columns, of falling variance, shape (n_features, n_axes); n_axes is at most the number of
        reference rows minus one. All other directions have variance 0 among them.
    variances
        Of the axes, divided by the number of reference rows minus one, shape (n_axes,).
    mean_variance
        Mean :math:`\bar\lambda` over all n_features directions.
    """

    axes: np.ndarray
    variances: np.ndarray
    mean_variance: float

    def transform(self, rows: np.ndarray, *, rank: int, shrinkage: float, as_axes: bool = False) -> np.ndarray:
        """Whitened rows.

        Parameters
        ----------
        rows
            Centred as the reference rows were, shape (n_rows, n_features).
        rank
            Axes kept; n_features for all directions, those without variance among references too.
        shrinkage
            Alpha, from 0 (white) to 1 (rotated only, and cut to the axes kept).
        as_axes
            Coordinates on the axes kept, in place of features.

        Returns
        -------
        float64, shape (n_rows, n_features), or (n_rows, rank).
        """
        every = rank >= self.axes.shape[0]
        kept = min(rank, len(self.variances))
        axes = self.axes[:, :kept]
        floor = shrinkage * self.mean_variance
        scale = 1 / np.sqrt((1 - shrinkage) * self.variances[:kept] + floor)
        coordinates = rows @ axes
        if as_axes and not every:
            return coordinates * scale
        if as_axes:
            rest = self.complement
            return np.hstack([coordinates * scale, rows @ rest / np.sqrt(floor)]) if rest.size else coordinates * scale
        if not every or kept == self.axes.shape[0]:
            return (coordinates * scale) @ axes.T
        other = 1 / np.sqrt(floor)
        return (coordinates * (scale - other)) @ axes.T + rows * other

    def basis(self, rank: int) -> np.ndarray:
        """Directions of the coordinates on the axes kept, orthonormal, in columns, (n_features, number kept)."""
        if rank >= self.axes.shape[0]:
            return np.hstack([self.axes, self.complement])
        return self.axes[:, :rank]

    @property
    def complement(self) -> np.ndarray:
        """Orthonormal directions without variance among references, shape (n_features, n_features - n_axes)."""
        n_features, n_axes = self.axes.shape
        if n_axes == n_features:
            return np.empty((n_features, 0))
        return np.linalg.qr(np.hstack([self.axes, np.eye(n_features)]))[0][:, n_axes:n_features]


def fit_whitening(rows: np.ndarray) -> Whitening:
    """Principal axes of reference rows that are centred already.

    Parameters
    ----------
    rows
        Shape (n_rows, n_features), n_rows > 1. Centred batch by batch, they are as often as there are batches a row
        short; what is divided by is the number of rows minus one, which makes `np.cov` of the whitened references I.

    Returns
    -------
    :class:`Whitening`; the largest entry of each axis is positive.

    Notes
    -----
    An eigendecomposition of the smaller of rows × rows and features × features.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import fit_whitening
    >>> rows = np.random.default_rng(0).normal(size=(50, 3)) @ np.diag([1.0, 5.0, 20.0])
    >>> rows -= rows.mean(axis=0)
    >>> white = fit_whitening(rows).transform(rows, rank=3, shrinkage=0.0)
    >>> bool(np.allclose(np.cov(white.T), np.eye(3)))
    True
    """
    values = np.asarray(rows, dtype=np.float64)
    n_rows, n_features = values.shape
    if n_rows <= n_features:
        squares, left = np.linalg.eigh(values @ values.T)
        kept = squares > max(squares[-1], 0) * n_features * np.finfo(np.float64).eps
        squares = squares[kept][::-1]
        axes = values.T @ (left[:, kept][:, ::-1] / np.sqrt(squares))
        axes = np.linalg.qr(axes)[0] if axes.shape[1] else axes
    else:
        squares, axes = np.linalg.eigh(values.T @ values)
        kept = squares > max(squares[-1], 0) * n_rows * np.finfo(np.float64).eps
        squares, axes = squares[kept][::-1], axes[:, kept][:, ::-1]
    if axes.shape[1]:
        largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
        axes = axes * np.where(largest < 0, -1.0, 1.0)
    variances = squares / (n_rows - 1)
    return Whitening(axes, variances, float(variances.sum() / n_features))


def ledoit_wolf_shrinkage(rows: np.ndarray) -> float:
    """Shrinkage towards the mean variance that is closest in expectation (Ledoit and Wolf, 2004).

    Parameters
    ----------
    rows
        Centred reference rows, shape (n_rows, n_features).

    Returns
    -------
    Alpha, from 0 to 1.
    """
    from sklearn.covariance import ledoit_wolf_shrinkage as estimate

    return float(estimate(rows, assume_centered=True))


def likely_shrinkage(rows: np.ndarray, folds: np.ndarray, candidates: np.ndarray) -> float:
    """Shrinkage under which held-out reference rows are most likely, as draws from one normal distribution.

    Parameters
    ----------
    rows
        Centred reference rows, shape (n_rows, n_features).
    folds
        Fold of every row, shape (n_rows,); whole batches, best.
    candidates
        Positive alphas to choose from.

    Returns
    -------
    One of the candidates.
    """
    loss = np.zeros(len(candidates))
    n_features = rows.shape[1]
    for fold in np.unique(folds):
        fit = fit_whitening(rows[folds != fold])
        held = rows[folds == fold]
        on_axes = ((held @ fit.axes) ** 2).sum(axis=0)
        outside = (held**2).sum() - on_axes.sum()
        for i, alpha in enumerate(candidates):
            floor = alpha * fit.mean_variance
            variances = (1 - alpha) * fit.variances + floor
            n_rest = n_features - len(variances)
            loss[i] += len(held) * (np.log(variances).sum() + n_rest * np.log(floor))
            loss[i] += (on_axes / variances).sum() + outside / floor
    return float(candidates[np.argmin(loss)])
