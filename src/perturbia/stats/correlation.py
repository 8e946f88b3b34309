"""Pearson correlation of matching rows, with one rule for rows in which nothing varies."""

from __future__ import annotations

import numpy as np

from perturbia.stats._arrays import check_same_shape, dense_matrix

# Below this share of a row's length, what is left after centring is rounding error.
_ROUNDING = 1e-13


def centre_rows(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Subtract the mean of every row.

    Parameters
    ----------
    X
        Finite float64 matrix, shape (n_rows, n_columns).

    Returns
    -------
    The centred matrix, and the lengths of its rows, shape (n_rows,): exactly 0 where a row is constant up to rounding.

    Examples
    --------
    >>> import numpy as np
    >>> centre_rows(np.array([[1.0, 3.0], [2.0, 2.0]]))[1].round(3)
    array([1.414, 0.   ])
    """
    centred = X - X.mean(axis=1, keepdims=True)
    length = np.linalg.norm(centred, axis=1)
    length[length <= _ROUNDING * np.linalg.norm(X, axis=1)] = 0.0
    return centred, length


def row_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation between row i of one matrix and row i of another.

    Parameters
    ----------
    first, second
        Matrices of one shape, (n_rows, n_columns), at least two columns, finite.

    Returns
    -------
    Correlations, shape (n_rows,), float64. A row that is constant in either matrix has no correlation: NaN there.

    Raises
    ------
    ValueError
        Shapes differ, an array is not two-dimensional, or entries are missing or infinite.

    Examples
    --------
    >>> import numpy as np
    >>> row_correlation(np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 3.0, 5.0]])).round(6)
    array([1.])
    """
    first = dense_matrix(first, "first", min_columns=2)
    second = dense_matrix(second, "second", min_columns=2)
    check_same_shape(first, second, ("first", "second"))
    (a, length_a), (b, length_b) = centre_rows(first), centre_rows(second)
    scale = length_a * length_b
    product = np.einsum("ij,ij->i", a, b)
    result = np.divide(product, scale, out=np.full(len(scale), np.nan), where=scale > 0)
    return np.clip(result, -1.0, 1.0)
