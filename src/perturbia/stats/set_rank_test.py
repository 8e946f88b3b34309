"""Rank test of sets of columns against all other columns, many sets and many rows at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from scipy.stats import rankdata

from perturbia.stats._arrays import any_matrix
from perturbia.stats.rank_sum_test import normal_approximation

__all__ = ["SetEnrichment", "set_enrichment"]


class SetEnrichment(NamedTuple):
    """Rank tests of sets, rows × sets.

    Attributes
    ----------
    statistic
        Rank-biserial correlation, float64 `(n_rows, n_sets)`, from -1 to 1: the share of pairs of a member and another
        column in which the member is higher, minus the share in which it is lower.
    p_value
        Two-sided p-values, float64 `(n_rows, n_sets)`.
    """

    statistic: np.ndarray
    p_value: np.ndarray


def set_enrichment(values: np.ndarray, members: np.ndarray | sp.spmatrix) -> SetEnrichment:
    r"""Wilcoxon rank-sum (Mann-Whitney U) test of the columns of each set against all other columns, in each row.

    Normal approximation with correction for ties and continuity, the numbers of :func:`scipy.stats.mannwhitneyu` with
    ``method="asymptotic"``. Rows are ranked once for all sets, whose rank sums are one matrix product.

    Parameters
    ----------
    values
        Scores, shape `(n_rows, n_columns)`, finite; such as loadings of genes on latents.
    members
        Which columns each set has, boolean, shape `(n_sets, n_columns)`, dense or sparse. Every set has a member and
        lacks one.

    Returns
    -------
    :class:`SetEnrichment`. A row of one value throughout has statistic 0 and p-value 1.

    Raises
    ------
    ValueError
        If shapes do not match, `members` holds anything but True and False, values are missing or infinite, or a set is
        empty or has all columns.

    Examples
    --------
    >>> import numpy as np
    >>> values = np.arange(10.0)[None]
    >>> members = np.array([[False] * 7 + [True] * 3, [True, False] * 5])
    >>> test = set_enrichment(values, members)
    >>> test.statistic.round(2), test.p_value.round(3)
    (array([[ 1. , -0.2]]), array([[0.023, 0.676]]))
    """
    values = np.asarray(values, dtype=np.float64)
    given: Any = members if sp.issparse(members) else np.asarray(members)
    if given.dtype != bool:
        # other numbers would count a member more than once
        msg = f"members: expected True and False, got dtype {given.dtype}. Pass such as members != 0."
        raise ValueError(msg)
    belongs = sp.csr_matrix(any_matrix(given, "members"), dtype=np.float64)
    if values.ndim != 2 or belongs.shape[1] != values.shape[1]:
        msg = f"members: expected a column for each of those of values {values.shape}, got shape {belongs.shape}."
        raise ValueError(msg)
    if not np.isfinite(values).all():
        msg = "values: expected finite numbers, got NaN or infinity. Drop these columns."
        raise ValueError(msg)
    total = values.shape[1]
    size = np.asarray(belongs.sum(axis=1)).ravel()
    if ((size == 0) | (size == total)).any():
        msg = f"members: expected sets of 1 to {total - 1} of the {total} columns, got sizes {size.astype(int).tolist()[:10]}."
        raise ValueError(msg)
    ranks = rankdata(values, axis=1)
    pairs = size * (total - size)
    excess = (belongs @ ranks.T).T - size * (size + 1) / 2 - pairs / 2
    ties = np.array([(count.astype(np.float64) ** 3 - count).sum() for count in map(_equal_values, ranks)])[:, None]
    p_value = normal_approximation(excess, size, total - size, ties)[1]
    return SetEnrichment(2 * excess / pairs, p_value)


def _equal_values(row: np.ndarray) -> np.ndarray:
    return np.unique(row, return_counts=True)[1]
