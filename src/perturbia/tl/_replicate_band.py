"""Where a statistic of the data lies among the same statistic of replicated data, without keeping the replicates."""

from __future__ import annotations

import math

import numpy as np

__all__ = ["ReplicateBand", "least_replicates"]


def least_replicates(level: float) -> int:
    """Fewest replicates among which a central band of `level` has an end on either side."""
    return math.ceil(round(2 / (1 - level), 9)) - 1


class ReplicateBand:
    r"""Running mean, tail counts and central band of a vector of statistics.

    The ends of the band are the order statistics of rank :math:`q (R + 1)` among :math:`R` replicates, so that one more
    replicate of a continuous statistic lies inside with probability `level` exactly. Only the ranks out to those ends
    are kept: memory is about :math:`(1 - \mathrm{level}) R` vectors.
    """

    def __init__(self, observed: np.ndarray, *, n_replicates: int, level: float = 0.9) -> None:
        self.observed = observed
        self.n_replicates = n_replicates
        rank = round((1 - level) / 2 * (n_replicates + 1), 9)  # 0.05 * 20 is a little less than 1
        self._below, self._between = int(rank) - 1, rank - int(rank)
        self._lowest = np.full((self._below + 2, len(observed)), np.inf)
        self._highest = np.full_like(self._lowest, np.inf)  # of the negative: both are kept by the same rule
        self._total = np.zeros(len(observed))
        self._at_least, self._at_most = np.zeros((2, len(observed)), dtype=np.int64)

    def add(self, replicate: np.ndarray) -> None:
        """Take in the statistics of one replicate."""
        self._total += replicate
        self._at_least += replicate >= self.observed
        self._at_most += replicate <= self.observed
        for kept, value in ((self._lowest, replicate), (self._highest, -replicate)):
            np.minimum(kept[-1], value, out=kept[-1])
            kept.sort(axis=0)

    def columns(self) -> dict[str, np.ndarray]:
        """Mean, band and two-sided p-value, each of the length of the vector."""
        low, high = (
            kept[self._below] + self._between * (kept[self._below + 1] - kept[self._below])
            for kept in (self._lowest, self._highest)
        )
        tail = (1 + np.minimum(self._at_least, self._at_most)) / (self.n_replicates + 1)
        return {
            "observed": self.observed,
            "rep_mean": self._total / self.n_replicates,
            "rep_low": low,
            "rep_high": -high,
            "p_value": np.minimum(2 * tail, 1.0),
        }
