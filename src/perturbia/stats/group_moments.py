"""Means, variances and sizes of groups of cells, and effects of groups against a reference with standard errors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from perturbia.stats._arrays import any_matrix, group_codes, position_of
from perturbia.stats._membership import one_hot

if TYPE_CHECKING:
    from collections.abc import Sequence

_DENSE_BLOCK = 4096  # rows of a dense matrix cast to float64 at a time
_CANCELLED = 1e-10  # share of the mean square below which a variance has lost its digits


@dataclass(frozen=True)
class GroupMoments:
    """First two moments of groups of rows.

    Attributes
    ----------
    groups
        Names of the groups, shape (n_groups,).
    mean
        Group means, shape (n_groups, n_columns), float64.
    variance
        Unbiased variances (divisor n - 1), same shape; NaN in groups of one row; `None` when not asked for.
    count
        Rows in each group, shape (n_groups,), int64.
    """

    groups: np.ndarray
    mean: np.ndarray
    variance: np.ndarray | None
    count: np.ndarray

    def __repr__(self) -> str:
        return f"GroupMoments: {len(self.groups)} groups x {self.mean.shape[1]} columns, {self.count.sum()} rows"


@dataclass(frozen=True)
class GroupEffects:
    """Differences of group means to a reference group.

    Attributes
    ----------
    groups
        Names of the groups without the reference, shape (n_groups - 1,), in the order of the moments.
    effects
        Group mean minus reference mean, shape (n_groups - 1, n_columns).
    standard_errors
        Standard errors of these differences (unequal variances), same shape.
    """

    groups: np.ndarray
    effects: np.ndarray
    standard_errors: np.ndarray

    def __repr__(self) -> str:
        return f"GroupEffects: {len(self.groups)} groups x {self.effects.shape[1]} columns"


def _membership(design: Any, n_rows: int, groups: Sequence[Any] | None) -> tuple[np.ndarray, sp.csr_matrix]:
    """Names of the groups and the (n_groups, n_rows) indicator matrix."""
    if sp.issparse(design) or np.ndim(design) == 2:
        indicator = sp.csr_matrix(any_matrix(design, "labels"), dtype=np.float64)
        indicator.eliminate_zeros()
        if indicator.shape[0] != n_rows or not (indicator.data == 1).all():
            msg = f"labels: expected a 0/1 membership matrix of {n_rows} rows, got shape {indicator.shape} or other values."
            raise ValueError(msg)
        names = np.arange(indicator.shape[1]) if groups is None else np.asarray(list(groups))
        if len(names) != indicator.shape[1]:
            msg = f"groups: expected a name for each of the {indicator.shape[1]} columns of labels, got {len(names)}."
            raise ValueError(msg)
        return names, indicator.T.tocsr()
    names, codes = group_codes(design, n_rows, groups=groups)
    return names, sp.csr_matrix(one_hot(codes, len(names)).T)


def _sums(indicator: sp.csr_matrix, X: Any, *, squares: bool) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Group sums of (X - shift) and of its squares, and the shift; dense data are shifted by the column means."""
    if sp.issparse(X):
        sums = (indicator @ X).toarray()
        if not squares:
            return sums, None, np.zeros(X.shape[1])
        squared = sp.csr_matrix((X.data.astype(np.float64) ** 2, X.indices, X.indptr), shape=X.shape)
        return sums, (indicator @ squared).toarray(), np.zeros(X.shape[1])
    shift = X.mean(axis=0, dtype=np.float64)
    by_row = indicator.tocsc()
    sums = np.zeros((indicator.shape[0], X.shape[1]))
    square_sums = np.zeros_like(sums) if squares else None
    for start in range(0, X.shape[0], _DENSE_BLOCK):
        part = by_row[:, start : start + _DENSE_BLOCK]
        block = X[start : start + _DENSE_BLOCK] - shift
        sums += part @ block
        if square_sums is not None:
            square_sums += part @ np.square(block, out=block)
    return sums, square_sums, shift


def _shifted_spread(indicator: sp.csr_matrix, X: Any, columns: np.ndarray, n: np.ndarray) -> np.ndarray:
    """Mean squares within groups minus squared means, of some sparse columns minus the means of their entries."""
    part = sp.csc_matrix(X[:, columns]).astype(np.float64)
    stored = np.diff(part.indptr)
    ones = sp.csc_matrix((np.ones(part.nnz), part.indices, part.indptr), shape=part.shape)
    shift = np.asarray(part.sum(axis=0)).ravel() / np.maximum(stored, 1)
    part.data -= np.repeat(shift, stored)
    squared = sp.csc_matrix((part.data**2, part.indices, part.indptr), shape=part.shape)
    zeros = n - (indicator @ ones).toarray()  # entries that are not stored
    mean = ((indicator @ part).toarray() - zeros * shift) / n
    second = ((indicator @ squared).toarray() + zeros * shift**2) / n
    spread = second - mean**2
    rounding = n * np.finfo(np.float64).eps
    return np.where(spread <= rounding * second + (rounding * shift) ** 2, 0.0, spread)


def group_means(
    X: np.ndarray | sp.spmatrix,
    labels: Any,
    *,
    groups: Sequence[Any] | None = None,
    with_variance: bool = True,
) -> GroupMoments:
    """Means, variances and sizes of groups of rows in one pass of sparse indicator products.

    Parameters
    ----------
    X
        Values, shape (n_rows, n_columns), dense or sparse (stays sparse), finite.
    labels
        One label a row, shape (n_rows,); or a 0/1 membership matrix, shape (n_rows, n_groups), dense or sparse, whose
        groups may overlap (a multi-hot design: all cells that carry a target).
    groups
        With labels: the groups wanted and their order; rows of other groups are ignored. With a membership matrix: the
        names of its columns. Default: sorted labels, or column numbers.
    with_variance
        Whether to compute variances.

    Returns
    -------
    :class:`GroupMoments`, accumulated in float64 whatever the dtype of `X`.

    Raises
    ------
    ValueError
        Missing labels, a wrong number of labels, a wanted group that no row has, an empty column of the membership
        matrix, or missing or infinite values.

    Warns
    -----
    RuntimeWarning
        Groups of one row: their variance is NaN.

    Examples
    --------
    >>> import numpy as np
    >>> moments = group_means(np.array([[0.0], [2.0], [5.0], [5.0]]), ["a", "a", "b", "b"])
    >>> moments.mean.ravel(), moments.variance.ravel()
    (array([1., 5.]), array([2., 0.]))
    """
    matrix = any_matrix(X, "X")
    names, indicator = _membership(labels, matrix.shape[0], groups)
    count = np.diff(indicator.indptr).astype(np.int64)
    if (count == 0).any():
        msg = f"labels: expected rows in every group, got none in {int((count == 0).sum())} groups. Drop these columns."
        raise ValueError(msg)
    sums, square_sums, shift = _sums(indicator, matrix, squares=with_variance)
    n = count[:, None]
    centred_mean = sums / n
    variance = None
    if square_sums is not None:
        if (n_single := int((count == 1).sum())) > 0:
            warnings.warn(
                f"labels: {n_single} groups have one row; their variance is NaN.", RuntimeWarning, stacklevel=2
            )
        second = square_sums / n
        spread = second - centred_mean**2
        if sp.issparse(matrix):
            lost = (n > 1) & (spread < _CANCELLED * second)
            if (columns := np.flatnonzero(lost.any(axis=0))).size:
                again = _shifted_spread(indicator, matrix, columns, n)
                spread[:, columns] = np.where(lost[:, columns], again, spread[:, columns])
                second[:, columns] = np.where(lost[:, columns], again, second[:, columns])
        # What is left of a constant column is rounding error of sums and shift, not variance.
        rounding = n * np.finfo(np.float64).eps
        spread[spread <= rounding * second + (rounding * shift) ** 2] = 0.0
        with np.errstate(invalid="ignore", divide="ignore"):
            variance = np.where(n > 1, spread * n / (n - 1), np.nan)
    return GroupMoments(groups=names, mean=centred_mean + shift, variance=variance, count=count)


def effects_against(
    moments: GroupMoments, *, reference: Any, variance: Literal["welch", "pooled"] = "welch"
) -> GroupEffects:
    r"""Effects of every group against a reference group, with standard errors.

    .. math:: \delta_p = \bar x_p - \bar x_c, \qquad
              \operatorname{se}(\delta_p) = \sqrt{s_p^2 / n_p + s_c^2 / n_c}

    Parameters
    ----------
    moments
        Result of :func:`group_means` with variances.
    reference
        Name of the reference (control) group.
    variance
        ``"welch"``: each group has its own variance. ``"pooled"``: all groups share the variance within groups, which
        also serves groups of one row; small groups need it, because ten cells that all lack a sparse gene have a
        variance of zero there and would look certain.

    Returns
    -------
    :class:`GroupEffects`. All effects share the error of the reference mean: they are not independent of one another.

    Raises
    ------
    ValueError
        The reference is not among the groups, is the only one, or variances were not computed or are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> moments = group_means(np.array([[0.0], [2.0], [5.0], [7.0]]), ["a", "a", "b", "b"])
    >>> effects_against(moments, reference="a").effects
    array([[5.]])
    """
    if variance not in ("welch", "pooled"):
        msg = f"variance: expected 'welch' or 'pooled', got {variance!r}."
        raise ValueError(msg)
    control = position_of(moments.groups, reference, "reference")
    if len(moments.groups) < 2:
        msg = "moments: expected a group besides the reference, got the reference alone."
        raise ValueError(msg)
    if moments.variance is None:
        msg = "moments: expected variances, got None. Call group_means(..., with_variance=True)."
        raise ValueError(msg)
    if variance == "pooled":
        freedom = moments.count - 1
        if freedom.sum() == 0:
            msg = "moments: expected a group of at least 2 rows, got none. A pooled variance needs one."
            raise ValueError(msg)
        spread = np.where(freedom[:, None] > 0, moments.variance, 0.0)
        error = (freedom @ spread / freedom.sum()) / moments.count[:, None]
    elif (n_single := int((moments.count < 2).sum())) > 0:
        msg = f"moments: expected at least 2 rows in every group, got {n_single} groups of one. Leave these groups out."
        raise ValueError(msg)
    else:
        error = moments.variance / moments.count[:, None]
    others = np.arange(len(moments.groups)) != control
    return GroupEffects(
        groups=moments.groups[others],
        effects=moments.mean[others] - moments.mean[control],
        standard_errors=np.sqrt(error[others] + error[control]),
    )
