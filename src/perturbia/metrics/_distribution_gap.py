"""How far two samples of numbers are apart, as distributions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["DistributionGap", "distribution_gap"]


class DistributionGap(NamedTuple):
    """Kolmogorov-Smirnov statistic and where it is reached, and the Cramér-von Mises statistic, raw and per pair."""

    ks: float
    ks_location: float
    cvm: float
    cvm_scaled: float


def distribution_gap(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> DistributionGap:
    r"""Compare two samples by their distribution functions F and G.

    .. math:: D = \sup |F - G|, \qquad T = \frac{nm}{n + m} \int (F - G)^2 \, dH, \qquad
              \omega^2 = \frac{n + m}{nm}\, T

    with H the distribution of both samples together. T grows with the samples, :math:`\omega^2` does not. Without ties and
    weights both are those of scipy's two-sample tests. Functions are taken at the numbers themselves, all that are equal
    counted, so that ties are no special case (the formula by ranks is wrong for them).

    Parameters
    ----------
    x, y
        Samples, shapes (n,) and (m,).
    weights
        Weight of each of `y`, shape (m,); equal ones by default.

    Returns
    -------
    :class:`DistributionGap`; NaN where one sample is empty. :math:`\omega^2` is from 0 to 1/3 + 1/(6nm), which it is for
    samples that do not overlap.
    """
    n, m = len(x), len(y)
    if min(n, m) == 0:
        return DistributionGap(np.nan, np.nan, np.nan, np.nan)
    weights = np.ones(m) if weights is None else weights
    order = np.argsort(y, kind="stable")
    x, y, weights = np.sort(x), y[order], weights[order]
    below = np.concatenate([[0.0], np.cumsum(weights)])
    points = np.concatenate([x, y])
    share_x = np.searchsorted(x, points, side="right") / n
    gap = share_x - below[np.searchsorted(y, points, side="right")] / below[-1]
    least, most = np.argmin(gap), np.argmax(gap)
    at = least if -gap[least] > gap[most] else most
    squares = gap**2
    scaled = float(squares[:n].sum() + m * (squares[n:] @ weights) / below[-1]) / (n + m)
    return DistributionGap(float(abs(gap[at])), float(points[at]), scaled * n * m / (n + m), scaled)
