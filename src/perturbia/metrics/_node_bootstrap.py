"""Bootstrap of shares of pairs, over the nodes that pairs are made of."""

from __future__ import annotations

import numpy as np

__all__ = ["bootstrap_shares"]

_RESAMPLES, _PAIRS = 128, 16_384  # weights held at a time: sums of so many whole numbers are exact in float32


def bootstrap_shares(
    first: np.ndarray, second: np.ndarray, hits: np.ndarray, *, n_boot: int, confidence: float, seed: int
) -> np.ndarray:
    r"""Percentile limits of shares of pairs, from nodes drawn with replacement.

    With :math:`m_i` how often node i was drawn, pair (i, j) weighs :math:`m_i m_j`, and a resampled share is
    :math:`\sum m_i m_j h_{ij} / \sum m_i m_j`.

    Parameters
    ----------
    first, second
        Nodes of each pair, shape (n_pairs,).
    hits
        What is counted, boolean, shape (n_pairs, n_shares).
    n_boot
        Resamples; 0 for no limits.
    confidence
        Coverage of the interval.
    seed
        Seed of the draws.

    Returns
    -------
    Lower and upper limits, shape (2, n_shares). Resamples in which no pair has both of its nodes are left out; NaN for
    fewer than two pairs, or no resample.

    Notes
    -----
    Errors that pairs share through a node enter in full. Those of a single pair enter about three times, since its weight
    varies with both nodes (Owen, 2007): where pairs have little in common the interval is too wide, by about
    :math:`\sqrt 3`, and never too narrow for that reason.
    """
    if len(first) < 2 or n_boot == 0:
        return np.full((2, hits.shape[1]), np.nan)
    nodes, codes = np.unique(np.stack([first, second]), return_inverse=True)
    one, other = codes.reshape(2, -1)
    rng = np.random.default_rng(seed)
    shares = np.empty((n_boot, hits.shape[1]))
    for start in range(0, n_boot, _RESAMPLES):
        size = min(_RESAMPLES, n_boot - start)
        drawn = rng.integers(0, len(nodes), size=(size, len(nodes))) + len(nodes) * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * len(nodes)).reshape(size, -1).T.astype(np.float32)
        found, total = np.zeros((size, hits.shape[1])), np.zeros((size, 1))
        for left in range(0, len(one), _PAIRS):
            part = slice(left, left + _PAIRS)
            weight = times[one[part]] * times[other[part]]
            found += weight.T @ hits[part].astype(np.float32)
            total[:, 0] += weight.sum(axis=0, dtype=np.float64)
        shares[start : start + size] = np.divide(found, total, out=np.full_like(found, np.nan), where=total > 0)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    shares = shares[~np.isnan(shares[:, 0])]
    return np.quantile(shares, tails, axis=0) if len(shares) else np.full((2, hits.shape[1]), np.nan)
