"""Centre and scale of rows, batch by batch, as reference rows of the batch have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from perturbia.stats._arrays import group_positions
from perturbia.stats.group_moments import group_means

__all__ = ["ControlScaling", "fit_control_scaling"]

# of a normal distribution, the standard deviation in units of the median absolute deviation
_MAD_TO_SD = 1.4826022185056018


@dataclass(frozen=True)
class ControlScaling:
    """Centres and scales of batches.

    Attributes
    ----------
    center
        Shape (n_batches, n_features).
    scale
        Positive, same shape.
    n_controls
        Reference rows of each batch, shape (n_batches,).
    n_constant
        Features that do not vary among the reference rows of any batch; their scale is 1.
    """

    center: np.ndarray
    scale: np.ndarray
    n_controls: np.ndarray
    n_constant: int

    def transform(self, X: np.ndarray, batches: np.ndarray) -> np.ndarray:
        """Rows minus centre, over scale, of their batch.

        Parameters
        ----------
        X
            Shape (n_rows, n_features).
        batches
            Position of the batch of every row, shape (n_rows,).

        Returns
        -------
        Same shape, float64.
        """
        return (X - self.center[batches]) / self.scale[batches]


def fit_control_scaling(
    X: np.ndarray,
    is_control: np.ndarray,
    batches: np.ndarray,
    *,
    method: Literal["standard", "robust"] = "standard",
    prior: float = 0.0,
    center_per_batch: bool = True,
    scale_per_batch: bool = True,
) -> ControlScaling:
    r"""Centre and scale of the reference rows of every batch.

    .. math:: s_b^2 = \frac{(n_b - 1)\, v_b + \nu\, \bar v}{n_b - 1 + \nu}

    with :math:`v_b` the variance of the reference rows of batch :math:`b`, :math:`\bar v` that within batches over all of
    them, and :math:`\nu` the `prior`. A variance of three rows is wrong by a factor of two, differently in every feature of
    every batch; the prior takes it towards what batches share.

    Parameters
    ----------
    X
        Shape (n_rows, n_features), finite.
    is_control
        Which rows are references, bool (n_rows,).
    batches
        Position of the batch of every row, 0, 1, …, shape (n_rows,). A batch without references takes the centre and
        scale of all references.
    method
        Mean and standard deviation, or median and 1.4826 times the median absolute deviation; standard deviation also there
        for features of which more than half of the values are equal, whose deviation is 0.
    prior
        Reference rows' worth of the scale that batches share, 0 or more.
    center_per_batch, scale_per_batch
        `False`: one for all batches.

    Returns
    -------
    :class:`ControlScaling`.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import fit_control_scaling
    >>> X = np.array([[0.0], [2.0], [9.0], [10.0], [14.0], [30.0]])
    >>> batches = np.array([0, 0, 0, 1, 1, 1])
    >>> fit = fit_control_scaling(X, np.array([True, True, False] * 2), batches)
    >>> fit.center.ravel(), fit.scale.ravel().round(3)
    (array([ 1., 12.]), array([1.414, 2.828]))
    """
    n_batches = int(batches.max()) + 1
    members = group_positions(np.where(is_control, batches, -1), n_batches)
    counts = np.array([len(rows) for rows in members])
    every = np.flatnonzero(is_control)
    # moments about a typical row: features far from 0 lose no digits
    origin = np.asarray(X[every], dtype=np.float64).mean(axis=0)
    whole = np.asarray(X[every], dtype=np.float64) - origin
    middle = _middles(whole, batches[every], n_batches, counts, method, per_batch=center_per_batch)
    residuals = whole - middle[batches[every]]
    spread = _spreads(residuals, batches[every], n_batches, counts, method)
    if method == "robust":
        pooled = _robust_square(residuals, about_zero=True)
    else:
        n_centres = np.count_nonzero(counts) if center_per_batch else 1
        pooled = (residuals**2).sum(axis=0) / max(len(every) - n_centres, 1)
    if scale_per_batch:
        freedom = np.maximum(counts - 1, 0)[:, None].astype(np.float64)
        total = freedom + prior
        spread = np.where(total > 0, (freedom * spread + prior * pooled) / np.where(total > 0, total, 1), pooled)
    else:
        spread = np.repeat(pooled[None], n_batches, axis=0)
    rounding = (np.finfo(np.float64).eps * np.abs(origin)) ** 2 * max(len(every), 1)
    constant = pooled <= rounding
    # a few rows of a batch may agree by chance in what varies elsewhere
    spread = np.where(constant, 1.0, np.where(spread > rounding, spread, pooled))
    return ControlScaling(middle + origin, np.sqrt(spread), counts, int(constant.sum()))


def _middles(
    rows: np.ndarray, batches: np.ndarray, n_batches: int, counts: np.ndarray, method: str, *, per_batch: bool
) -> np.ndarray:
    """Centre of every batch; that of all rows where a batch has none, or for all."""
    overall = rows.mean(axis=0) if method == "standard" else np.median(rows, axis=0)
    middle = np.repeat(overall[None], n_batches, axis=0)
    if per_batch:
        held = np.flatnonzero(counts)
        if method == "standard":
            middle[held] = group_means(rows, batches, with_variance=False).mean
        else:
            for batch in held:
                middle[batch] = np.median(rows[batches == batch], axis=0)
    return middle


def _spreads(residuals: np.ndarray, batches: np.ndarray, n_batches: int, counts: np.ndarray, method: str) -> np.ndarray:
    """Squared scale of every batch about its own centre, 0 where it has fewer than two rows."""
    spread = np.zeros((n_batches, residuals.shape[1]))
    if method == "robust":
        for batch in np.flatnonzero(counts > 1):
            spread[batch] = _robust_square(residuals[batches == batch])
        return spread
    several = np.flatnonzero(counts > 1)
    if len(several):
        moments = group_means(residuals, batches, groups=several.tolist())
        spread[several] = moments.variance
    return spread


def _robust_square(rows: np.ndarray, *, about_zero: bool = False) -> np.ndarray:
    """Square of the scaled median absolute deviation; variance where more than half of the values are equal, as in counts."""
    centred = rows if about_zero else rows - np.median(rows, axis=0)
    square = (_MAD_TO_SD * np.median(np.abs(centred), axis=0)) ** 2
    return np.where(square > 0, square, rows.var(axis=0))
