"""Pairs of replicates, and pairs of rows of different perturbations from the same batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from perturbia.metrics._replicate_sets import ReplicateSets

__all__ = ["different_pairs", "same_pairs"]

_MOST_TRIALS = 100  # of drawing two rows of different perturbations from two given batches


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
    pool: np.ndarray,
    max_pairs: int,
    rng: np.random.Generator,
) -> np.ndarray:
    """Pairs of rows of different perturbations, drawn from the batches of given pairs.

    Parameters
    ----------
    like
        Pairs of rows, shape (n_like, 2): each of them stands for as many drawn pairs as the others.
    codes, batches
        Perturbation and batch of every row, shape (n_rows,).
    pool
        Rows to draw from, shape (n_pool,), by batch.
    max_pairs
        Most pairs to draw; no less than one for each of `like`.
    rng
        Generator of the draws.

    Returns
    -------
    Rows, shape (n_pairs, 2); none for batches that hold a single perturbation.
    """
    first, last = (np.searchsorted(batches[pool], batches[like], side=side) for side in ("left", "right"))
    times = max(1, max_pairs // max(1, len(like)))
    low, high = np.tile(first, (times, 1)), np.tile(last, (times, 1))
    pairs = np.zeros_like(low)
    open_ = np.arange(len(pairs))
    for _ in range(_MOST_TRIALS):
        pairs[open_] = pool[rng.integers(low[open_], high[open_])]
        open_ = open_[codes[pairs[open_, 0]] == codes[pairs[open_, 1]]]
        if not len(open_):
            break
    return np.delete(pairs, open_, axis=0)
