"""Distances between two sets of cells that look at one gene at a time: its mean and its variance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.stats._arrays import any_matrix
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    import scipy.sparse as sp


def symmetric_kl(X: np.ndarray | sp.spmatrix, Y: np.ndarray | sp.spmatrix, *, min_variance: float = 1e-3) -> np.ndarray:
    r"""Symmetric Kullback-Leibler divergence of every gene, as if it were Gaussian in both sets.

    .. math:: \tfrac12 \left[\mathrm{KL}(p \| q) + \mathrm{KL}(q \| p)\right]
              = \frac14 \left(\frac{v_x}{v_y} + \frac{v_y}{v_x} - 2
              + (m_x - m_y)^2 \left(\frac{1}{v_x} + \frac{1}{v_y}\right)\right)

    Parameters
    ----------
    X, Y
        Cells in rows, shapes (n, n_genes) and (m, n_genes), dense or sparse, two cells or more.
    min_variance
        Floor of both variances. Genes that hardly vary would otherwise have divergences without bound; the value of the
        floor is part of the score and has to be reported with it.

    Returns
    -------
    Divergences, nats, shape (n_genes,), float64. Not a number to average without a look: a few genes may dominate.

    Raises
    ------
    ValueError
        Different numbers of genes, fewer than two cells, missing values, or a floor that is not positive.

    Examples
    --------
    >>> import numpy as np
    >>> symmetric_kl(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))
    array([0.25])
    """
    if not 0 < min_variance < np.inf:
        msg = f"min_variance: expected a number > 0, got {min_variance}."
        raise ValueError(msg)
    (mean_x, variance_x), (mean_y, variance_y) = _moments(X, Y)
    v, w = np.maximum(variance_x, min_variance), np.maximum(variance_y, min_variance)
    return (v / w + w / v - 2 + (mean_x - mean_y) ** 2 * (1 / v + 1 / w)) / 4


def mean_variance_distance(X: np.ndarray | sp.spmatrix, Y: np.ndarray | sp.spmatrix) -> float:
    r"""Distance between the means and standard deviations of genes: the W2 distance of Gaussians without covariances.

    .. math:: \left(\sum_g (m_{xg} - m_{yg})^2 + (s_{xg} - s_{yg})^2\right)^{1/2}

    Parameters
    ----------
    X, Y
        Cells in rows, shapes (n, n_genes) and (m, n_genes), dense or sparse, two cells or more.

    Returns
    -------
    The distance, in the unit of the genes.

    Raises
    ------
    ValueError
        Different numbers of genes, fewer than two cells, or missing values.

    Examples
    --------
    >>> import numpy as np
    >>> mean_variance_distance(np.array([[0.0], [2.0]]), np.array([[1.0], [3.0]]))
    1.0
    """
    (mean_x, variance_x), (mean_y, variance_y) = _moments(X, Y)
    spread = np.sqrt(variance_x) - np.sqrt(variance_y)
    return float(np.sqrt(((mean_x - mean_y) ** 2).sum() + (spread**2).sum()))


def _moments(X: np.ndarray | sp.spmatrix, Y: np.ndarray | sp.spmatrix) -> list[tuple[np.ndarray, np.ndarray]]:
    """Mean and variance of every gene in both sets."""
    x, y = any_matrix(X, "X", min_rows=2), any_matrix(Y, "Y", min_rows=2)
    if x.shape[1] != y.shape[1]:
        msg = f"Y: expected the {x.shape[1]} columns of X, got {y.shape[1]}."
        raise ValueError(msg)
    moments = [group_means(matrix, np.zeros(matrix.shape[0], dtype=int)) for matrix in (x, y)]
    return [(one.mean[0], np.maximum(np.asarray(one.variance)[0], 0.0)) for one in moments]
