"""Wasserstein distances between two sets of cells: sliced, for many cells, and exact, for a moderate number."""

from __future__ import annotations

import numpy as np

from perturbia.stats._arrays import dense_matrix

_MAX_PAIRS = 25_000_000  # entries of the cost matrix of an exact plan: 200 MB


def sliced_wasserstein(
    X: np.ndarray, Y: np.ndarray, *, order: float = 2.0, n_projections: int = 200, seed: int = 0
) -> float:
    r"""Sliced Wasserstein distance: Wasserstein distances of one-dimensional projections, averaged.

    .. math:: \left(\frac{1}{L} \sum_{l=1}^{L} W_p^p(\theta_l^\top X, \theta_l^\top Y)\right)^{1/p}

    with directions drawn evenly from the sphere (Bonneel et al., 2015), through POT. Sets may differ in size.

    Parameters
    ----------
    X, Y
        Cells in rows, shapes (n, n_features) and (m, n_features), dense, usually principal components.
    order
        Order p of the distance, 1 or larger.
    n_projections
        Directions. The Monte Carlo error falls with their square root.
    seed
        Seed of the directions. Compare distances taken with the same seed.

    Returns
    -------
    The distance, in the unit of the features. For a shift of all cells by v it is about \|v\| / sqrt(n_features).
    Positive for two samples of one distribution: compare it with that of two halves of the same cells.

    Raises
    ------
    ValueError
        Different numbers of features, no cells, missing values, sparse input, or impossible settings.

    Notes
    -----
    O((n + m) (log(n + m) + n_features) n_projections) time.

    Examples
    --------
    >>> import numpy as np
    >>> round(sliced_wasserstein(np.array([[0.0], [1.0]]), np.array([[2.0], [3.0]])), 6)
    2.0
    """
    import ot

    x, y = _pair(X, Y)
    if not 1 <= order < np.inf or n_projections < 1:
        msg = (
            f"order, n_projections: expected a number >= 1 and one projection or more, got {order} and {n_projections}."
        )
        raise ValueError(msg)
    # POT draws the directions from the generator it is given; each column is one, of length 1.
    directions = np.random.default_rng(seed).normal(size=(x.shape[1], n_projections))
    directions /= np.linalg.norm(directions, axis=0)
    return float(ot.sliced_wasserstein_distance(x, y, projections=directions, p=order))


def wasserstein2(X: np.ndarray, Y: np.ndarray, *, max_pairs: int = _MAX_PAIRS) -> float:
    r"""Wasserstein distance of order 2 between two sets of cells, from the exact optimal plan.

    .. math:: W_2 = \left(\min_{\pi} \sum_{ij} \pi_{ij} \|x_i - y_j\|^2\right)^{1/2}

    over plans with equal weight on each cell of a set (Peyré and Cuturi, 2019, chapter 2), solved by POT's network simplex.

    Parameters
    ----------
    X, Y
        Cells in rows, shapes (n, n_features) and (m, n_features), dense, usually principal components.
    max_pairs
        Largest n m that is attempted: memory is n m numbers, and time about its 3/2 power.

    Returns
    -------
    The distance, in the unit of the features. It is far from zero for two samples of one distribution in many dimensions
    and falls slowly with their size: compare only sets of equal size, and with two halves of the same cells.

    Raises
    ------
    ValueError
        More pairs than `max_pairs`, different numbers of features, no cells, missing values, or sparse input.
    RuntimeError
        The solver did not reach the optimum.

    Examples
    --------
    >>> import numpy as np
    >>> round(wasserstein2(np.array([[0.0], [1.0]]), np.array([[3.0], [2.0]])), 6)
    2.0
    """
    import ot

    x, y = _pair(X, Y)
    if len(x) * len(y) > max_pairs:
        msg = (
            f"X, Y: expected at most max_pairs={max_pairs} pairs of cells for an exact plan, got {len(x)} x {len(y)}. "
            "Draw fewer cells, the same number of each, or use sliced_wasserstein."
        )
        raise ValueError(msg)
    cost = ot.dist(x, y, metric="sqeuclidean")
    value, log = ot.emd2([], [], cost, numItermax=10_000_000, log=True)
    if log.get("warning"):
        msg = (
            f"X, Y: the optimal plan of {len(x)} x {len(y)} cells was not reached ({log['warning']}). Draw fewer cells."
        )
        raise RuntimeError(msg)
    return float(np.sqrt(max(value, 0.0)))


def _pair(X: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = dense_matrix(X, "X"), dense_matrix(Y, "Y")
    if x.shape[1] != y.shape[1]:
        msg = f"Y: expected the {x.shape[1]} columns of X, got {y.shape[1]}."
        raise ValueError(msg)
    return x, y
