"""Draws of columns from the rows of a sparse matrix of masses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp

__all__ = ["RowDraws"]


class RowDraws:
    """Rows lie on one line, each on an interval of its own, so that one search draws for all of them.

    Parameters
    ----------
    matrix
        Masses, CSR; rows need not sum to one.
    """

    def __init__(self, matrix: sp.csr_matrix) -> None:
        self.indices, self.indptr = matrix.indices, matrix.indptr.astype(np.int64)
        counts = np.diff(self.indptr)
        sums = np.repeat(np.asarray(matrix.sum(1)).ravel(), counts)
        # of conditional masses, so that a row of little mass keeps its digits
        self.cumulative = np.concatenate([[0.0], np.cumsum(matrix.data / sums)])
        (self.matched,) = np.nonzero(counts)

    def columns(self, rows: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        """Columns drawn in proportion to the masses of their row.

        Parameters
        ----------
        rows
            Rows with mass, shape (n,).
        uniform
            Random numbers in [0, 1), shape (n, n_draws).

        Returns
        -------
        int64, shape (n, n_draws).
        """
        start, end = self.indptr[rows][:, None], self.indptr[rows + 1][:, None]
        low, high = self.cumulative[start], self.cumulative[end]
        found = np.searchsorted(self.cumulative, low + uniform * (high - low), side="right") - 1
        return self.indices[np.clip(found, start, end - 1)].astype(np.int64)
