"""Which rows an argument chooses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["read_positions"]


def read_positions(chosen: Sequence[int] | np.ndarray | None, n: int, *, argument: str) -> np.ndarray:
    """Read positions, a boolean mask, or None for all, of `n` cells; names, floats and what is out of range are refused."""
    if chosen is None:
        return np.arange(n)
    positions = np.asarray(chosen)
    if positions.dtype == bool:
        if positions.shape != (n,):
            msg = f"{argument}: expected a mask of {n} cells, got shape {positions.shape}."
            raise ValueError(msg)
        positions = np.flatnonzero(positions)
    if positions.size == 0:
        msg = f"{argument}: expected at least one cell, got an empty selection."
        raise ValueError(msg)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        msg = f"{argument}: expected a sequence of whole numbers or a mask of {n} cells, got {chosen!r}."
        raise ValueError(msg)
    if positions.max() >= n or positions.min() < -n:
        msg = f"{argument}: expected positions below {n}, the number of cells, got {chosen!r}."
        raise IndexError(msg)
    return positions
