"""Means over pairs of cells of a function of their distance, between and within groups, in blocks of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK_SIZE = 512  # a float32 block of distances stays in the cache of one core


class DistanceBlocks:
    """Cells in a given order, from which blocks of squared Euclidean distances are taken, one matrix product each.

    The product is (-2 x, |x|², 1) · (y, 1, |y|²). Centring takes the common offset, and with it the cancellation, out
    of it.
    """

    def __init__(self, X: Any, order: np.ndarray, block_size: int) -> None:
        self.dtype = np.float32 if X.dtype in (np.float32, np.float16) else np.float64
        self.centre = np.asarray(X.mean(axis=0, dtype=np.float64)).ravel().astype(self.dtype)
        self.sparse = sp.issparse(X)
        self.rows: Any = X[order] if self.sparse else self._with_lengths(X[order])
        self.buffer = np.empty(min(block_size, len(order)) ** 2, dtype=self.dtype)

    def _with_lengths(self, cells: np.ndarray) -> np.ndarray:
        """Centred cells with two more columns, 1 and their squared length."""
        width = cells.shape[1]
        rows = np.empty((len(cells), width + 2), dtype=self.dtype)
        np.subtract(cells, self.centre, out=rows[:, :width], casting="same_kind")
        rows[:, width] = 1
        rows[:, width + 1] = np.einsum("ij,ij->i", rows[:, :width], rows[:, :width])
        return rows

    def right(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop as the second factor of :meth:`squared`."""
        block = self.rows[start:stop]
        return self._with_lengths(block.toarray()) if self.sparse else block

    def left(self, start: int, stop: int) -> np.ndarray:
        """Rows start..stop as the first factor."""
        block = self.right(start, stop)
        width = block.shape[1] - 2
        rows = -2 * block
        rows[:, width], rows[:, width + 1] = block[:, width + 1], 1
        return rows

    def squared(self, left: np.ndarray, right: np.ndarray, *, same: bool = False) -> np.ndarray:
        """Squared distances of two blocks, in a buffer that the next call writes over; `same` for a block and itself."""
        shape = (len(left), len(right))
        distances = np.matmul(left, right.T, out=self.buffer[: shape[0] * shape[1]].reshape(shape))
        # Rounding may leave -0.0001 for near-identical cells; the sign is cheaper to drop than to clip.
        np.abs(distances, out=distances)
        if same:
            np.fill_diagonal(distances, 0)
        return distances


def root(squared: np.ndarray) -> np.ndarray:
    """Distances from squared distances, in place."""
    return np.sqrt(squared, out=squared)


def group_pair_means(
    X: Any,
    codes: np.ndarray,
    count: np.ndarray,
    *,
    against: int | None,
    block_size: int,
    function: Callable[[np.ndarray], np.ndarray] = root,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of a function of squared distances over pairs of cells: the upper triangle, block by block.

    Parameters
    ----------
    X
        Cells in rows, (n_cells, n_features), dense or CSR.
    codes, count
        Group of every cell, (n_cells,), and cells in every group, (n_groups,).
    against
        Group that the others are paired with; `None` for all pairs of groups.
    block_size
        Cells on each side of a block.
    function
        Maps a block of squared distances, which it may write over, to values of the same shape.

    Returns
    -------
    Means between groups, (n_groups, n_groups) or (n_groups,), and within them, pairs of a cell with itself included,
    (n_groups,). Float64.
    """
    n_groups, n_cells = len(count), len(codes)
    # Groups lie one after the other, the reference last, so that every group meets it in the upper triangle.
    sequence = np.argsort(np.arange(n_groups) == (-1 if against is None else against), kind="stable")
    rank = np.argsort(sequence)
    order = np.argsort(rank[codes], kind="stable")
    ranked = rank[codes[order]]
    bounds = np.r_[0, np.cumsum(count[sequence])]
    cells = DistanceBlocks(X, order, block_size)

    def pieces(start: int, stop: int) -> tuple[slice, np.ndarray]:
        """Groups that meet cells start..stop, and where each begins there."""
        groups = slice(ranked[start], ranked[stop - 1] + 1)
        return groups, np.maximum(bounds[groups], start) - start

    upper, diagonal = np.zeros((n_groups, n_groups)), np.zeros((n_groups, n_groups))
    for row in range(0, n_cells, block_size):
        row_stop = min(row + block_size, n_cells)
        left, (row_groups, row_pieces) = cells.left(row, row_stop), pieces(row, row_stop)
        # Against a reference, columns end with the last group of these rows and resume where the reference begins.
        end = n_cells if against is None else bounds[row_groups.stop]
        resume = n_cells if against is None else max(end, bounds[-2])
        for start in (*range(row, end, block_size), *range(resume, n_cells, block_size)):
            stop = min(start + block_size, end if start < end else n_cells)
            column_groups, column_pieces = pieces(start, stop)
            values = function(cells.squared(left, cells.right(start, stop), same=start == row))
            # Within a block the sums are pairwise, which float32 can hold; between blocks they are float64.
            sums = np.add.reduceat(values, column_pieces, axis=1)
            target = diagonal if start == row else upper
            target[row_groups, column_groups] += np.add.reduceat(sums, row_pieces, axis=0, dtype=np.float64)
    # A block on the diagonal holds both orders of its pairs, one off the diagonal only one.
    mean = (upper + upper.T + diagonal)[np.ix_(rank, rank)] / np.outer(count, count)
    return mean if against is None else mean[against], np.diag(mean)
