"""Whether pairs within arms rank higher than if genes were dealt to arms at random."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from perturbia.metrics._arm_pairs import ArmPairs

__all__ = ["permutation_p_values"]

_TOP = np.iinfo(np.uint16).max
_BLOCK_PAIRS = 4_000_000  # pairs looked up at a time


def permutation_p_values(
    pairs: ArmPairs, counts: np.ndarray, *, n_permutations: int, rng: np.random.Generator
) -> tuple[float, np.ndarray]:
    """p-values of all arms together, and of each.

    Parameters
    ----------
    pairs
        Pairs of genes.
    counts
        Pairs at every level, whichever their arms.
    n_permutations
        How often genes are dealt to arms of the same sizes.
    rng
        Source of the permutations.

    Returns
    -------
    The share of permutations in which the mean rank of pairs within arms is at least as high, counting the data; and, for
    every arm, (n_arms,), that in which pairs within it exceed those of its genes with others by at least as much. NaN
    for arms of one gene.
    """
    ranks = _ranks(pairs, counts)
    of_gene = ranks.sum(axis=1, dtype=np.int64)
    size = np.diff(pairs.start)
    tested = np.flatnonzero(size > 1)
    first, second, offset = _pairs_within(pairs.start, tested)
    n_within = (size * (size - 1) // 2)[tested]
    n_between = (size * (pairs.n_genes - size))[tested]

    def statistics(genes: np.ndarray) -> tuple[int, np.ndarray]:
        found = np.concatenate(
            [
                ranks[genes[first[i : i + _BLOCK_PAIRS]], genes[second[i : i + _BLOCK_PAIRS]]]
                for i in range(0, len(first), _BLOCK_PAIRS)
            ]
        )
        within = np.add.reduceat(found, offset, dtype=np.int64)
        total = np.add.reduceat(of_gene[genes], pairs.start[:-1])[tested]
        return int(within.sum()), within / n_within - (total - 2 * within) / n_between

    overall, excess = statistics(np.arange(pairs.n_genes))
    reached, reached_by_arm = 0, np.zeros(len(tested), dtype=np.int64)
    for _ in range(n_permutations):
        permuted, permuted_excess = statistics(rng.permutation(pairs.n_genes))
        reached += permuted >= overall
        reached_by_arm += permuted_excess >= excess
    by_arm = np.full(len(size), np.nan)
    by_arm[tested] = (1 + reached_by_arm) / (1 + n_permutations)
    return (1 + reached) / (1 + n_permutations), by_arm


def _ranks(pairs: ArmPairs, counts: np.ndarray) -> np.ndarray:
    """Share of all pairs below each pair, in 65,536 steps, (n_genes, n_genes); 0 of a gene with itself."""
    below = (np.cumsum(counts) - counts / 2) / counts.sum()
    table = np.rint(below * _TOP).astype(np.uint16)
    ranks = np.empty((pairs.n_genes, pairs.n_genes), dtype=np.uint16)
    for arm in range(len(pairs.start) - 1):
        for first, block in pairs.levels(arm):
            ranks[first : first + len(block)] = table[block]
    np.fill_diagonal(ranks, 0)
    return ranks


def _pairs_within(start: np.ndarray, arms: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions of both genes of the pairs within some arms, and where the pairs of each arm begin."""
    first, second, length = [], [], []
    for begin, end in zip(start[arms], start[arms + 1], strict=True):
        upper = np.triu_indices(end - begin, 1)
        first.append((upper[0] + begin).astype(np.int32))
        second.append((upper[1] + begin).astype(np.int32))
        length.append(len(upper[0]))
    return np.concatenate(first), np.concatenate(second), np.r_[0, np.cumsum(length)[:-1]]
