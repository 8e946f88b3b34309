"""Percentile bootstrap of means over rows, many columns at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

NanPolicy = Literal["raise", "omit"]
_BLOCK_ENTRIES = 4_000_000  # weights and resampled means held at a time


@dataclass(frozen=True)
class BootstrapMean:
    """Means with bootstrap intervals.

    Attributes
    ----------
    mean
        Mean over the rows that count: a number for a vector of values, (n_columns,) for a matrix; like the next four.
    lower, upper
        Limits of the percentile interval; NaN for fewer than two rows.
    standard_error
        Standard deviation of the resampled means; NaN for fewer than two rows.
    count
        Rows that count, int64.
    confidence
        Nominal coverage of the interval.
    n_resamples
        Bootstrap resamples.
    """

    mean: Any
    lower: Any
    upper: Any
    standard_error: Any
    count: Any
    confidence: float
    n_resamples: int

    def __repr__(self) -> str:
        kind = f"{self.confidence:.0%} interval, {self.n_resamples} resamples"
        if np.ndim(self.mean):
            return f"BootstrapMean: {len(self.mean)} columns, {kind}"
        return f"BootstrapMean: {self.mean:.4g} ({self.lower:.4g} to {self.upper:.4g}; {kind}, n = {self.count})"


def bootstrap_mean(
    values: Any,
    *,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    nan: NanPolicy = "raise",
    seed: int = 0,
) -> BootstrapMean:
    """Means of columns with percentile intervals from resampled rows (Efron and Tibshirani, 1993, chapter 13).

    Rows (perturbations, usually) are drawn with replacement. All columns without missing values share their resamples, so
    that scores of one perturbation stay together; what a column gets does not depend on the columns beside it.

    Parameters
    ----------
    values
        Scores, shape (n_rows,) or (n_rows, n_columns).
    n_resamples
        Bootstrap resamples.
    confidence
        Coverage of the interval, in (0, 1).
    nan
        `"raise"` refuses missing values; `"omit"` leaves them out column by column and says in `count` how many rows
        are left, and the resamples are drawn from those.
    seed
        Seed of the resamples.

    Returns
    -------
    :class:`BootstrapMean`, with numbers for a vector and arrays for a matrix.

    Raises
    ------
    ValueError
        Missing values under `nan="raise"`, infinite values, no rows, other dimensions, a confidence outside (0, 1), or
        `n_resamples < 1`.

    Warns
    -----
    RuntimeWarning
        Columns with fewer than two rows that count: they have no interval.

    Notes
    -----
    With few rows the percentile interval is too narrow (by a factor of about sqrt((n - 1) / n), and more for skewed
    scores). Memory is bounded by blocks of resamples beside n_resamples numbers a column.

    Examples
    --------
    >>> bootstrap_mean([0.0, 1.0, 2.0, 3.0, 4.0])
    BootstrapMean: 2 (0.8 to 3.2; 95% interval, 10000 resamples, n = 5)
    """
    matrix = check_scores(values, "values", nan)
    check_resampling(n_resamples, confidence)
    n_columns = matrix.shape[1]
    mean, error, lower, upper = (np.full(n_columns, np.nan) for _ in range(4))
    present = ~np.isnan(matrix)
    count = present.sum(axis=0)
    tails = [(1 - confidence) / 2, (1 + confidence) / 2]
    for rows, columns in _same_rows(present):
        scores = matrix[np.ix_(rows, columns)]
        if len(rows) > 0:
            mean[columns] = scores.mean(axis=0)
        if len(rows) < 2:
            continue
        width = max(1, _BLOCK_ENTRIES // n_resamples)
        for start in range(0, len(columns), width):
            part = columns[start : start + width]
            # Deviations from one row: exact for constant columns, and free of cancellation.
            origin = scores[0, start : start + width]
            means = _resampled_means(scores[:, start : start + width] - origin, n_resamples, seed)
            error[part] = means.std(axis=0)
            lower[part], upper[part] = np.quantile(means, tails, axis=0, overwrite_input=True) + origin
    if (n_short := int((count < 2).sum())) > 0:
        warnings.warn(
            f"values: {n_short} columns have fewer than 2 rows that count; they have no interval.",
            RuntimeWarning,
            stacklevel=2,
        )
    return BootstrapMean(
        mean=like_input(mean, values),
        lower=like_input(lower, values),
        upper=like_input(upper, values),
        standard_error=like_input(error, values),
        count=like_input(count, values),
        confidence=confidence,
        n_resamples=n_resamples,
    )


def like_input(columns: np.ndarray, values: Any) -> Any:
    """Return results of columns as they are for a matrix of values, or the one number for a vector."""
    return columns if np.ndim(values) == 2 else columns[0].item()


def check_scores(values: Any, name: str, nan: NanPolicy) -> np.ndarray:
    """Return scores as a float64 matrix (n_rows, n_columns), or raise a `ValueError` that names the argument."""
    if nan not in ("raise", "omit"):
        msg = f"nan: expected 'raise' or 'omit', got {nan!r}."
        raise ValueError(msg)
    array = np.asarray(values)
    if array.dtype.kind not in "biuf" or array.ndim not in (1, 2) or array.shape[0] == 0:
        msg = f"{name}: expected numbers of shape (n_rows,) or (n_rows, n_columns), got {array.dtype} {array.shape}."
        raise ValueError(msg)
    matrix = array.astype(np.float64).reshape(len(array), -1)
    if np.isinf(matrix).any():
        msg = f"{name}: expected finite numbers, got {int(np.isinf(matrix).sum())} infinite entries. Remove them first."
        raise ValueError(msg)
    if nan == "raise" and np.isnan(matrix).any():
        msg = (
            f"{name}: expected no missing values, got {int(np.isnan(matrix).sum())}. "
            "Pass nan='omit' to leave them out, and report the count that is left."
        )
        raise ValueError(msg)
    return matrix


def check_resampling(n_resamples: int, confidence: float) -> None:
    """Raise a `ValueError` for impossible settings of a bootstrap."""
    if n_resamples < 1:
        msg = f"n_resamples: expected 1 or more, got {n_resamples}."
        raise ValueError(msg)
    if not 0 < confidence < 1:
        msg = f"confidence: expected a share between 0 and 1, got {confidence}."
        raise ValueError(msg)


def _same_rows(present: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Sets of columns that have values in the same rows: (rows, columns)."""
    patterns, which = np.unique(present.T, axis=0, return_inverse=True)
    for k, pattern in enumerate(patterns):
        yield np.flatnonzero(pattern), np.flatnonzero(which.ravel() == k)


def _resampled_means(scores: np.ndarray, n_resamples: int, seed: int) -> np.ndarray:
    """Means over rows drawn with replacement, (n_resamples, n_columns), as products with how often each row is drawn."""
    rng = np.random.default_rng(seed)
    n = len(scores)
    means = np.empty((n_resamples, scores.shape[1]))
    block = max(1, _BLOCK_ENTRIES // n)
    for start in range(0, n_resamples, block):
        size = min(block, n_resamples - start)
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        means[start : start + size] = times @ scores / n
    return means
