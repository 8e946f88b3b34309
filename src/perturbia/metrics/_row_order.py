"""An order of rows that follows from what they hold, so that draws do not depend on the order in which rows came."""

from __future__ import annotations

import numpy as np

__all__ = ["content_order", "mixed"]

_BLOCK_ENTRIES = 4_000_000


def mixed(numbers: np.ndarray) -> np.ndarray:
    """Scatter whole numbers over 64 bits: distinct numbers stay distinct (the finaliser of SplitMix64, Steele et al., 2014).

    Parameters
    ----------
    numbers
        Non-negative whole numbers below 2^64.

    Returns
    -------
    uint64, same shape.
    """
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def content_order(values: np.ndarray, *codes: np.ndarray) -> np.ndarray:
    """Order rows by their codes, the first first, and within those by a checksum of their values.

    Parameters
    ----------
    values
        Shape (n_rows, n_columns).
    codes
        One whole number a row each.

    Returns
    -------
    Positions of the rows, shape (n_rows,). Rows that are alike in everything keep their order, which then changes nothing.

    Notes
    -----
    The checksum is a sum over columns of the bits of a value times an odd number, modulo 2^64: whole numbers, so that it is
    the same in any order of rows. Rows that differ in one column always differ in it.
    """
    weight = mixed(np.arange(values.shape[1])) | np.uint64(1)
    checksum = np.empty(len(values), dtype=np.uint64)
    step = max(1, _BLOCK_ENTRIES // values.shape[1])
    for start in range(0, len(values), step):
        block = values[start : start + step].astype(np.float64, order="C") + 0.0  # minus zero is zero
        checksum[start : start + step] = (block.view(np.uint64) * weight).sum(axis=1, dtype=np.uint64)
    return np.lexsort((checksum, *codes[::-1]))
