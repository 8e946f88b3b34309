"""Principal axes of points, with signs that do not depend on the machine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["PrincipalAxes", "principal_axes"]


class PrincipalAxes(NamedTuple):
    """Axes of most variance.

    Attributes
    ----------
    centre
        Mean of the points, float64, shape (d,).
    axes
        Unit vectors in columns, the first of most variance, shape (d, n_axes).
    shares
        Their shares of the variance, shape (n_axes,).
    """

    centre: np.ndarray
    axes: np.ndarray
    shares: np.ndarray

    def coordinates(self, points: np.ndarray) -> np.ndarray:
        """Coordinates of points on the axes.

        Parameters
        ----------
        points
            Shape (n, d).

        Returns
        -------
        Shape (n, n_axes), float64.
        """
        return (points - self.centre) @ self.axes


def principal_axes(points: np.ndarray, n_axes: int) -> PrincipalAxes:
    """Axes along which points vary most.

    Parameters
    ----------
    points
        Shape (n, d).
    n_axes
        Axes at most; there are no more than d.

    Returns
    -------
    :class:`PrincipalAxes`. The largest entry of each axis is positive.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import principal_axes
    >>> found = principal_axes(np.array([[0.0, 0.0], [2.0, 2.0]]), 1)
    >>> np.round(found.axes.ravel(), 3), found.shares
    (array([0.707, 0.707]), array([1.]))
    """
    values = np.asarray(points, dtype=np.float64)
    centre = values.mean(axis=0)
    variances, axes = np.linalg.eigh((values - centre).T @ (values - centre))
    axes, variances = axes[:, ::-1][:, :n_axes], variances[::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    shares = variances[:n_axes] / max(variances.sum(), np.finfo(float).tiny)
    return PrincipalAxes(centre, axes * np.where(largest < 0, -1, 1), shares)
