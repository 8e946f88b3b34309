"""How the cosines of genes of one arm lie among those of genes of different arms: all pairs, in blocks of memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ArmPairs", "PairComparison", "compare_pairs"]

_LEVELS = 2**17  # of the grid between the lowest and the highest cosine
_BLOCK_ENTRIES = 4_000_000  # cosines held at a time


@dataclass(frozen=True)
class PairComparison:
    """Pairs within against pairs between, from how many there are at every level.

    Attributes
    ----------
    probability
        That a pair within is above one between, ties half.
    within, between
        What a pair at a level contributes to the error of `probability`, (n_levels,): its influence.
    independent
        Variance of `probability` if pairs were independent.
    n_within, n_between
        Pairs of both kinds.
    """

    probability: float
    within: np.ndarray
    between: np.ndarray
    independent: float
    n_within: int
    n_between: int

    def standard_error(self, influence: np.ndarray) -> float:
        """Standard error, from the summed influence of the pairs of every gene: pairs that share a gene vary together.

        Each product of two pairs is counted through the gene they share; those of a pair with itself through both of its
        genes, of which one is taken off. It is never below that of independent pairs.
        """
        shared = float(influence @ influence) - self.independent
        return float(np.sqrt(max(shared, self.independent)))


def compare_pairs(within: np.ndarray, between: np.ndarray) -> PairComparison:
    """Compare numbers of pairs at every level, (n_levels,) each, with at least one pair of both kinds."""
    met = np.flatnonzero(within + between)
    first, second = within[met].astype(np.float64), between[met].astype(np.float64)
    n_within, n_between = int(first.sum()), int(second.sum())
    below_between = (np.cumsum(second) - second / 2) / n_between
    below_within = (np.cumsum(first) - first / 2) / n_within
    probability = float(first @ below_between) / n_within
    of_within = (below_between - probability) / n_within
    of_between = (1 - below_within - probability) / n_between
    influence = np.zeros((2, len(within)))
    influence[:, met] = of_within, of_between
    return PairComparison(
        probability=probability,
        within=influence[0],
        between=influence[1],
        independent=float(first @ of_within**2 + second @ of_between**2),
        n_within=n_within,
        n_between=n_between,
    )


class ArmPairs:
    """Levels of the cosines of all pairs of genes.

    Parameters
    ----------
    unit
        Rows of length 1, genes of one arm together, (n_genes, n_features).
    size
        Genes of every arm, (n_arms,).

    Attributes
    ----------
    start
        First gene of every arm, and the number of genes, (n_arms + 1,).
    n_genes
        Number of genes.
    """

    def __init__(self, unit: np.ndarray, size: np.ndarray) -> None:
        self.start = np.r_[0, np.cumsum(size)]
        self.n_genes = len(unit)
        self._unit = unit
        self._lowest, highest = np.inf, -np.inf
        for first, block in self._cosines(0, self.n_genes):
            self._lowest = min(self._lowest, float(block.min()))
            block[np.arange(len(block)), np.arange(first, first + len(block))] = -1
            highest = max(highest, float(block.max()))
        spread = highest - self._lowest
        self._scale = (_LEVELS - 1) / spread if spread > 0 else 0.0

    def _cosines(self, start: int, stop: int) -> Iterator[tuple[int, np.ndarray]]:
        height = max(1, _BLOCK_ENTRIES // self.n_genes)
        for first in range(start, stop, height):
            yield first, self._unit[first : min(first + height, stop)] @ self._unit.T

    def levels(self, arm: int) -> Iterator[tuple[int, np.ndarray]]:
        """First gene of a block and the levels of its cosines with all genes, (n_block, n_genes), for the genes of an arm.

        The level of a gene with itself says nothing.
        """
        for first, cosines in self._cosines(self.start[arm], self.start[arm + 1]):
            steps = np.subtract(cosines, self._lowest, out=cosines)
            steps *= self._scale
            np.rint(steps, out=steps)
            yield first, np.clip(steps, 0, _LEVELS - 1, out=steps).astype(np.int32)

    def counts(self, arm: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs at every level: within the arm, and of its genes with those of other arms."""
        begin, end = self.start[arm], self.start[arm + 1]
        within, between = np.zeros(_LEVELS, dtype=np.int64), np.zeros(_LEVELS, dtype=np.int64)
        for first, block in self.levels(arm):
            above = np.arange(begin, end) > np.arange(first, first + len(block))[:, None]
            within += np.bincount(block[:, begin:end][above], minlength=_LEVELS)
            for others in (block[:, :begin], block[:, end:]):
                between += np.bincount(others.ravel(), minlength=_LEVELS)
        return within, between

    def influence(self, arm: int, comparison: PairComparison) -> np.ndarray:
        """Summed influence of the pairs of an arm, by gene: pairs within it, and those with genes of other arms."""
        begin, end = self.start[arm], self.start[arm + 1]
        total = np.zeros(self.n_genes)
        for first, block in self.levels(arm):
            part = comparison.between[block]
            part[:, begin:end] = comparison.within[block[:, begin:end]]
            part[np.arange(len(block)), np.arange(first, first + len(block))] = 0
            total[first : first + len(block)] += part.sum(axis=1)
            by_other = part.sum(axis=0)
            by_other[begin:end] = 0
            total += by_other
        return total
