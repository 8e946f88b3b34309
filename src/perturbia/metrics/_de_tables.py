"""Checked matrices of differential expression: fold changes and false discovery rates."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbia.stats._arrays import check_same_shape, dense_matrix


def fdr_matrix(value: Any, name: str) -> np.ndarray:
    """Return a float64 matrix of numbers in [0, 1]."""
    matrix = dense_matrix(value, name)
    if matrix.min() < 0 or matrix.max() > 1:
        msg = (
            f"{name}: expected false discovery rates in [0, 1], got {matrix.min():g} to {matrix.max():g}. "
            "Pass adjusted p-values, not their logarithms."
        )
        raise ValueError(msg)
    return matrix


def fold_change_matrix(value: Any, name: str) -> np.ndarray:
    """Return a float64 matrix without NaN; a gene that one side does not express has an infinite fold change."""
    array = np.asarray(value)
    if array.dtype.kind == "f" and array.ndim == 2 and np.isinf(array).any():
        dense_matrix(np.where(np.isinf(array), 0.0, array), name)
        return array.astype(np.float64, copy=False)
    return dense_matrix(array, name)


def check_shapes(**matrices: np.ndarray) -> None:
    """Raise a `ValueError` unless all matrices have the shape of the first."""
    (first, reference), *others = matrices.items()
    for name, matrix in others:
        check_same_shape(reference, matrix, (first, name))


def check_alpha(alpha: float) -> None:
    """Raise a `ValueError` unless `alpha` is a threshold of significance."""
    if not 0 < alpha < 1:
        msg = f"alpha: expected a false discovery rate between 0 and 1, got {alpha!r}."
        raise ValueError(msg)
