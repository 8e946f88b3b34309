"""Gromov-Wasserstein matching of two sets of cells that share no feature, after SCOT."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["geodesic_distances", "gromov_plan"]


def gromov_plan(
    x: np.ndarray, y: np.ndarray, *, epsilon: float = 1e-3, n_neighbors: int | None = None, max_iterations: int = 1000
) -> tuple[np.ndarray, dict[str, Any]]:
    r"""Entropic Gromov-Wasserstein plan between the geodesic distances of two sets of cells.

    .. math:: \min_P \sum_{ijkl} (D^1_{ik} - D^2_{jl})^2 P_{ij} P_{kl} - \varepsilon H(P)

    with uniform marginals, solved by POT. An epsilon at which it yields no finite plan is multiplied by 3, five times at
    most.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, e): any features.
    epsilon
        Strength of the entropy; distances have maximum one.
    n_neighbors
        Neighbours of the graphs, at most a fifth of the cells; 50 by default.
    max_iterations
        Outer iterations at most.

    Returns
    -------
    The plan, dense float64 of sum one, shape (n, m), and a report: `converged`, `epsilon`, `mean_cost`.

    Notes
    -----
    O(n m (n + m)) time an iteration: for groups of some hundred cells.

    References
    ----------
    Demetci, P., Santorella, R., Sandstede, B., Noble, W. S. and Singh, R. (2022). SCOT: single-cell multi-omics alignment
    with optimal transport. J. Comput. Biol. 29.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats.gromov_wasserstein import gromov_plan
    >>> plan, _ = gromov_plan(
    ...     np.random.default_rng(0).normal(size=(8, 3)), np.random.default_rng(1).normal(size=(9, 2))
    ... )
    >>> plan.shape, bool(np.isclose(plan.sum(), 1))
    ((8, 9), True)
    """
    import ot

    first, second = geodesic_distances(x, n_neighbors), geodesic_distances(y, n_neighbors)
    p, q = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
    for attempt in range(6):
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")  # POT warns of each inner step; what matters is the plan, checked below
            plan, log = ot.gromov.entropic_gromov_wasserstein(
                first, second, p, q, "square_loss", epsilon=epsilon * 3**attempt, max_iter=max_iterations, log=True
            )
        if np.isfinite(plan).all() and abs(plan.sum() - 1) < 0.01:
            report = {
                "converged": float(log["err"][-1]) < 1e-4,
                "iterations": len(log["err"]),
                "mean_cost": float(log["gw_dist"]),
                "epsilon": epsilon * 3**attempt,
            }
            return np.asarray(plan), report
    msg = f"epsilon: expected one at which Gromov-Wasserstein has a finite plan, got {epsilon:g} to {epsilon * 3**5:g}."
    raise ValueError(msg)


def geodesic_distances(points: np.ndarray, n_neighbors: int | None = None) -> np.ndarray:
    """Shortest paths in the graph of nearest neighbours by correlation, scaled to maximum one.

    Parameters
    ----------
    points
        Cells in rows, shape (n, d).
    n_neighbors
        Neighbours of a cell, at most a fifth of the cells; 50 by default.

    Returns
    -------
    Numbers of steps over their maximum, shape (n, n), float64. Parts of the graph without connection are as far apart as
    the farthest connected cells.

    Raises
    ------
    ValueError
        Fewer than two features.
    """
    from scipy.sparse.csgraph import shortest_path
    from sklearn.neighbors import NearestNeighbors

    n, d = points.shape
    if d < 2:
        msg = f"points: expected at least 2 features, whose correlation is the distance, got {d}."
        raise ValueError(msg)
    if n == 1:
        return np.zeros((1, 1))
    k = max(1, min(n_neighbors or 50, n // 5 or 1))
    norms = np.linalg.norm(points, axis=1, keepdims=True)
    unit = points / np.maximum(norms, 1e-12)
    centred = unit - unit.mean(1, keepdims=True)
    # correlation distance is half the squared Euclidean one of rows of mean zero and length one
    standard = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    graph: sp.csr_matrix = NearestNeighbors(n_neighbors=k).fit(standard).kneighbors_graph(mode="connectivity")
    distances = shortest_path(graph, directed=False, unweighted=True)
    finite = np.isfinite(distances)
    distances[~finite] = distances[finite].max()
    return distances / max(distances.max(), 1e-12)
