"""Maximum mean discrepancy with Gaussian kernels of several widths, in blocks of memory."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

from perturbia.stats._arrays import any_matrix, group_codes, position_of
from perturbia.stats._distance_blocks import BLOCK_SIZE, DistanceBlocks, group_pair_means

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_MEDIAN_CELLS = 1000  # cells whose distances the median is taken of


@dataclass(frozen=True)
class KernelDiscrepancies:
    """Squared maximum mean discrepancies between groups of cells.

    Attributes
    ----------
    groups
        Names of the groups, shape (n_groups,).
    values
        Squared discrepancies, float64: shape (n_groups, n_groups), symmetric with zero diagonal, or (n_groups,) against
        a reference. NaN where an unbiased value needs a second cell that the group lacks.
    count
        Cells in each group, shape (n_groups,).
    bandwidths
        Standard deviations of the Gaussian kernels that were summed, in the unit of the features.
    reference
        Name of the reference group, or `None` for all pairs.
    unbiased
        Whether within-group means leave out the kernel of cells with themselves.
    """

    groups: np.ndarray
    values: np.ndarray
    count: np.ndarray
    bandwidths: np.ndarray
    reference: Any
    unbiased: bool

    def __repr__(self) -> str:
        against = "all pairs" if self.reference is None else f"against {self.reference!r}"
        kind = "unbiased" if self.unbiased else "biased"
        return f"KernelDiscrepancies: {len(self.groups)} groups, {against}, {kind}, {len(self.bandwidths)} bandwidths"


def median_distance(X: np.ndarray | sp.spmatrix, *, max_cells: int = _MEDIAN_CELLS, seed: int = 0) -> float:
    """Median Euclidean distance between cells, the customary width of a Gaussian kernel.

    Parameters
    ----------
    X
        Cells in rows, shape (n_cells, n_features), dense or sparse; at least two.
    max_cells
        Cells drawn at random to take the median of, where there are more.
    seed
        Seed of the draw.

    Returns
    -------
    The median, in the unit of the features.

    Raises
    ------
    ValueError
        Fewer than two cells, missing values, or a median of zero: most cells coincide.

    Examples
    --------
    >>> import numpy as np
    >>> median_distance(np.array([[0.0], [1.0], [3.0]]))
    2.0
    """
    matrix = any_matrix(X, "X", min_rows=2)
    n_cells = matrix.shape[0]
    drawn = np.arange(n_cells)
    if n_cells > max_cells:
        drawn = np.sort(np.random.default_rng(seed).choice(n_cells, size=max_cells, replace=False))
    cells = DistanceBlocks(matrix, drawn, len(drawn))
    squared = cells.squared(cells.left(0, len(drawn)), cells.right(0, len(drawn)), same=True)
    median = float(np.sqrt(np.median(squared[np.triu_indices(len(drawn), k=1)])))
    if not median > 0:
        msg = "X: expected cells that differ, got a median distance of 0. Name the bandwidths instead."
        raise ValueError(msg)
    return median


def mmd(
    X: np.ndarray | sp.spmatrix,
    Y: np.ndarray | sp.spmatrix,
    *,
    bandwidths: Sequence[float] | None = None,
    unbiased: bool = True,
    block_size: int = BLOCK_SIZE,
    seed: int = 0,
) -> float:
    r"""Squared maximum mean discrepancy between two sets of cells, with a sum of Gaussian kernels.

    .. math:: \overline{k(x, x')} + \overline{k(y, y')} - 2\,\overline{k(x, y)}, \qquad
              k(x, y) = \sum_j \exp\left(-\frac{\|x - y\|^2}{2 \sigma_j^2}\right)

    (Gretton et al., 2012). It is zero in expectation only for equal distributions, and lies between minus and plus twice
    the number of kernels.

    Parameters
    ----------
    X, Y
        Cells in rows, shapes (n, n_features) and (m, n_features); both dense or both sparse.
    bandwidths
        Standard deviations of the kernels. `None` takes 1/4, 1/2, 1, 2 and 4 times the median squared distance of all
        cells together as their squares: then values of different data are on different scales.
    unbiased
        Leave k(x, x) out of the within-set means: expectation 0 for equal distributions, so values may be negative.
        `False` is never negative and grows as sets get smaller.
    block_size
        Cells on each side of a block of kernel values.
    seed
        Seed of the draw of cells for the median.

    Returns
    -------
    The squared discrepancy.

    Raises
    ------
    ValueError
        Different numbers of features, fewer than two cells (one, if biased) in a set, missing values, a bandwidth that is
        not positive, or cells that mostly coincide without `bandwidths`.

    Examples
    --------
    >>> import numpy as np
    >>> round(mmd(np.array([[0.0], [0.0]]), np.array([[2.0], [2.0]]), bandwidths=[1.0]), 4)
    1.7293
    """
    least = 2 if unbiased else 1
    x, y = any_matrix(X, "X", min_rows=least), any_matrix(Y, "Y", min_rows=least)
    if sp.issparse(x) != sp.issparse(y) or x.shape[1] != y.shape[1]:
        msg = f"Y: expected the container and columns of X, {type(x).__name__} {x.shape}, got {type(y).__name__} {y.shape}."
        raise ValueError(msg)
    both = sp.vstack([x, y], format="csr") if sp.issparse(x) else np.vstack([x, y])
    labels = np.repeat([0, 1], [x.shape[0], y.shape[0]])
    options: dict[str, Any] = {"bandwidths": bandwidths, "unbiased": unbiased, "block_size": block_size, "seed": seed}
    return float(pairwise_mmd(both, labels, reference=0, **options).values[1])


def pairwise_mmd(
    X: np.ndarray | sp.spmatrix,
    labels: Sequence[Any] | np.ndarray,
    *,
    reference: Any = None,
    bandwidths: Sequence[float] | None = None,
    unbiased: bool = True,
    block_size: int = BLOCK_SIZE,
    seed: int = 0,
) -> KernelDiscrepancies:
    """Squared maximum mean discrepancies between all pairs of groups, or of every group to one reference group.

    Parameters
    ----------
    X
        Cells in rows, shape (n_cells, n_features), dense or sparse.
    labels
        One group label a cell.
    reference
        Group (control) to which all others are compared; `None` compares all pairs.
    bandwidths, unbiased, block_size, seed
        As in :func:`mmd`; the median is that of all cells, so that values of different pairs are comparable.

    Returns
    -------
    :class:`KernelDiscrepancies`.

    Raises
    ------
    ValueError
        Missing labels, an unknown reference, a single group, missing values, impossible bandwidths.

    Warns
    -----
    RuntimeWarning
        Groups of one cell under `unbiased=True`: their values are NaN.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [0.0], [2.0], [2.0]])
    >>> pairwise_mmd(X, ["a", "a", "b", "b"], reference="a", bandwidths=[1.0]).values.round(4)
    array([0.    , 1.7293])
    """
    if block_size < 1:
        msg = f"block_size: expected a positive number of cells, got {block_size}."
        raise ValueError(msg)
    matrix = any_matrix(X, "X")
    groups, codes = group_codes(labels, matrix.shape[0])
    if len(groups) < 2:
        msg = f"labels: expected at least 2 groups, got {len(groups)}."
        raise ValueError(msg)
    against = None if reference is None else position_of(groups, reference, "reference")
    count = np.bincount(codes, minlength=len(groups))
    widths = _widths(matrix, bandwidths, seed)
    between, within = group_pair_means(
        matrix, codes, count, against=against, block_size=block_size, function=_sum_of_gaussians(widths)
    )
    if unbiased:
        if (n_single := int((count == 1).sum())) > 0:
            warnings.warn(
                f"labels: {n_single} groups have one cell; their discrepancies are NaN.", RuntimeWarning, stacklevel=2
            )
        # Sums over pairs less the n_kernels that every cell has with itself.
        own = within * count - len(widths)
        within = np.divide(own, count - 1, out=np.full(len(count), np.nan), where=count > 1)
    if against is None:
        values = within[:, None] + within - 2 * between
        np.fill_diagonal(values, 0.0)
    else:
        values = within + within[against] - 2 * between
        values[against] = 0.0
    return KernelDiscrepancies(groups, values, count, widths, reference, unbiased)


def _widths(X: Any, bandwidths: Sequence[float] | None, seed: int) -> np.ndarray:
    if bandwidths is None:
        return median_distance(X, seed=seed) * np.sqrt([0.25, 0.5, 1.0, 2.0, 4.0])
    widths = np.asarray(bandwidths, dtype=np.float64)
    if widths.ndim != 1 or not len(widths) or not (np.isfinite(widths) & (widths > 0)).all():
        msg = f"bandwidths: expected positive numbers, one or more, got {bandwidths!r}."
        raise ValueError(msg)
    return np.sort(widths)


def _sum_of_gaussians(widths: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Kernel values from squared distances; where squared widths double, one exponential gives all by squaring."""
    doubling = len(widths) > 1 and np.allclose(widths[1:] ** 2, 2 * widths[:-1] ** 2, rtol=1e-12)

    def kernel(squared: np.ndarray) -> np.ndarray:
        if not doubling:
            return np.add.reduce([np.exp(squared * squared.dtype.type(-0.5 / width**2)) for width in widths])
        squared *= -0.5 / widths[-1] ** 2
        values = np.exp(squared, out=squared)
        total = values.copy()
        for _ in widths[1:]:
            np.square(values, out=values)
            total += values
        return total

    return kernel
