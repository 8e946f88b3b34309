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


def distribution_gap(x: np.ndarray, y: np.ndarray) -> DistributionGap:
    r"""Compare two samples by their distribution functions F and G, as scipy's two-sample tests do.

    .. math:: D = \sup |F - G|, \qquad T = \frac{nm}{n + m} \int (F - G)^2 \, dH, \qquad
              \omega^2 = \frac{n + m}{nm}\, T

    with H the distribution of both samples together. T grows with the samples, :math:`\omega^2` does not. It does not
    depend on how many numbers come from which sample either: :math:`\int (F - G)^2 d(F - G) = [(F - G)^3 / 3] = 0`, so that
    integrals by F, by G and by any mixture of them agree.

    Parameters
    ----------
    x, y
        Samples, shapes (n,) and (m,).

    Returns
    -------
    :class:`DistributionGap`; NaN where one sample is empty.
    """
    from scipy.stats import ks_2samp, rankdata

    n, m = len(x), len(y)
    if min(n, m) == 0:
        return DistributionGap(np.nan, np.nan, np.nan, np.nan)
    ks = ks_2samp(x, y, method="asymp")
    rank = rankdata(np.concatenate([np.sort(x), np.sort(y)]))
    below_x, below_y = rank[:n] - np.arange(1, n + 1), rank[n:] - np.arange(1, m + 1)  # numbers of the other sample
    u = n * float(below_x @ below_x) + m * float(below_y @ below_y)
    cvm = u / (n * m * (n + m)) - (4.0 * n * m - 1.0) / (6.0 * (n + m))
    return DistributionGap(float(ks.statistic), float(ks.statistic_location), cvm, cvm * (n + m) / (n * m))
