"""Which rows belong to which group: as a matrix, as places within it, and how many different things it holds."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

__all__ = ["distinct_within", "one_hot", "place_within"]


def one_hot(codes: np.ndarray, n_groups: int) -> sp.csr_array:
    """Which row is in which group, float64 (n_rows, n_groups) with a 1 in every row; none in rows of code -1."""
    grouped = codes >= 0
    indptr = np.concatenate([[0], np.cumsum(grouped)])
    return sp.csr_array((np.ones(indptr[-1]), codes[grouped], indptr), shape=(len(codes), n_groups))


def place_within(groups: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Place of every row among those of its group, from 0, in ascending `order`; rows that are equal keep theirs.

    Parameters
    ----------
    groups
        Group of every row, numbers or text, (n_rows,).
    order
        What to sort by, (n_rows,).

    Returns
    -------
    int64, (n_rows,).
    """
    rows = np.lexsort((order, groups))
    begins = np.concatenate([[True], groups[rows][1:] != groups[rows][:-1]])[: len(rows)]
    start = np.maximum.accumulate(np.where(begins, np.arange(len(rows)), 0))
    place = np.empty(len(rows), dtype=np.int64)
    place[rows] = np.arange(len(rows)) - start
    return place


def distinct_within(groups: np.ndarray, values: np.ndarray, n_groups: int) -> np.ndarray:
    """How many different values the rows of every group have, (n_groups,); rows of group -1 are left out.

    Parameters
    ----------
    groups
        Group of every row, whole numbers from -1, (n_rows,).
    values
        Whole numbers from 0, (n_rows,).
    n_groups
        Number of groups.
    """
    if not len(groups):
        return np.zeros(n_groups, dtype=np.int64)
    grouped, n_values = groups >= 0, int(values.max()) + 1
    pairs = np.unique(groups[grouped].astype(np.int64) * n_values + values[grouped]) // n_values
    return np.bincount(pairs, minlength=n_groups)
