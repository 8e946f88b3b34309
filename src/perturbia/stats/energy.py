"""Energy distance between populations of cells, in blocks of memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import scipy.sparse as sp

from perturbia.stats._arrays import any_matrix, group_codes, position_of
from perturbia.stats._distance_blocks import BLOCK_SIZE, group_pair_means
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Sequence

Metric = Literal["euclidean", "sqeuclidean"]


@dataclass(frozen=True)
class EnergyDistances:
    """Energy distances between groups of cells.

    Attributes
    ----------
    groups
        Names of the groups, shape (n_groups,).
    values
        Distances, float64: shape (n_groups, n_groups), symmetric with zero diagonal, or (n_groups,) against a reference
        (0 for the reference itself). NaN where an unbiased distance needs a second cell that the group lacks.
    count
        Cells in each group, shape (n_groups,).
    reference
        Name of the reference group, or `None` for all pairs.
    metric
        Distance between cells.
    unbiased
        Whether within-group means leave out the zero distances of cells to themselves.
    """

    groups: np.ndarray
    values: np.ndarray
    count: np.ndarray
    reference: Any
    metric: Metric
    unbiased: bool

    def __repr__(self) -> str:
        against = "all pairs" if self.reference is None else f"against {self.reference!r}"
        kind = "unbiased" if self.unbiased else "biased"
        return f"EnergyDistances: {len(self.groups)} groups, {against}, {kind}, {self.metric}"


def energy_distance(
    X: np.ndarray | sp.spmatrix,
    Y: np.ndarray | sp.spmatrix,
    *,
    metric: Metric = "euclidean",
    unbiased: bool = True,
    block_size: int = BLOCK_SIZE,
) -> float:
    r"""Energy distance between two sets of cells.

    .. math:: E(X, Y) = 2\,\overline{d(x, y)} - \overline{d(x, x')} - \overline{d(y, y')}

    where bars are means over pairs (Székely and Rizzo, 2013). With the Euclidean distance, E is zero only for identical
    distributions; with the squared distance it is twice the squared difference of the means (up to the bias term) and
    sees nothing else.

    Parameters
    ----------
    X, Y
        Cells in rows, shapes (n, n_features) and (m, n_features); both dense or both sparse, usually principal components.
        Float32 input is computed in float32 and summed in float64: mean distances are good to a relative 1e-6, except that
        a pair of identical cells may count up to 3e-4 (float64: 1e-8) of their distance from the centre of the data.
    metric
        `"euclidean"` (pertpy, cell-eval) or `"sqeuclidean"` (scPerturb), which has a closed form.
    unbiased
        Divide within-set sums by n (n - 1): U-statistic, expectation 0 for equal distributions, so values may be slightly
        negative. `False` divides by n² (V-statistic, never negative, grows as groups get smaller).
    block_size
        Cells on each side of a block of distances; memory is block_size² plus a centred copy of dense input. The default
        keeps a block in the cache of one core.

    Returns
    -------
    The distance, in the unit of the features (squared for `"sqeuclidean"`). No square root is taken.

    Raises
    ------
    ValueError
        Different numbers of features, fewer than two cells (one, if biased) in a set, missing values, unknown metric.

    Notes
    -----
    O((n + m)² n_features) for the Euclidean distance by matrix products; O((n + m) n_features) for the squared one.

    Examples
    --------
    >>> import numpy as np
    >>> energy_distance(np.array([[0.0], [2.0]]), np.array([[3.0], [5.0]]))
    2.0
    """
    least = 2 if unbiased else 1
    x, y = any_matrix(X, "X", min_rows=least), any_matrix(Y, "Y", min_rows=least)
    if sp.issparse(x) != sp.issparse(y) or x.shape[1] != y.shape[1]:
        msg = f"Y: expected the container and columns of X, {type(x).__name__} {x.shape}, got {type(y).__name__} {y.shape}."
        raise ValueError(msg)
    _check_options(metric, block_size)
    both = sp.vstack([x, y], format="csr") if sp.issparse(x) else np.vstack([x, y])
    count = np.array([x.shape[0], y.shape[0]])
    values = _energies(both, np.repeat([0, 1], count), count, 0, metric, block_size, unbiased=unbiased)
    return float(values[1])


def pairwise_energy_distance(
    X: np.ndarray | sp.spmatrix,
    labels: Sequence[Any] | np.ndarray,
    *,
    reference: Any = None,
    metric: Metric = "euclidean",
    unbiased: bool = True,
    block_size: int = BLOCK_SIZE,
) -> EnergyDistances:
    """Energy distances between all pairs of labelled groups, or of every group to one reference group.

    Parameters
    ----------
    X
        Cells in rows, shape (n_cells, n_features), dense or sparse.
    labels
        One group label a cell.
    reference
        Group (control) to which all others are compared; `None` compares all pairs.
    metric, unbiased, block_size
        As in :func:`energy_distance`. Unbiased distances are comparable between groups of different size; biased ones
        are not.

    Returns
    -------
    :class:`EnergyDistances`.

    Raises
    ------
    ValueError
        Missing labels, an unknown reference, a single group, missing values, unknown metric.

    Warns
    -----
    RuntimeWarning
        Groups of one cell under `unbiased=True`: their distances are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [2.0], [3.0], [5.0]])
    >>> pairwise_energy_distance(X, ["a", "a", "b", "b"], reference="a").values
    array([0., 2.])
    """
    _check_options(metric, block_size)
    matrix = any_matrix(X, "X")
    groups, codes = group_codes(labels, matrix.shape[0])
    if len(groups) < 2:
        msg = f"labels: expected at least 2 groups, got {len(groups)}."
        raise ValueError(msg)
    against = None if reference is None else position_of(groups, reference, "reference")
    count = np.bincount(codes, minlength=len(groups))
    if unbiased and (n_single := int((count == 1).sum())) > 0:
        warnings.warn(
            f"labels: {n_single} groups have one cell; their distances are NaN.", RuntimeWarning, stacklevel=2
        )
    values = _energies(matrix, codes, count, against, metric, block_size, unbiased=unbiased)
    return EnergyDistances(groups, values, count, reference, metric, unbiased)


def _check_options(metric: str, block_size: int) -> None:
    if metric not in ("euclidean", "sqeuclidean"):
        msg = f"metric: expected 'euclidean' or 'sqeuclidean', got {metric!r}."
        raise ValueError(msg)
    if block_size < 1:
        msg = f"block_size: expected a positive number of cells, got {block_size}."
        raise ValueError(msg)


def _energies(
    X: Any,
    codes: np.ndarray,
    count: np.ndarray,
    against: int | None,
    metric: Metric,
    block_size: int,
    *,
    unbiased: bool,
) -> np.ndarray:
    """Energy distances of all pairs of groups, or to one of them, given the group of each cell and their sizes."""
    if metric == "sqeuclidean":
        between, within = _squared_means(X, codes, count, against)
    else:
        between, within = group_pair_means(X, codes, count, against=against, block_size=block_size)
    if unbiased:
        within = within * np.divide(count, count - 1, out=np.full(len(count), np.nan), where=count > 1)
    if against is None:
        values = 2 * between - (within[:, None] + within)
        values = (values + values.T) / 2  # sums in another order differ by rounding
        np.fill_diagonal(values, 0.0)
        return values
    values = 2 * between - within - within[against]
    values[against] = 0.0
    return values


def _squared_means(X: Any, codes: np.ndarray, count: np.ndarray, against: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Mean squared distances between and (with zero diagonals) within groups, from group means and variances."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # one-row groups have spread 0 here
        moments = group_means(X, codes)
    spread = (np.nan_to_num(np.asarray(moments.variance)) * ((count - 1) / count)[:, None]).sum(axis=1)
    if against is None:
        mean = moments.mean - moments.mean.mean(axis=0)
        length = np.einsum("ij,ij->i", mean, mean)
        gap = np.maximum(length[:, None] + length - 2 * mean @ mean.T, 0.0)
        return gap + spread[:, None] + spread, 2 * spread
    gap = ((moments.mean - moments.mean[against]) ** 2).sum(axis=1)
    return gap + spread + spread[against], 2 * spread
