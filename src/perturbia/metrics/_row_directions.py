"""Rows at length 1, and what metrics make of rows that have no direction."""

from __future__ import annotations

import warnings

import numpy as np

from perturbia.errors import shorten
from perturbia.stats.row_cosines import unit_rows

__all__ = ["directed_rows", "unit_or_zero_rows"]


def directed_rows(values: np.ndarray, names: np.ndarray, *, argument: str) -> np.ndarray:
    """Rows at length 1, float64; refuses rows of zeros, which it names."""
    units, length = unit_rows(values)
    if (length == 0).any():
        empty = names[length == 0]
        msg = (
            f"{argument}: expected rows with a direction, got {len(empty)} of {len(names)} rows of zeros "
            f"({shorten(empty.tolist(), limit=3)}). Drop these rows: their cosine with others is not defined."
        )
        raise ValueError(msg)
    return units


def unit_or_zero_rows(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows at length 1, and their squared lengths, which are 0 for rows without direction.

    Warns
    -----
    RuntimeWarning
        Rows that are zero: their cosine with every row counts as 0.
    """
    units, length = unit_rows(values)
    if (n_zero := int((length == 0).sum())) > 0:
        warnings.warn(
            f"data: {n_zero} of {len(values)} rows are zero and have no direction; their cosine with every row counts as 0.",
            RuntimeWarning,
            stacklevel=3,
        )
    return units, (length > 0).astype(np.float64)
