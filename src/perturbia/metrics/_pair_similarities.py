"""Cosines of all pairs of rows, counted rather than kept, and the exact rank of a few of them.

A first pass over blocks counts how many cosines lie in each of some 260,000 bins. That settles the rank of a cosine up to
its own bin, and so on which side of nearly every threshold it lies. Where it does not, a second pass over the blocks looks
at the cosines in those bins one by one. All is in double precision: memory is that of the rows and of one block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TIE", "CosineCounts", "PairWeights", "bin_of", "count_cosines"]

_SCALE = 2**17  # bins a unit; the values of exact ties (0, 0.5, 1) are in the middle of a bin and not at its edge
_N_BINS = 2 * _SCALE + 1
# Products of blocks round the cosine of one pair differently by its place in a block, by less than this.
TIE = 1e-12
_ROWS, _COLUMNS = 256, 2048  # of a block: the matrix product is fast and its result stays near the processor


@dataclass(frozen=True)
class PairWeights:
    """Weights of pairs of rows that depend on a class of each row.

    Attributes
    ----------
    classes
        Class of every row, shape (n_rows,).
    table
        Symmetric, shape (n_classes, n_classes).
    """

    classes: np.ndarray
    table: np.ndarray

    def of(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Weights of pairs of rows at these positions."""
        return self.table[self.classes[first], self.classes[second]]


def bin_of(cosines: np.ndarray) -> np.ndarray:
    """Bin of each cosine, of :data:`_N_BINS`."""
    return (cosines * _SCALE + (_SCALE + 0.5)).astype(np.intp)


class _Binning:
    """:func:`bin_of` for one block after another, in memory that is taken once."""

    def __init__(self) -> None:
        self._scaled, self._bins = np.empty(_ROWS * _COLUMNS), np.empty(_ROWS * _COLUMNS, dtype=np.intp)

    def __call__(self, cosines: np.ndarray) -> np.ndarray:
        """Bins of a block, until the next call."""
        scaled, bins = self._scaled[: len(cosines)], self._bins[: len(cosines)]
        np.multiply(cosines, _SCALE, out=scaled)
        scaled += _SCALE + 0.5
        np.copyto(bins, scaled, casting="unsafe")
        return bins


@dataclass(frozen=True)
class CosineCounts:
    """How many pairs of rows, or how much of their weight, have which cosine.

    Attributes
    ----------
    units
        Rows of length 1, shape (n_rows, n_features).
    weights
        Weights of pairs; None counts each as 1.
    below
        Weight of the pairs in the bins before each, and of all of them last, shape (n_bins + 1,).
    """

    units: np.ndarray
    weights: PairWeights | None
    below: np.ndarray

    @property
    def total(self) -> float:
        """Weight of all pairs."""
        return float(self.below[-1])

    def rank_bounds(self, cosines: np.ndarray) -> np.ndarray:
        """Limits of the rank of cosines, without another look at the pairs.

        Returns
        -------
        Shape (2, 2, n_cosines): left rank (weight of the pairs with a smaller cosine) and right rank (of those with a
        smaller or equal one), and of each the lower and the upper limit.
        """
        left, right = bin_of(cosines - TIE), bin_of(cosines + TIE)
        return np.stack([self.below[np.stack([one, one + 1])] for one in (left, right)])

    def ranks(self, cosines: np.ndarray) -> np.ndarray:
        """Exact left and right ranks of cosines, shape (2, n_cosines), in one pass over all pairs."""
        edges = np.stack([cosines - TIE, cosines + TIE])
        bins = bin_of(edges)
        ranks = self.below[bins]
        wanted = np.zeros(_N_BINS, dtype=bool)
        wanted[bins] = True
        binned = _Binning()
        for cosine, weight in _blocks(self.units, self.weights):
            near = np.flatnonzero(wanted[binned(cosine)])
            if len(near) == 0:
                continue
            if weight is None:
                values, before = np.sort(cosine[near]), np.arange(len(near) + 1.0)
            else:
                order = near[np.argsort(cosine[near])]
                values, before = cosine[order], np.concatenate([[0.0], np.cumsum(weight[order])])
            starts = np.searchsorted(bin_of(values), bins)  # what lies in bins before is counted already
            stops = np.stack([np.searchsorted(values, edges[0], "left"), np.searchsorted(values, edges[1], "right")])
            ranks += before[stops] - before[starts]
        return ranks


def count_cosines(units: np.ndarray, weights: PairWeights | None = None) -> CosineCounts:
    """Count the cosines of all pairs of different rows.

    Parameters
    ----------
    units
        Rows of length 1, shape (n_rows, n_features).
    weights
        Weights of pairs; None counts each as 1.

    Returns
    -------
    The counts.
    """
    counts, binned = np.zeros(_N_BINS), _Binning()
    for cosine, weight in _blocks(units, weights):
        counts += np.bincount(binned(cosine), weights=weight, minlength=_N_BINS)
    return CosineCounts(units, weights, np.concatenate([[0.0], np.cumsum(counts)]))


def _blocks(units: np.ndarray, weights: PairWeights | None) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Cosines of all pairs of different rows, each pair once, and their weights, both flat, until the next block."""
    memory = np.empty(_ROWS * _COLUMNS)
    for start in range(0, len(units), _ROWS):
        rows = np.arange(start, min(start + _ROWS, len(units)))
        some = units[start : start + len(rows)]
        upper = np.triu_indices(len(rows), 1)
        yield (some @ some.T)[upper], None if weights is None else weights.of(rows[upper[0]], rows[upper[1]])
        for left in range(start + len(rows), len(units), _COLUMNS):
            columns = np.arange(left, min(left + _COLUMNS, len(units)))
            cosine = memory[: len(rows) * len(columns)]
            np.matmul(some, units[left : left + len(columns)].T, out=cosine.reshape(len(rows), -1))
            yield cosine, None if weights is None else weights.of(rows[:, None], columns).ravel()
