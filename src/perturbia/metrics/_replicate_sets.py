"""Mean cosine of the rows of many sets, in closed form: no pair is visited."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from perturbia.metrics._row_order import mixed
from perturbia.stats._membership import one_hot, place_within

__all__ = ["ReplicateSets", "mean_cosines", "replicate_sets"]


@dataclass(frozen=True)
class ReplicateSets:
    """Sets of rows, one after the other, and the rows of each by batch.

    A slot is a place for a row in a set. A cell is the slots of one set in one batch.

    Attributes
    ----------
    rows
        Row in each slot, shape (n_slots,).
    set_start
        First slot of every set, and the end, shape (n_sets + 1,).
    cell_start
        First slot of every cell, and the end, shape (n_cells + 1,).
    cell_set, cell_batch
        Set and batch of every cell, shape (n_cells,).
    n_pairs
        Pairs of rows of each set that count, shape (n_sets,).
    across
        Whether pairs count across batches only.
    """

    rows: np.ndarray
    set_start: np.ndarray
    cell_start: np.ndarray
    cell_set: np.ndarray
    cell_batch: np.ndarray
    n_pairs: np.ndarray
    across: bool

    @property
    def cell_size(self) -> np.ndarray:
        """Slots of every cell, shape (n_cells,)."""
        return np.diff(self.cell_start)

    def kinds(self, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Group sets with as many rows in every batch, `most` of them at the most.

        Returns
        -------
        The first set of every group, and the group of every set.
        """
        # a sum of 64-bit marks, one for each batch and number of rows in it: two kinds share it by a chance of 2^-64
        mark = mixed(mixed(self.cell_batch) ^ self.cell_size.astype(np.uint64))
        start = np.flatnonzero(np.diff(self.cell_set, prepend=-1))
        kind = np.unique(np.add.reduceat(mark, start), return_inverse=True)[1]
        place = place_within(kind, np.arange(len(kind)))
        _, first, group = np.unique(kind + (kind.max() + 1) * (place // most), return_index=True, return_inverse=True)
        return first, group

    def take(self, sets: np.ndarray) -> ReplicateSets:
        """Some of the sets, in the given order."""
        slots, set_start = _joined(self.set_start, sets)
        per_set = np.concatenate([[0], np.cumsum(np.bincount(self.cell_set, minlength=len(self.n_pairs)))])
        cells, cell_ends = _joined(per_set, sets)
        return ReplicateSets(
            rows=self.rows[slots],
            set_start=set_start,
            cell_start=np.concatenate([[0], np.cumsum(self.cell_size[cells])]),
            cell_set=np.repeat(np.arange(len(sets)), np.diff(cell_ends)),
            cell_batch=self.cell_batch[cells],
            n_pairs=self.n_pairs[sets],
            across=self.across,
        )


def _joined(start: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Elements of the chosen intervals one after the other, and where each interval now starts."""
    size = np.diff(start)[chosen]
    ends = np.concatenate([[0], np.cumsum(size)])
    return np.arange(ends[-1]) + np.repeat(start[chosen] - ends[:-1], size), ends


def replicate_sets(codes: np.ndarray, batches: np.ndarray, n_sets: int, *, across: bool) -> ReplicateSets:
    """Group rows by set and batch.

    Parameters
    ----------
    codes
        Set of every row, -1 for none, shape (n_rows,); every set has rows.
    batches
        Batch of every row, shape (n_rows,).
    n_sets
        Number of sets.
    across
        Whether pairs count across batches only.
    """
    order = np.lexsort((batches, codes))
    order = order[np.searchsorted(codes[order], 0) :]
    code, batch = codes[order], batches[order]
    cell_start = np.flatnonzero((np.diff(code, prepend=-1) != 0) | (np.diff(batch, prepend=-1) != 0))
    cell_set, size = code[cell_start], np.diff(np.append(cell_start, len(order))).astype(np.float64)
    n_rows = np.bincount(code, minlength=n_sets).astype(np.float64)
    inner = np.bincount(cell_set, size**2, minlength=n_sets) if across else n_rows
    return ReplicateSets(
        rows=order,
        set_start=np.searchsorted(code, np.arange(n_sets + 1)),
        cell_start=np.append(cell_start, len(order)),
        cell_set=cell_set,
        cell_batch=batch[cell_start],
        n_pairs=((n_rows**2 - inner) / 2).astype(np.int64),
        across=across,
    )


def mean_cosines(unit: np.ndarray, squares: np.ndarray, sets: ReplicateSets, drawn: np.ndarray) -> np.ndarray:
    r"""Mean cosine over the pairs that count, for many draws of rows into the slots of the sets.

    .. math:: \frac{\lVert \sum u \rVert^2 - \sum_b \lVert \sum_{i \in b} u_i \rVert^2}{n^2 - \sum_b n_b^2}

    with b over batches, or over single rows where all pairs count.

    Parameters
    ----------
    unit, squares
        Rows at length 1 or 0, (n_rows, n_features), and their squared lengths, (n_rows,).
    sets
        The sets, each with a pair that counts.
    drawn
        Row in each slot, shape (n_draws, n_slots).

    Returns
    -------
    Shape (n_draws, n_sets).
    """
    lengths = squares[drawn]
    inner = np.add.reduceat(lengths, sets.set_start[:-1], axis=1)
    (several,) = np.nonzero(sets.cell_size > 1)
    if sets.across and len(several):
        slots, start = _joined(sets.cell_start, several)
        more = _squared_sums(unit, drawn[:, slots], start) - np.add.reduceat(lengths[:, slots], start[:-1], axis=1)
        inner += more @ one_hot(sets.cell_set[several], len(sets.n_pairs))
    return (_squared_sums(unit, drawn, sets.set_start) - inner) / (2.0 * sets.n_pairs)


def _squared_sums(unit: np.ndarray, drawn: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Squared length of the sum of the rows in every interval of slots, (n_draws, n_intervals)."""
    n_draws, n_slots = drawn.shape
    ends = (np.arange(n_draws)[:, None] * n_slots + start[None, 1:]).ravel()
    indicator = sp.csr_matrix(
        (np.ones(drawn.size), drawn.ravel(), np.concatenate([[0], ends])), shape=(len(ends), len(unit))
    )
    sums = indicator @ unit
    return np.einsum("ij,ij->i", sums, sums).reshape(n_draws, len(start) - 1)
