"""Random rows in the place of replicates: as many in every batch, and none of them twice in a set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.metrics._replicate_sets import mean_cosines

if TYPE_CHECKING:
    from perturbia.metrics._replicate_sets import ReplicateSets

__all__ = ["BatchDraws", "compare_with_draws"]

_DRAWN = 4_000_000  # rows drawn at a time
_SUMMED = 8_000_000  # entries of sums of rows held at a time
_SHARING = 50  # draws for each set that shares them
_ROUNDING = 1e-12  # mean cosines that differ by less are equal


class BatchDraws:
    """Draws from a pool of rows into the slots of sets.

    The pool of a batch is put in random order, and the sets with rows in it take from it one after the other; where they
    need more rows than there are, from further random orders. Every set gets a simple random sample of every batch.

    Parameters
    ----------
    sets
        The sets; no cell is larger than the pool of its batch.
    pool
        Rows to draw from, shape (n_pool,).
    pool_batches
        Batch of each of them, ascending, shape (n_pool,).
    """

    def __init__(self, sets: ReplicateSets, pool: np.ndarray, pool_batches: np.ndarray) -> None:
        self.pool = pool
        self.used = np.unique(sets.cell_batch)
        self.first = np.searchsorted(pool_batches, self.used)
        self.size = np.searchsorted(pool_batches, self.used, side="right") - self.first
        size, batch = sets.cell_size, np.searchsorted(self.used, sets.cell_batch)
        # Cells of a batch side by side, the largest last. A cell that starts within the window ends within the pool.
        order = np.lexsort((size, batch))
        ends = np.cumsum(size[order])
        before = np.concatenate([[0], ends])[np.searchsorted(batch[order], np.arange(len(self.used)))]
        place = ends - size[order] - before[batch[order]]
        window = self.size - np.maximum.reduceat(size[order], np.flatnonzero(np.diff(batch[order], prepend=-1))) + 1
        round_, offset = np.divmod(place, window[batch[order]])
        self.n_rounds = np.zeros(len(self.used), dtype=np.int64)
        np.maximum.at(self.n_rounds, batch[order], round_ + 1)
        self.start = np.concatenate([[0], np.cumsum(self.n_rounds * self.size)])
        column = np.empty(len(size), dtype=np.int64)
        column[order] = self.start[batch[order]] + round_ * self.size[batch[order]] + offset
        self.column = np.repeat(column - sets.cell_start[:-1], size) + np.arange(size.sum())

    @property
    def width(self) -> int:
        """Rows put in order for one draw."""
        return int(self.start[-1])

    def draw(self, rng: np.random.Generator, n_draws: int) -> np.ndarray:
        """Row in each slot, (n_draws, n_slots)."""
        ordered = np.empty((n_draws, self.width), dtype=np.int64)
        for b in range(len(self.used)):
            rows = self.pool[self.first[b] : self.first[b] + self.size[b]]
            part = rng.permuted(np.tile(rows, (n_draws * self.n_rounds[b], 1)), axis=1)
            ordered[:, self.start[b] : self.start[b + 1]] = part.reshape(n_draws, -1)
        return ordered[:, self.column]


def compare_with_draws(
    unit: np.ndarray,
    squares: np.ndarray,
    sets: ReplicateSets,
    *,
    pool: np.ndarray,
    pool_batches: np.ndarray,
    observed: np.ndarray,
    n_null: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """How many draws have a mean cosine as large as each set, and the mean of the draws.

    Sets with as many rows in every batch share their draws, but no more than one set for fifty draws: the error of the
    draws, which is common to those that share, then adds a fiftieth to the sampling variance of their p-values at the most.

    Parameters
    ----------
    unit, squares, sets
        As in :func:`mean_cosines`.
    pool, pool_batches
        As in :class:`BatchDraws`.
    observed
        Mean cosine of every set, shape (n_sets,).
    n_null
        Number of draws.
    rng
        Generator of the draws.

    Returns
    -------
    Number of draws that are as large, and mean of the draws, both (n_sets,).
    """
    first, kind = sets.kinds(max(1, n_null // _SHARING))
    models = sets.take(first)
    draws = BatchDraws(models, pool, pool_batches)
    at_least, total = np.zeros(len(observed), dtype=np.int64), np.zeros(len(first))
    height = max(1, _DRAWN // max(draws.width, len(observed)))
    step = max(1, _SUMMED // (len(first) * unit.shape[1]))
    for start in range(0, n_null, height):
        drawn = draws.draw(rng, min(height, n_null - start))
        parts = [mean_cosines(unit, squares, models, drawn[k : k + step]) for k in range(0, len(drawn), step)]
        values = np.concatenate(parts)
        total += values.sum(axis=0)
        at_least += (values[:, kind] >= observed - _ROUNDING).sum(axis=0)
    return at_least, (total / n_null)[kind]
