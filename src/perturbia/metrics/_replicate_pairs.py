"""Pairs of replicates, and pairs of rows of different perturbations from the same batches, each pair once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from perturbia.metrics._replicate_sets import ReplicateSets

__all__ = ["different_pairs", "same_pairs"]

_ROWS_AT_A_TIME = 2_000_000  # first rows of pairs that are looked at together


def same_pairs(sets: ReplicateSets, max_pairs: int, rng: np.random.Generator) -> np.ndarray:
    """Pairs of rows of the same set that count: all of them, or `max_pairs` drawn without replacement.

    Returns
    -------
    Rows, shape (n_pairs, 2).
    """
    # a slot is paired with what follows in its set: all of it, or all beyond its own cell
    slots = np.arange(len(sets.rows))
    size = sets.cell_size
    first = np.repeat(sets.cell_start[1:], size) if sets.across else slots + 1
    n_partners = np.repeat(sets.set_start[1:][sets.cell_set], size) - first
    ends = np.cumsum(n_partners)
    total = int(ends[-1])
    if total <= max_pairs:
        chosen = np.arange(total)
    else:
        chosen = np.sort(rng.choice(total, size=max_pairs, replace=False, shuffle=False))
    slot = np.searchsorted(ends, chosen, side="right")
    partner = first[slot] + chosen - (ends[slot] - n_partners[slot])
    return sets.rows[np.column_stack([slot, partner])]


def different_pairs(
    like: np.ndarray,
    codes: np.ndarray,
    batches: np.ndarray,
    *,
    max_pairs: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of rows of different perturbations, from the pairs of batches that given pairs are from, each once.

    Parameters
    ----------
    like
        Pairs of rows, shape (n_like, 2).
    codes, batches
        Perturbation (-1 for none) and batch of every row, shape (n_rows,).
    max_pairs
        Most pairs to keep. Where there are more, as many are drawn from every pair of batches, without replacement, as
        it has among `like`, times a whole number, 1 at the least.
    rng
        Generator of the draws.

    Returns
    -------
    pairs
        Rows, shape (n_pairs, 2); none for batches that hold a single perturbation.
    weights
        Weight of each, shape (n_pairs,), 1 in all: every pair of batches weighs as much as it has among `like`.
    """
    n_batches = int(batches.max()) + 1
    kinds, wanted = np.unique(np.sort(batches[like], axis=1) @ [n_batches, 1], return_counts=True)
    pool = _Pool(codes, batches, n_batches)
    first, second = np.divmod(kinds, n_batches)
    n_pairs = pool.n_pairs(first, second)
    some = n_pairs > 0
    first, second, wanted, n_pairs = first[some], second[some], wanted[some], n_pairs[some]
    size = n_pairs
    if n_pairs.sum() > max_pairs:
        size = np.minimum(n_pairs, wanted * max(1, max_pairs // len(like)))
    chosen = _distinct_draws(size, n_pairs, rng)
    start, end = np.cumsum(n_pairs) - n_pairs, np.cumsum(size)
    parts = [np.empty((0, 2), dtype=np.int64)]
    block = np.cumsum(np.diff(pool.start)[first]) // _ROWS_AT_A_TIME
    for part in np.split(np.arange(len(first)), np.flatnonzero(np.diff(block)) + 1) if len(first) else ():
        drawn = chosen[end[part[0]] - size[part[0]] : end[part[-1]]]
        parts.append(pool.pairs(first[part], second[part], drawn - start[part[0]]))
    return np.concatenate(parts), np.repeat(wanted / wanted.sum() / size, size)


class _Pool:
    """Rows by batch and, within it, by perturbation, so that the rows of others are two intervals at the most."""

    def __init__(self, codes: np.ndarray, batches: np.ndarray, n_batches: int) -> None:
        rows = np.flatnonzero(codes >= 0)
        self.rows = rows[np.lexsort((codes[rows], batches[rows]))]
        self.code = codes[self.rows]
        self.n_codes = int(self.code.max()) + 1
        self.cell = batches[self.rows] * self.n_codes + self.code  # ascending
        self.start = np.searchsorted(batches[self.rows], np.arange(n_batches + 1))

    def n_pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Pairs of different perturbations from two batches each, `first` and `second`, or within one."""
        cell, count = np.unique(self.cell, return_counts=True)
        shape = (len(self.start) - 1, self.n_codes)
        table = sp.csr_matrix((count, np.divmod(cell, self.n_codes)), shape=shape)
        alike = np.asarray(table[first].multiply(table[second]).sum(axis=1)).ravel()
        size = np.diff(self.start)
        return (size[first] * size[second] - alike) // np.where(first == second, 2, 1)

    def pairs(self, first: np.ndarray, second: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """The pairs of these numbers, ascending, in the list of those of the first two batches, the second two, …"""
        n_rows = np.diff(self.start)[first]
        before = np.cumsum(n_rows) - n_rows
        one = np.repeat(self.start[first] - before, n_rows) + np.arange(n_rows.sum())
        batch, inner = np.repeat(second, n_rows), np.repeat(first == second, n_rows)
        cell = batch * self.n_codes + self.code[one]
        low, high = (np.searchsorted(self.cell, cell, side=side) for side in ("left", "right"))
        # within a batch a row is paired with what follows its perturbation, else with all but its perturbation
        low = np.where(inner, self.start[batch], low)
        n_partners = np.diff(self.start)[batch] - (high - low)
        end = np.cumsum(n_partners)
        at = np.searchsorted(end, numbers, side="right")
        other = self.start[batch[at]] + numbers - (end[at] - n_partners[at])
        other += np.where(other >= low[at], (high - low)[at], 0)
        return self.rows[np.column_stack([one[at], other])]


def _distinct_draws(size: np.ndarray, total: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw `size` of `total` numbers, from each of some intervals one after the other; ascending."""
    start = np.cumsum(total) - total
    few = np.minimum(size, total - size)  # of many, those are drawn that are left out
    drawn = np.empty(0, dtype=np.int64)
    missing = few
    # Numbers that came twice are drawn anew. No number is preferred in that, so that all sets of numbers are as likely.
    while missing.any():
        new = np.repeat(start, missing) + rng.integers(np.repeat(total, missing))
        drawn = np.union1d(drawn, new)
        missing = few - np.diff(np.searchsorted(drawn, np.append(start, total.sum())))
    inverted = np.repeat(size > few, total) if (size > few).any() else None
    if inverted is None:
        return drawn
    kept = np.zeros(int(total.sum()), dtype=bool)
    kept[drawn] = True
    return np.flatnonzero(kept ^ inverted)
