"""Where groups of rows lie, by means that outliers do or do not move, with standard errors."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import scipy.sparse as sp
from scipy.special import betainc

from perturbia.errors import shorten
from perturbia.stats._arrays import any_matrix, group_codes, group_positions
from perturbia.stats._settings import check_choice
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Location = Literal["mean", "median", "trimmed", "spherical"]
_BLOCK_ENTRIES = 2**22  # values that are sorted at a time; bounds the memory


@dataclass(frozen=True)
class GroupLocations:
    """Locations of groups of rows.

    Attributes
    ----------
    groups
        Names of the groups, shape (n_groups,).
    location
        Shape (n_groups, n_columns), float64.
    standard_error
        Its standard error, same shape; NaN in groups that have none, above all those of one row.
    count
        Rows in each group, shape (n_groups,), int64.
    """

    groups: np.ndarray
    location: np.ndarray
    standard_error: np.ndarray
    count: np.ndarray

    def __repr__(self) -> str:
        return f"GroupLocations: {len(self.groups)} groups x {self.location.shape[1]} columns, {self.count.sum()} rows"


def locate_groups(
    X: Any,
    labels: Sequence[Any] | np.ndarray,
    *,
    groups: Sequence[Any] | np.ndarray | None = None,
    func: Location = "mean",
    trim: float = 0.1,
) -> GroupLocations:
    r"""Mean, median, trimmed mean or mean direction of groups of rows, with standard errors.

    For the n values :math:`x_{(1)} \le \cdots \le x_{(n)}` of a group in a column:

    - ``"mean"``: :math:`\bar x`, with standard error :math:`s / \sqrt n`;
    - ``"trimmed"``: mean of the h = n - 2g values that are left without the g = ⌊trim n⌋ smallest and largest ones, with
      :math:`\sqrt{\mathrm{SSD}_w / (h (h - 1))}`, where SSD\ :sub:`w` are the squared deviations of the winsorised values
      (Tukey and McLaughlin, 1963);
    - ``"median"``: with :math:`\sqrt{\sum_i w_i (x_{(i)} - c)^2}`, where :math:`c = \sum_i w_i x_{(i)}` and :math:`w_i` is the
      mass of a beta distribution with both parameters (n + 1) / 2 between (i - 1) / n and i / n: for odd n, the chance that
      :math:`x_{(i)}` is the median of a resample (Maritz and Jarrett, 1978); for n = 2 it is the error of the mean;
    - ``"spherical"``: mean of the rows divided by their lengths, with the standard error of that mean. Its own length, at
      most 1, says how far the rows agree in direction.

    Parameters
    ----------
    X
        Values, shape (n_rows, n_columns), dense or sparse, finite. Sparse values stay sparse until groups are summed, or,
        where values are sorted, become dense some columns at a time.
    labels
        One label a row, shape (n_rows,).
    groups
        The groups wanted and their order; rows of other groups are ignored. Default: all, sorted.
    func
        The location.
    trim
        Share that ``"trimmed"`` cuts from each end, in [0, 0.5).

    Returns
    -------
    :class:`GroupLocations`, accumulated in float64 whatever the dtype of `X`.

    Raises
    ------
    ValueError
        Missing labels or values, unknown groups or `func`, a `trim` outside its range, or rows without direction.

    Warns
    -----
    RuntimeWarning
        Groups without standard errors.

    Notes
    -----
    O(n_rows n_columns), times the logarithm of the size of groups where values are sorted: groups of one size are sorted
    together, so that there is no loop over groups. The standard error of a median of 3 to 10 normal values is 10 to 25 %
    too large, and nearly 0 where the middle values are equal, as in sparse counts.

    References
    ----------
    Tukey, J. W. and McLaughlin, D. H. (1963). Less vulnerable confidence and significance procedures for location based on
    a single sample. Sankhya A 25. Maritz, J. S. and Jarrett, R. G. (1978). A note on estimating the variance of the sample
    median. Journal of the American Statistical Association 73.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [1.0], [90.0], [5.0], [7.0]])
    >>> locate_groups(X, ["a", "a", "a", "b", "b"], func="median").location.ravel()
    array([1., 6.])
    """
    check_choice("func", func, get_args(Location))
    if not 0 <= trim < 0.5:
        msg = f"trim: expected a share in [0, 0.5) that is cut from each end, got {trim!r}."
        raise ValueError(msg)
    matrix = any_matrix(X, "X")
    if func in ("mean", "spherical"):
        found = _means(_directions(matrix) if func == "spherical" else matrix, labels, groups)
    else:
        found = _ordered(matrix, labels, groups, _median if func == "median" else _trimmed(trim))
    if (n_without := int(np.isnan(found.standard_error).any(axis=1).sum())) > 0:
        warnings.warn(
            f"labels: {n_without} groups have too few rows for a standard error, which is NaN there.",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def _means(matrix: Any, labels: Any, groups: Any) -> GroupLocations:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="labels: .* have one row", category=RuntimeWarning)
        moments = group_means(matrix, labels, groups=groups)
    assert moments.variance is not None
    error = np.sqrt(moments.variance / moments.count[:, None])
    return GroupLocations(moments.groups, moments.mean, error, moments.count)


def _directions(matrix: Any) -> Any:
    """Rows divided by their lengths; float32 stays float32."""
    values = matrix if matrix.dtype == np.float32 else matrix.astype(np.float64)
    if sp.issparse(values):
        length = np.sqrt(np.bincount(_row_of(values), np.square(values.data, dtype=np.float64), values.shape[0]))
    else:
        length = np.sqrt(np.einsum("ij,ij->i", values, values, dtype=np.float64))
    if len(zero := np.flatnonzero(length == 0)):
        at = shorten(zero.tolist(), limit=3)
        msg = (
            f"X: expected rows of positive length, got {len(zero)} of zeros only (rows {at}): no direction. Drop them."
        )
        raise ValueError(msg)
    if not sp.issparse(values):
        return values / length[:, None].astype(values.dtype)
    scaled = values.data / length[_row_of(values)].astype(values.dtype)
    return sp.csr_matrix((scaled, values.indices, values.indptr), shape=values.shape)


def _row_of(matrix: sp.csr_matrix) -> np.ndarray:
    """Row of every stored value."""
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))


def _ordered(
    matrix: Any,
    labels: Any,
    groups: Any,
    summary: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> GroupLocations:
    """Locations of sorted values: groups of one size side by side, some columns at a time."""
    names, codes = group_codes(labels, matrix.shape[0], groups=groups)
    positions = group_positions(codes, len(names))
    count = np.array([len(rows) for rows in positions])
    of_size = {
        int(size): (where := np.flatnonzero(count == size), np.stack([positions[i] for i in where]))
        for size in np.unique(count)
    }
    shape = (len(names), matrix.shape[1])
    location, error = np.empty(shape), np.empty(shape)
    by_column = matrix.tocsc() if sp.issparse(matrix) else matrix
    width = max(1, _BLOCK_ENTRIES // matrix.shape[0])
    for start in range(0, shape[1], width):
        columns = slice(start, min(start + width, shape[1]))
        block = by_column[:, columns].toarray() if sp.issparse(matrix) else matrix[:, columns]
        for where, rows in of_size.values():
            values = np.sort(block[rows], axis=1).astype(np.float64, copy=False)
            location[where, columns], error[where, columns] = summary(values)
    return GroupLocations(names, location, error, count.astype(np.int64))


def _trimmed(trim: float) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def summary(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Trimmed mean and its standard error of sorted values (n_groups, n_rows, n_columns), along rows."""
        n = values.shape[1]
        cut = int(trim * n)
        left = n - 2 * cut
        middle = values[:, cut : n - cut]
        location = middle.mean(axis=1)
        if left < 2:
            return location, np.full_like(location, np.nan)
        # winsorised values: the middle ones, and those at its ends once more for each that was cut
        ends = middle[:, [0, -1]]
        centre = (middle.sum(axis=1) + cut * ends.sum(axis=1)) / n
        squares = ((middle - centre[:, None]) ** 2).sum(axis=1) + cut * ((ends - centre[:, None]) ** 2).sum(axis=1)
        return location, np.sqrt(squares / (left * (left - 1)))

    return summary


def _median(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and its standard error of sorted values (n_groups, n_rows, n_columns), along rows."""
    n = values.shape[1]
    location = (values[:, (n - 1) // 2] + values[:, n // 2]) / 2
    if n == 1:
        return location, np.full_like(location, np.nan)
    weight = np.diff(betainc((n + 1) / 2, (n + 1) / 2, np.arange(n + 1) / n))
    centre = np.einsum("i,gic->gc", weight, values)
    return location, np.sqrt(np.einsum("i,gic->gc", weight, (values - centre[:, None]) ** 2))
