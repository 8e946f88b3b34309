"""Likelihood bounds of two models on the same cells, compared cell by cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbia.stats._arrays import dense_matrix, group_codes

_BLOCK = 2**22


@dataclass(frozen=True)
class LikelihoodComparison:
    """Paired comparison of likelihood bounds.

    Attributes
    ----------
    mean_difference
        Mean over cells of first minus second, in nats a cell. Above 0: the first model is better.
    lower, upper
        Limits of the bootstrap interval.
    standard_error
        Standard deviation of the resampled means.
    sd
        Standard deviation of the differences over cells.
    sd_first, sd_second
        Standard deviations over cells of each model's values, which pairing takes out where they go together.
    n_cells
        Cells.
    n_groups
        Groups that were resampled; the number of cells if cells were.
    confidence
        Nominal coverage of the interval.
    """

    mean_difference: float
    lower: float
    upper: float
    standard_error: float
    sd: float
    sd_first: float
    sd_second: float
    n_cells: int
    n_groups: int
    confidence: float

    def __repr__(self) -> str:
        what = "cells" if self.n_groups == self.n_cells else f"cells in {self.n_groups} groups"
        return (
            f"LikelihoodComparison: {self.mean_difference:+.4g} nats a cell ({self.confidence:.0%} interval "
            f"{self.lower:+.4g} to {self.upper:+.4g}; {self.n_cells} {what})"
        )


def _in_order_of(first: Any, second: Any) -> Any:
    """Put the values of one Series in the order of another's index."""
    left, right = first.index, second.index
    if left.equals(right):
        return second
    if not (left.is_unique and right.is_unique):
        msg = "second: expected the index of first, got another one with repeated names. Make names unique."
        raise ValueError(msg)
    order = right.get_indexer(left)
    if len(left) != len(right) or (order < 0).any():
        msg = (
            f"second: expected the {len(left)} cells of first, got {len(right)}, without {int((order < 0).sum())} of "
            "them. Score both models on the same cells."
        )
        raise ValueError(msg)
    return second.iloc[order]


def _aligned(first: Any, second: Any) -> tuple[np.ndarray, np.ndarray]:
    """Values of the same cells as two vectors."""
    if all(hasattr(values, "iloc") for values in (first, second)):
        second = _in_order_of(first, second)
    vectors = []
    for values, name in ((first, "first"), (second, "second")):
        array = np.asarray(values)
        if array.ndim != 1 or len(array) < 2:
            msg = f"{name}: expected one value a cell, at least two cells, got shape {array.shape}."
            raise ValueError(msg)
        vectors.append(dense_matrix(array[None, :], name)[0])
    if len(vectors[0]) != len(vectors[1]):
        msg = f"second: expected the {len(vectors[0])} cells of first, got {len(vectors[1])}. Align the cells."
        raise ValueError(msg)
    return vectors[0], vectors[1]


def _resampled_group_means(
    difference: np.ndarray, codes: np.ndarray, n_groups: int, n_resamples: int, seed: int
) -> np.ndarray:
    """Mean over the cells of groups drawn with replacement, (n_resamples,)."""
    rng = np.random.default_rng(seed)
    total, size = np.bincount(codes, difference, n_groups), np.bincount(codes, minlength=n_groups)
    means = []
    step = max(1, _BLOCK // n_groups)
    for start in range(0, n_resamples, step):
        times = rng.multinomial(n_groups, np.full(n_groups, 1.0 / n_groups), min(step, n_resamples - start))
        means.append((times @ total) / (times @ size))
    return np.concatenate(means)


def paired_iwelbo(
    first: Any,
    second: Any,
    *,
    groups: Any = None,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
) -> LikelihoodComparison:
    """Compare two models by the IWELBO (or any bound or likelihood) that they give to the same cells.

    Values of one model differ between cells and splits by far more than two models differ on one cell; the paired
    difference takes that out. It is comparable only between models with the same likelihood family on the same genes and
    counts, with the same number of importance samples, and never across normalisations.

    **Range**: nats a cell, 0 is no difference. **Chance** is 0. **Not seen**: effects. A likelihood is mostly about what all
    cells share, and a model can win it while predicting no effect at all.

    Parameters
    ----------
    first, second
        One value a cell, log scale, higher better: two pandas Series (put in one order by their index) or two arrays of
        shape (n_cells,) in one order.
    groups
        Label of each cell, in the order of `first`: resample whole groups (perturbations, batches) instead of cells. Cells
        of one perturbation share its difficulty; for a statement about **new perturbations** they are one observation, and
        intervals over cells are too narrow.
    n_resamples
        Bootstrap resamples.
    confidence
        Coverage of the percentile interval, in (0, 1).
    seed
        Seed of the resamples.

    Returns
    -------
    :class:`LikelihoodComparison`.

    Raises
    ------
    ValueError
        Cells differ or repeat, values are missing or infinite, fewer than two cells or groups, settings out of range.

    References
    ----------
    Burda, Grosse and Salakhutdinov (2016) for the bound; Efron and Tibshirani (1993), chapter 13, for the interval.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> cells = rng.normal(-500.0, 40.0, size=400)
    >>> better = paired_iwelbo(cells + 1.0 + rng.normal(size=400), cells)
    >>> better.lower > 0
    True
    """
    a, b = _aligned(first, second)
    if n_resamples < 1 or not 0 < confidence < 1:
        msg = f"n_resamples, confidence: expected at least 1 and a share in (0, 1), got {n_resamples} and {confidence}."
        raise ValueError(msg)
    difference = a - b
    if groups is None:
        from perturbia.stats import bootstrap_mean

        interval = bootstrap_mean(difference, n_resamples=n_resamples, confidence=confidence, seed=seed)
        lower, upper, error, n_groups = interval.lower, interval.upper, interval.standard_error, len(a)
    else:
        names, codes = group_codes(groups, len(a), name="groups")
        n_groups = len(names)
        if n_groups < 2:
            msg = f"groups: expected at least two groups to resample, got {n_groups}. Leave groups out."
            raise ValueError(msg)
        means = _resampled_group_means(difference, codes, n_groups, n_resamples, seed)
        lower, upper = np.quantile(means, [(1 - confidence) / 2, (1 + confidence) / 2])
        error = means.std()
    return LikelihoodComparison(
        mean_difference=float(difference.mean()),
        lower=float(lower),
        upper=float(upper),
        standard_error=float(error),
        sd=float(difference.std(ddof=1)),
        sd_first=float(a.std(ddof=1)),
        sd_second=float(b.std(ddof=1)),
        n_cells=len(a),
        n_groups=n_groups,
        confidence=confidence,
    )
