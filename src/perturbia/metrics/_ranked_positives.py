"""Where the positives of each row rank among its candidates, and the average precision that follows, in blocks of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import digamma

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["average_precision", "chance_precision", "random_precision", "rows_at_a_time"]

_BLOCK_ENTRIES = 4_000_000
_COSINES = 1_000_000  # held at a time: few enough to stay in the cache of a processor
_LEAST_ROWS, _MOST_ROWS = 64, 512  # products of fewer rows are slow
_TIE = 1e-12  # cosines that differ by less are equal, up to the rounding of numbers below 4 * _MOST_ROWS
_NONE = -2.0  # below every cosine


def rows_at_a_time(n_rows: int) -> int:
    """Rows whose similarities to all `n_rows` are held at a time."""
    return min(_MOST_ROWS, max(1, _COSINES // n_rows, min(_LEAST_ROWS, _BLOCK_ENTRIES // n_rows)))


def average_precision(
    unit: np.ndarray, candidates: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Average precision of each row, expected over random orders of ties, and its numbers of positives and negatives.

    Parameters
    ----------
    unit
        Rows at length 1, or 0 without direction, (n_rows, n_features).
    candidates
        Gives for some rows, positions (n,), which rows are their positives and which their negatives, both boolean
        (n, n_rows).

    Returns
    -------
    Average precision, NaN without a positive or without a negative, and both numbers; each (n_rows,).
    """
    n_rows = len(unit)
    score = np.full(n_rows, np.nan)
    counts = np.zeros((2, n_rows), dtype=np.int64)
    step = rows_at_a_time(n_rows)
    for start in range(0, n_rows, step):
        rows = np.arange(start, min(start + step, n_rows))
        positive, negative = candidates(rows)
        counts[0, rows], counts[1, rows] = positive.sum(axis=1), negative.sum(axis=1)
        asks = (counts[:, rows] > 0).all(axis=0)
        if asks.any():
            if not asks.all():
                rows, positive, negative = rows[asks], positive[asks], negative[asks]
            score[rows] = _block_precision(unit[rows] @ unit.T, positive, negative)
    return score, counts[0], counts[1]


def _block_precision(similarity: np.ndarray, positive: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """Average precision of some rows, each with a positive, (n_rows,)."""
    row, column = np.divmod(np.flatnonzero(positive), positive.shape[1])
    n_positive = positive.sum(axis=1)
    value = similarity[row, column]
    own = np.full((len(similarity), int(n_positive.max())), _NONE)
    own[row, np.arange(len(row)) - np.repeat(np.cumsum(n_positive) - n_positive, n_positive)] = value
    above, tied = _places(np.sort(own, axis=1), row, value)
    others_above, others_tied = _places(np.sort(np.where(negative, similarity, _NONE), axis=1), row, value)
    precision = _tied_precision(above, tied, above + others_above, tied + others_tied)
    return np.bincount(row, precision) / n_positive


def _places(ascending: np.ndarray, row: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Numbers in a row of sorted numbers that are above each value, and that are equal to it."""
    # each row on an interval of its own, so that one search serves all
    line = (ascending + 4.0 * np.arange(len(ascending))[:, None]).ravel()
    place, end = value + 4.0 * row, (row + 1) * ascending.shape[1]
    above = end - np.searchsorted(line, place + _TIE, side="right")
    return above, end - np.searchsorted(line, place - _TIE, side="left") - above


def _tied_precision(hits: np.ndarray, tied_hits: np.ndarray, before: np.ndarray, tied: np.ndarray) -> np.ndarray:
    r"""Expected precision at the place of a positive that shares its value with others, over random orders of those.

    With h positives among the a candidates above, and p positives among the t candidates that are tied, itself included, it
    is at place r of these with probability 1/t, and (r - 1)(p - 1)/(t - 1) of the tied positives are then before it:

    .. math:: \frac{1}{t} \sum_{r=1}^{t} \frac{h + 1 + (r - 1)\frac{p - 1}{t - 1}}{a + r}
              = \frac{1}{t}\Big[ (h + 1) S + \frac{p - 1}{t - 1} \big(t - (a + 1) S\big) \Big], \quad
              S = \sum_{r=1}^{t} \frac{1}{a + r}
    """
    inverse = np.where(tied > 1, digamma(before + tied + 1.0) - digamma(before + 1.0), 1.0 / (before + 1.0))
    share = (tied_hits - 1) / np.maximum(tied - 1, 1)
    return ((hits + 1) * inverse + share * (tied - (before + 1) * inverse)) / tied


def chance_precision(n_positive: np.ndarray, n_negative: np.ndarray) -> np.ndarray:
    """Expected average precision in random order, shape of both numbers; NaN without a positive or without a negative."""
    nothing = np.zeros(len(n_positive), dtype=np.int64)
    counted = (n_positive > 0) & (n_negative > 0)
    total = np.where(counted, n_positive + n_negative, 1)
    return np.where(counted, _tied_precision(nothing, n_positive, nothing, total), np.nan)


def random_precision(n_positive: int, n_total: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Average precision of `n_positive` positives at random places among `n_total`, drawn `size` times, (size,)."""
    hits = np.arange(1, n_positive + 1)
    precision = np.empty(size)
    step = max(1, _BLOCK_ENTRIES // (n_total if 2 * n_positive > n_total else n_positive))
    for start in range(0, size, step):
        ranks = _random_ranks(n_positive, n_total, min(step, size - start), rng)
        precision[start : start + step] = (hits / (ranks + 1)).mean(axis=1)
    return precision


def _random_ranks(n_positive: int, n_total: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """Sorted distinct places below `n_total`, (size, n_positive)."""
    if 2 * n_positive > n_total:
        order = rng.permuted(np.tile(np.arange(n_total), (size, 1)), axis=1)
        return np.sort(order[:, :n_positive], axis=1)
    ranks = np.sort(rng.integers(n_total, size=(size, n_positive)), axis=1)
    rows = np.arange(size)
    # Places that came twice are drawn anew. No place is preferred in that, so that all sets of places are as likely.
    while True:
        repeated = np.zeros((len(rows), n_positive), dtype=bool)
        repeated[:, 1:] = np.diff(ranks[rows], axis=1) == 0
        again = repeated.any(axis=1)
        rows, repeated = rows[again], repeated[again]
        if not len(rows):
            return ranks
        part = ranks[rows]
        part[repeated] = rng.integers(n_total, size=int(repeated.sum()))
        ranks[rows] = np.sort(part, axis=1)
