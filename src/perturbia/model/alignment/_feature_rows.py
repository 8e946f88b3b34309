"""Features of some cells, dense, a few cells at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

__all__ = ["column_moments", "dense_rows", "row_moments"]

_STEP = 1024  # rows that are made dense at once for moments


def dense_rows(X: Any, rows: np.ndarray | slice, dtype: type[np.floating] = np.float32) -> np.ndarray:
    """Some rows, dense.

    Parameters
    ----------
    X
        Dense or CSR.
    rows
        Their positions, or a slice.
    dtype
        Type of the result.

    Returns
    -------
    Shape (n_rows, n_features).
    """
    taken = X[rows]
    return np.ascontiguousarray(taken.toarray() if sparse.issparse(taken) else taken, dtype=dtype)


def row_moments(X: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each feature over some rows, a few rows at a time.

    Parameters
    ----------
    X
        Dense or CSR.
    rows
        Their positions.

    Returns
    -------
    Both float64, shape (n_features,).
    """
    parts = np.array_split(rows, max(1, -(-len(rows) // _STEP)))
    mean, square = np.zeros(X.shape[1]), np.zeros(X.shape[1])
    for part in parts:
        mean += dense_rows(X, part, np.float64).sum(0) / len(rows)
    for part in parts:
        square += np.square(dense_rows(X, part, np.float64) - mean).sum(0) / len(rows)
    return mean, np.sqrt(square)


def column_moments(X: Any, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Moments to standardise by.

    Parameters
    ----------
    X
        Dense or CSR.
    rows
        Positions of rows.

    Returns
    -------
    As :func:`row_moments`; the standard deviation of a feature that does not vary is given as one.
    """
    mean, scale = row_moments(X, rows)
    # what varies less than rounding does not vary
    return mean, np.where(scale > 1e-6 * np.maximum(np.abs(mean), 1e-30), scale, 1.0)
