"""Scores over all perturbations and genes together, with intervals from resampled perturbations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["flattened_intervals", "moments_of", "summed"]

_BLOCK = 1000


def moments_of(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Sums of a row: count, x, y, x², y², xy; a resample of rows has the sums of its rows.

    Parameters
    ----------
    true, predicted
        `(n_rows, n_columns)`; rows with NaN count nothing.

    Returns
    -------
    float64 `(n_rows, 6)`.
    """
    rows = np.isfinite(true).all(axis=1) & np.isfinite(predicted).all(axis=1)
    x, y = np.where(rows[:, None], true, 0.0), np.where(rows[:, None], predicted, 0.0)
    count = rows * float(true.shape[1])
    return np.column_stack([count, x.sum(1), y.sum(1), (x * x).sum(1), (y * y).sum(1), (x * y).sum(1)])


def summed(moments: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Sums of rows of one code: the contexts of a perturbation are resampled together."""
    out = np.zeros((codes.max() + 1, moments.shape[1]))
    np.add.at(out, codes, moments)
    return out


def _correlation(sums: np.ndarray) -> np.ndarray:
    n, x, y, xx, yy, xy = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        r = (xy - x * y / n) / np.sqrt((xx - x * x / n) * (yy - y * y / n))
    return np.where(np.isfinite(r), r, 0.0)


def _determination(sums: np.ndarray) -> np.ndarray:
    n, x, _, xx, yy, xy = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return 1 - (xx - 2 * xy + yy) / (xx - x * x / n)


def flattened_intervals(
    moments: Sequence[np.ndarray], *, kind: str, n_resamples: int, confidence: float, seed: int
) -> list[tuple[float, float]]:
    """Percentile intervals of a flattened score of several methods over the same resampled perturbations.

    Parameters
    ----------
    moments
        Result of :func:`moments_of` for each method.
    kind
        ``"correlation"`` or ``"determination"``.
    n_resamples, confidence
        Resamples, and the share of them inside the interval.
    seed
        Seed of the resamples.

    Returns
    -------
    Lower and upper bound of each; NaN for a single perturbation.
    """
    stacked = np.stack(moments, axis=1)
    used = stacked[(stacked[:, :, 0] > 0).all(axis=1)]
    if len(used) < 2:
        return [(np.nan, np.nan)] * len(moments)
    rng = np.random.default_rng(seed)
    score = {"correlation": _correlation, "determination": _determination}[kind]
    flat = used.reshape(len(used), -1)
    values = []
    for start in range(0, n_resamples, _BLOCK):
        size = min(_BLOCK, n_resamples - start)
        weights = rng.multinomial(len(used), np.full(len(used), 1 / len(used)), size=size)
        sums = (weights @ flat).reshape(-1, used.shape[2])
        values.append(score(sums).reshape(size, len(moments)))
    tail = (1 - confidence) / 2
    bounds = np.nanquantile(np.concatenate(values), [tail, 1 - tail], axis=0)
    return [(float(low), float(high)) for low, high in bounds.T]
