"""Matching of two sets of cells by the nearest neighbours that they share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
import torch

from perturbia.stats.transport_cost import PairCost

if TYPE_CHECKING:
    from perturbia.stats.transport_cost import Cost

__all__ = ["shared_neighbor_plan"]

_ROUNDING = 1e-12  # of a squared distance in float64, relative to squared norms; some thousand features leave less


def shared_neighbor_plan(
    x: np.ndarray, y: np.ndarray, *, n_neighbors: int = 1, cost: Cost = "sqeuclidean"
) -> sp.csr_matrix:
    r"""Match cells in proportion to the share of nearest neighbours that they have in common.

    With binary graphs of k nearest neighbours :math:`G_{11}, G_{21}` (of source cells, among source and among target
    cells) and :math:`G_{12}, G_{22}` (of target cells),

    .. math:: J = G_{11} G_{12}^\top + G_{21} G_{22}^\top, \qquad \tilde M_{ij} = \frac{J_{ij}}{4k - J_{ij}}

    and rows are divided by their sum. A cell is its own nearest neighbour; cells at the distance of the k-th neighbour are
    all neighbours, so that the order of cells does not matter, and :math:`4k` is then the number of neighbours of both.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d).
    n_neighbors
        k; more than one blurs matches of cells.
    cost
        As in :func:`perturbia.stats.couple`.

    Returns
    -------
    The plan, CSR float64 of sum one. No row and no column is empty.

    Notes
    -----
    O((n + m)^2 d) time in tiles; memory of the graphs.

    References
    ----------
    Xi, J., Osea, J., Xu, Z. and Hartford, J. (2024). Propensity score alignment of unpaired multimodal data. NeurIPS.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats.shared_neighbors import shared_neighbor_plan
    >>> shared_neighbor_plan(np.array([[0.0], [4.0]]), np.array([[4.1], [0.2]])).toarray()
    array([[0. , 0.5],
           [0.5, 0. ]])
    """
    own = [_neighbors(points, points, n_neighbors, cost, itself=True) for points in (x, y)]
    other = [_neighbors(x, y, n_neighbors, cost), _neighbors(y, x, n_neighbors, cost)]
    shared = (own[0] @ other[1].T + other[0] @ own[1].T).tocoo()
    degree = [np.asarray(own[side].sum(1)).ravel() + np.asarray(other[side].sum(1)).ravel() for side in (0, 1)]
    jaccard = shared.data / (degree[0][shared.row] + degree[1][shared.col] - shared.data)
    plan = sp.csr_matrix((jaccard, (shared.row, shared.col)), shape=shared.shape)
    sums = np.asarray(plan.sum(1)).ravel()
    return sp.diags_array(1 / (sums * len(x))) @ plan


def _neighbors(x: np.ndarray, y: np.ndarray, k: int, cost: Cost, *, itself: bool = False) -> sp.csr_matrix:
    """Which rows of y are among the k nearest of each row of x, ties included."""
    pairs = PairCost(x, y, cost, dtype=torch.float64)
    k = min(k, len(y))
    rows, columns = [], []
    for some in pairs.bounds():
        tile = pairs.tile(some).numpy()
        if pairs.is_root:
            np.square(tile, out=tile)
        at = np.arange(some.start, some.stop)
        if itself:
            tile[at - some.start, at] = -np.inf  # nearer than any copy of it, whatever rounding says
        limit = np.partition(tile, k - 1, axis=1)[:, [k - 1]]
        # the distances of equal cells differ by rounding
        slack = _ROUNDING * (pairs.squared_norms[some][:, None] + np.maximum(limit, 0))
        row, column = np.nonzero(tile <= limit + slack)
        rows.append(row + some.start)
        columns.append(column)
    where = np.concatenate(rows), np.concatenate(columns)
    return sp.csr_matrix((np.ones(len(where[0])), where), shape=(len(x), len(y)))
