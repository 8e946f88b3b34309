"""How well two halves of the same data agree: the noise ceiling of measured effects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.stats._arrays import any_matrix, group_codes, position_of
from perturbia.stats.correlation import row_correlation
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    import scipy.sparse as sp


@dataclass(frozen=True)
class SplitHalfReliability:
    """Reliability of measured effects.

    Attributes
    ----------
    groups
        Names of the groups without the reference, shape (n_groups - 1,).
    by_group
        Correlation of each group's effects between halves, shape (n_groups - 1,); NaN where a half shows no variation.
    overall
        The same over all groups and genes together.
    n_splits
        Random splits over which correlations were averaged.
    corrected
        Whether values were raised to full size by :func:`spearman_brown`.
    """

    groups: np.ndarray
    by_group: np.ndarray
    overall: float
    n_splits: int
    corrected: bool

    def __repr__(self) -> str:
        return f"SplitHalfReliability: overall {self.overall:.3f}, {len(self.groups)} groups, {self.n_splits} splits"


def spearman_brown(correlation: float | np.ndarray, *, factor: float = 2.0) -> float | np.ndarray:
    r"""Reliability of a measurement `factor` times as long, from the correlation of two of the present length.

    .. math:: r' = \frac{k r}{1 + (k - 1) r}

    Parameters
    ----------
    correlation
        Correlation between halves, in [-1, 1], any shape. The formula holds for r >= 0; negative values use `|r|` in
        the denominator, which keeps sign and range. NaN stays NaN.
    factor
        Ratio k of the lengths; 2 raises half size to full size.

    Returns
    -------
    Corrected correlation of the same shape.

    Raises
    ------
    ValueError
        Values outside [-1, 1], or a factor that is not positive.

    Examples
    --------
    >>> spearman_brown(0.5)
    0.6666666666666666
    """
    if not factor > 0:
        msg = f"factor: expected > 0, got {factor}."
        raise ValueError(msg)
    r = np.asarray(correlation, dtype=np.float64)
    if (np.abs(r) > 1).any():
        msg = f"correlation: expected values in [-1, 1], got {r[np.abs(r) > 1].flat[0]:g}."
        raise ValueError(msg)
    result = factor * r / (1 + (factor - 1) * np.abs(r))
    return float(result) if result.ndim == 0 else result


def half_split(labels: Sequence[Any] | np.ndarray, *, seed: int) -> np.ndarray:
    """Split rows at random into two halves within every group.

    Parameters
    ----------
    labels
        One group label a row, shape (n_rows,).
    seed
        Seed of the random split.

    Returns
    -------
    Boolean mask of the first half, shape (n_rows,). The odd row of an odd group goes to either half at random.

    Raises
    ------
    ValueError
        Missing labels or no rows.

    Examples
    --------
    >>> int(half_split(["a"] * 4 + ["b"] * 2, seed=0).sum())
    3
    """
    n_rows = len(labels)
    if n_rows == 0:
        msg = "labels: expected at least one row, got none."
        raise ValueError(msg)
    groups, codes = group_codes(labels, n_rows)
    rng = np.random.default_rng(seed)
    order = np.lexsort((rng.random(n_rows), codes))
    count = np.bincount(codes, minlength=len(groups))
    within = np.arange(n_rows) - np.repeat(np.cumsum(count) - count, count)
    first = np.empty(n_rows, dtype=bool)
    first[order] = (within + np.repeat(rng.integers(0, 2, len(groups)), count)) % 2 == 0
    return first


def split_half_correlation(
    X: np.ndarray | sp.spmatrix,
    labels: Sequence[Any] | np.ndarray,
    *,
    reference: Any,
    n_splits: int = 10,
    correct: bool = True,
    seed: int = 0,
) -> SplitHalfReliability:
    r"""Correlation of effects measured in disjoint halves of the cells, averaged over random splits.

    In each split every group, the reference included, is halved at random; the effects of both halves (group mean minus
    reference mean) are correlated over genes. Correlations are averaged over splits and corrected to the full number of
    cells. The corrected value r is what a second experiment of this size would score; a perfect model can expect
    :math:`\sqrt{r}` against the measured effects.

    Parameters
    ----------
    X
        Values of cells on the scale of the effects, shape (n_cells, n_genes), dense or sparse.
    labels
        One group label a cell; at least two cells in each group.
    reference
        Label of the control cells.
    n_splits
        Random splits.
    correct
        Whether to apply :func:`spearman_brown` (after averaging).
    seed
        Seed of the first split; the others follow from it.

    Returns
    -------
    :class:`SplitHalfReliability`.

    Raises
    ------
    ValueError
        Groups of one cell, an unknown reference, no other group, fewer than two genes, missing values, `n_splits < 1`.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 30))
    >>> X[200:] += rng.normal(size=30)
    >>> split_half_correlation(X, ["c"] * 200 + ["p"] * 200, reference="c").overall > 0.9
    True
    """
    matrix = any_matrix(X, "X", min_columns=2)
    groups, codes = group_codes(labels, matrix.shape[0])
    control = position_of(groups, reference, "reference")
    count = np.bincount(codes, minlength=len(groups))
    if len(groups) < 2 or (count < 2).any() or n_splits < 1:
        msg = (
            f"labels, n_splits: expected a group besides the reference, 2 cells in each and a split or more, got "
            f"{len(groups)} groups, {int((count < 2).sum())} of them of one cell, and n_splits={n_splits}."
        )
        raise ValueError(msg)
    others = np.arange(len(groups)) != control
    by_group, overall = np.zeros(len(groups) - 1), 0.0
    for split_seed in np.random.SeedSequence(seed).generate_state(n_splits):
        # One product gives both halves: group 2k and 2k + 1 are the halves of group k.
        halves = 2 * codes + half_split(codes, seed=int(split_seed))
        mean = group_means(matrix, halves, with_variance=False).mean
        effects = [(half - half[control])[others] for half in (mean[0::2], mean[1::2])]
        by_group += row_correlation(*effects) / n_splits
        overall += float(row_correlation(*(half.reshape(1, -1) for half in effects))[0]) / n_splits
    if correct:
        by_group, overall = np.asarray(spearman_brown(by_group)), float(spearman_brown(overall))
    return SplitHalfReliability(groups[others], by_group, overall, n_splits, correct)
