"""Checks that counts are raw, and the smallest type that holds them."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp


def whole_counts(matrix: sp.spmatrix | np.ndarray, name: str) -> sp.csr_matrix:
    """The counts as CSR in the smallest unsigned type; raises where they are no counts."""
    counts = sp.csr_matrix(matrix)
    counts.eliminate_zeros()
    counts.sort_indices()
    if (counts.data < 0).any() or (counts.data != np.round(counts.data)).any():
        msg = f"{name}: expected non-negative whole numbers, got others."
        raise ValueError(msg)
    return counts.astype(np.min_scalar_type(int(counts.data.max())))


def refuse_empty_cells(counts: sp.csr_matrix, name: str) -> None:
    """Raises where a cell has no counts."""
    if (np.asarray(counts.sum(1)) == 0).any():
        msg = f"{name}: a cell has no counts."
        raise ValueError(msg)
