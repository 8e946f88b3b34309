"""The scale on which effects are stated: natural logarithm of counts per ten thousand plus one."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import scipy.sparse as sp

from perturbia.stats._arrays import any_matrix, check_nonnegative

Matrix = TypeVar("Matrix")


def log1p_cp10k(X: Matrix, *, target_sum: float = 1e4) -> Matrix:
    r"""Depth-normalise counts and take the logarithm: the scale `"log1p_cp10k"`.

    .. math:: y_{ig} = \log\left(1 + 10^4 \, x_{ig} \big/ \sum_h x_{ih}\right)

    Parameters
    ----------
    X
        Counts, shape (n_cells, n_genes), dense or sparse, non-negative. Not modified. Integers are not required: expected
        counts are fine.
    target_sum
        Depth to which every cell is scaled, in counts.

    Returns
    -------
    The same kind of container (sparse input comes back as CSR with the same pattern); float64 if `X` is float64, else
    float32. Row sums are accumulated in float64.

    Raises
    ------
    ValueError
        Negative, missing or infinite entries, or cells without a single count (their number is named).

    Examples
    --------
    >>> import numpy as np
    >>> log1p_cp10k(np.array([[1.0, 3.0]])).round(3)
    array([[7.824, 8.923]])
    """
    if not target_sum > 0 or not np.isfinite(target_sum):
        msg = f"target_sum: expected a positive number of counts, got {target_sum}."
        raise ValueError(msg)
    matrix = any_matrix(X, "X")
    check_nonnegative(matrix.data if sp.issparse(matrix) else matrix, "X")
    depth = np.asarray(matrix.sum(axis=1, dtype=np.float64)).ravel()
    if (n_empty := int((depth == 0).sum())) > 0:
        msg = f"X: expected counts in every cell, got {n_empty} cells whose counts are all zero. Filter them out first."
        raise ValueError(msg)
    dtype = np.float64 if matrix.dtype == np.float64 else np.float32
    scale = (target_sum / depth).astype(dtype)
    if not sp.issparse(matrix):
        return np.log1p(matrix * scale[:, None], dtype=dtype)
    data = matrix.data.astype(dtype) * np.repeat(scale, np.diff(matrix.indptr))
    return type(matrix)((np.log1p(data), matrix.indices.copy(), matrix.indptr.copy()), shape=matrix.shape)
