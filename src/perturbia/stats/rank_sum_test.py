"""Wilcoxon rank-sum test of every group against one reference group, all genes at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp
from scipy.special import ndtr
from scipy.stats import false_discovery_control

from perturbia.stats._arrays import any_matrix, group_codes, position_of
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Sequence

FoldChange = Literal["geometric", "arithmetic", "values"]
_BLOCK_ENTRIES = 4_000_000  # stored values that are ranked at a time; bounds the memory


@dataclass(frozen=True)
class RankSumTest:
    """Rank-sum tests of groups against a reference.

    Attributes
    ----------
    groups
        Names of the groups without the reference, shape (n_groups - 1,).
    statistic
        Mann-Whitney U of the group: pairs of a cell of the group and a reference cell in which the group's value is
        larger, ties counted half. Shape (n_groups - 1, n_genes). U / (n m) is the area under the ROC curve.
    z_score
        Standardised statistic, same shape; positive where the group is higher, 0 where all values are equal.
    p_value
        Two-sided p-values, same shape.
    fdr
        Benjamini-Hochberg adjusted p-values, over the genes of each group, same shape.
    log2_fold_change
        log2 of the ratio of the means, same shape; NaN where none was asked for.
    count
        Cells of each group, shape (n_groups - 1,).
    reference
        Name of the reference group.
    n_reference
        Cells of the reference group.
    """

    groups: np.ndarray
    statistic: np.ndarray
    z_score: np.ndarray
    p_value: np.ndarray
    fdr: np.ndarray
    log2_fold_change: np.ndarray
    count: np.ndarray
    reference: Any
    n_reference: int

    def __repr__(self) -> str:
        n_groups, n_genes = self.p_value.shape
        return f"RankSumTest: {n_groups} groups x {n_genes} genes against {self.reference!r}"


def rank_sum(
    X: np.ndarray | sp.spmatrix,
    labels: Sequence[Any] | np.ndarray,
    *,
    reference: Any,
    use_continuity: bool = True,
    fold_change: FoldChange | None = "geometric",
    pseudocount: float = 1e-9,
) -> RankSumTest:
    r"""Wilcoxon rank-sum (Mann-Whitney U) test of every group against the reference, for every gene.

    Normal approximation with tie correction: with n cells in the group, m in the reference, N = n + m, and t the sizes of
    sets of equal values in both together,

    .. math:: \sigma^2 = \frac{n m}{12} \left(N + 1 - \frac{\sum_t (t^3 - t)}{N (N - 1)}\right), \qquad
              z = \frac{U - n m / 2}{\sigma}

    Same numbers as :func:`scipy.stats.mannwhitneyu` with ``method="asymptotic"``, cell by cell of the table. Values are
    sorted once a gene for all groups together, and zeros of sparse data are never visited.

    Parameters
    ----------
    X
        Values of cells, shape (n_cells, n_genes), dense or sparse (stays sparse), finite.
    labels
        One group label a cell.
    reference
        Label of the control cells.
    use_continuity
        Move \|U - n m / 2\| half a step towards 0 before the p-value is taken, as SciPy and pdex do; scanpy does not.
        `z_score` is without it.
    fold_change
        Which means the fold change compares. For X on the log1p scale: `"geometric"`, :math:`e^{\bar x} - 1` (what pdex
        and cell-eval do), or `"arithmetic"`, the mean of :math:`e^x - 1`. `"values"` takes the means of X as it is, for X
        on the scale of counts; `None` takes none, for X of any scale.
    pseudocount
        Added to both means before the ratio, so that a gene without counts has a finite fold change; 0 gives infinite
        ones.

    Returns
    -------
    :class:`RankSumTest`; groups sorted, the reference left out.

    Raises
    ------
    ValueError
        Missing labels, unknown reference, no other group, missing or infinite values, a negative pseudocount, unknown
        `fold_change`, or negative means, whose ratio is no fold change.

    Notes
    -----
    A gene with one value in all cells has p = 1. O(nnz log n_cells) time; memory besides X is bounded. The test is
    Wilcoxon (1945) and Mann and Whitney (1947); adjusted p-values are Benjamini and Hochberg (1995).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0, 5.0], [1.0, 5.0], [2.0, 5.0], [3.0, 5.0], [4.0, 5.0]])
    >>> test = rank_sum(X, ["c", "c", "c", "p", "p"], reference="c")
    >>> test.statistic, test.p_value.round(3)
    (array([[6., 3.]]), array([[0.149, 1.   ]]))
    """
    if fold_change not in ("geometric", "arithmetic", "values", None):
        msg = f"fold_change: expected 'geometric', 'arithmetic', 'values' or None, got {fold_change!r}."
        raise ValueError(msg)
    if not 0 <= pseudocount < np.inf:
        msg = f"pseudocount: expected a finite number >= 0, got {pseudocount}."
        raise ValueError(msg)
    matrix = any_matrix(X, "X")
    groups, codes = group_codes(labels, matrix.shape[0])
    control = position_of(groups, reference, "reference")
    if len(groups) < 2:
        msg = f"labels: expected a group besides the reference {reference!r}, got none."
        raise ValueError(msg)
    ratio = _log2_fold_change(matrix, codes, control, fold_change, pseudocount)
    count = np.bincount(codes, minlength=len(groups))
    statistic, ties = _statistics(matrix, codes, count, control)
    others = np.arange(len(groups)) != control
    n, m = count[others, None].astype(float), float(count[control])
    z_score, p_value = normal_approximation(
        statistic[others] - n * m / 2, n, m, ties[others], use_continuity=use_continuity
    )
    return RankSumTest(
        groups=groups[others],
        statistic=statistic[others],
        z_score=z_score,
        p_value=p_value,
        fdr=false_discovery_control(p_value, axis=1),
        log2_fold_change=ratio,
        count=count[others],
        reference=reference,
        n_reference=int(count[control]),
    )


def normal_approximation(
    excess: np.ndarray, n: np.ndarray, m: np.ndarray | float, ties: np.ndarray, *, use_continuity: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    r"""Standardised U and its two-sided p-value, by the formula of :func:`rank_sum`; arguments broadcast.

    Parameters
    ----------
    excess
        U minus its expectation, :math:`U - n m / 2`.
    n, m
        Values of the group, and of what it is compared with.
    ties
        Sums of :math:`t^3 - t` over the sets of t equal values among the n + m.
    use_continuity
        Move \|excess\| half a step towards 0 before the p-value is taken.

    Returns
    -------
    z-scores, without the half step, and p-values. Where all values are equal they are 0 and 1.
    """
    total = n + m
    # Ties of one value in all cells leave a variance of exactly 0 in exact arithmetic only.
    constant = ties >= total**3 - total
    variance = np.maximum(n * m / 12 * (total + 1 - ties / (total * (total - 1))), 0)
    deviation = np.where(constant, 0.0, 1.0 / np.sqrt(np.where(constant, 1.0, variance)))
    step = np.maximum(np.abs(excess) - 0.5, 0) if use_continuity else np.abs(excess)
    return excess * deviation, 2 * ndtr(-step * deviation)


def _log2_fold_change(
    X: Any, codes: np.ndarray, control: int, kind: FoldChange | None, pseudocount: float
) -> np.ndarray:
    """Log2 ratios of group means to the mean of the reference, (n_groups - 1, n_genes)."""
    if kind is None:
        return np.full((codes.max(), X.shape[1]), np.nan)
    if kind == "arithmetic":
        X = X.expm1() if sp.issparse(X) else np.expm1(X)
    # Sums of sparse data hold exact zeros for genes without counts, which a small pseudocount would otherwise magnify.
    mean = group_means(sp.csr_matrix(X), codes, with_variance=False).mean
    if kind == "geometric":
        mean = np.expm1(mean)
    if (mean < 0).any():
        msg = (
            f"X: expected group means >= 0 for a fold change, got a minimum of {mean.min():g}. "
            "Pass fold_change=None for values on another scale."
        )
        raise ValueError(msg)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.log2((mean + pseudocount) / (mean[control] + pseudocount))
    ratio[np.isnan(ratio)] = 0.0  # 0 / 0: no change
    return np.delete(ratio, control, axis=0)


def _statistics(X: Any, codes: np.ndarray, count: np.ndarray, control: int) -> tuple[np.ndarray, np.ndarray]:
    """U of every group against the reference and the sums of t³ - t over ties, both (n_groups, n_genes)."""
    n_cells, n_genes = X.shape
    # Cells of a group lie together, so that a stable sort by value leaves groups in order within equal values.
    order = np.argsort(codes, kind="stable")
    codes = codes[order]
    statistic, ties = np.empty((len(count), n_genes)), np.empty((len(count), n_genes))
    width = max(1, _BLOCK_ENTRIES // n_cells)
    columns = X[order].tocsc() if sp.issparse(X) else None
    for start in range(0, n_genes, width):
        stop = min(start + width, n_genes)
        block = sp.csc_matrix(X[order, start:stop]) if columns is None else columns[:, start:stop]
        block.eliminate_zeros()
        statistic[:, start:stop], ties[:, start:stop] = _rank_block(block, codes, count, control)
    return statistic, ties


def _rank_block(
    block: sp.csc_matrix, codes: np.ndarray, count: np.ndarray, control: int
) -> tuple[np.ndarray, np.ndarray]:
    """Ranks of a block of genes of which only the non-zero values are stored; rows are sorted by group."""
    n_groups, n_genes = len(count), block.shape[1]
    stored = np.diff(block.indptr)
    value, group, gene = block.data.copy(), codes[block.indices], np.repeat(np.arange(n_genes), stored)
    for begin, end in zip(block.indptr[:-1], block.indptr[1:], strict=True):
        by_value = np.argsort(value[begin:end], kind="stable")
        value[begin:end], group[begin:end] = value[begin:end][by_value], group[begin:end][by_value]
    zeros = count[:, None] - np.bincount(group * n_genes + gene, minlength=n_groups * n_genes).reshape(
        n_groups, n_genes
    )

    # Sets of equal values, and in them runs of one group.
    begins_set = np.ones(len(value), dtype=bool)
    begins_set[1:] = (value[1:] != value[:-1]) | (gene[1:] != gene[:-1])
    begins_run = begins_set.copy()
    begins_run[1:] |= group[1:] != group[:-1]
    (run,) = np.nonzero(begins_run)
    length = np.diff(np.r_[run, len(value)]).astype(float)
    run_set, run_group, run_gene = np.cumsum(begins_set)[run] - 1, group[run], gene[run]
    set_gene, set_value = gene[begins_set], value[begins_set]
    is_control = run_group == control
    equal = np.bincount(run_set[is_control], weights=length[is_control], minlength=len(set_gene))

    # Reference cells below each value: those stored before it in its gene, and the zeros below positive values.
    before = np.cumsum(equal) - equal
    first_set = np.searchsorted(set_gene, np.arange(n_genes))
    below = (
        before - np.r_[before, equal.sum()][first_set][set_gene] + np.where(set_value > 0, zeros[control][set_gene], 0)
    )
    negative = np.bincount(set_gene, weights=np.where(set_value < 0, equal, 0), minlength=n_genes)

    def per_group(weights: np.ndarray) -> np.ndarray:
        """Sums over the runs of a group in a gene."""
        sums = np.bincount(run_group * n_genes + run_gene, weights=weights, minlength=n_groups * n_genes)
        return sums.reshape(n_groups, n_genes)

    statistic = per_group(length * (below + 0.5 * equal)[run_set])
    statistic += zeros * (negative + 0.5 * zeros[control])
    alone = equal**3 - equal
    together = equal[run_set] + length
    ties = per_group(together**3 - together - alone[run_set])
    ties += np.bincount(set_gene, weights=alone, minlength=n_genes)
    both = (zeros + zeros[control]).astype(float)
    return statistic, ties + both**3 - both
