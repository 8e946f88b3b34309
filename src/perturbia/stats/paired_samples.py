"""Two methods scored on the same perturbations: which is better, by how much, and how surely."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from perturbia.stats.bootstrap import NanPolicy, bootstrap_mean, check_resampling, check_scores, like_input


@dataclass(frozen=True)
class PairedComparison:
    """Paired comparison of two methods; numbers for vectors of scores, arrays (n_columns,) for matrices.

    Attributes
    ----------
    mean_difference
        Mean of first minus second.
    lower, upper
        Limits of its bootstrap interval.
    p_value
        Two-sided Wilcoxon signed-rank p-value; 1 if no pair differs.
    share_better
        Share of pairs in which first is better, ties counted half.
    count
        Pairs that count, int64.
    confidence
        Nominal coverage of the interval.
    higher_is_better
        Direction of the scores.
    """

    mean_difference: Any
    lower: Any
    upper: Any
    p_value: Any
    share_better: Any
    count: Any
    confidence: float
    higher_is_better: bool

    def __repr__(self) -> str:
        if np.ndim(self.mean_difference):
            return f"PairedComparison: {len(self.mean_difference)} columns, {self.confidence:.0%} interval"
        return (
            f"PairedComparison: {self.mean_difference:+.4g} ({self.lower:+.4g} to {self.upper:+.4g}), "
            f"p = {self.p_value:.2g}, better in {self.share_better:.0%} of {self.count}"
        )


def paired_comparison(
    first: Any,
    second: Any,
    *,
    higher_is_better: bool = True,
    n_resamples: int = 10_000,
    confidence: float = 0.95,
    nan: NanPolicy = "raise",
    seed: int = 0,
) -> PairedComparison:
    """Compare two methods over the perturbations that both were scored on.

    Pairing takes out what perturbations have in common, their difficulty, which is most of the spread of scores.

    Parameters
    ----------
    first, second
        Scores of the two methods, one row a perturbation in the same order: (n_rows,) or (n_rows, n_columns).
    higher_is_better
        Whether large scores are good; `False` for errors and distances.
    n_resamples, confidence, seed
        Bootstrap of the mean difference, as in :func:`bootstrap_mean`.
    nan
        `"raise"` refuses missing values; `"omit"` leaves out pairs in which either is missing, and `count` says how many
        are left.

    Returns
    -------
    :class:`PairedComparison`.

    Raises
    ------
    ValueError
        Different shapes, missing values under `nan="raise"`, infinite values, impossible settings.

    Warns
    -----
    RuntimeWarning
        Fewer than two pairs that count: no interval; p is NaN without any pair.

    Notes
    -----
    The signed-rank test is Wilcoxon (1945), :func:`scipy.stats.wilcoxon`: exact for 50 pairs or fewer without ties.

    Examples
    --------
    >>> paired_comparison([0.5, 0.7, 0.9, 0.8, 0.6, 0.9], [0.4, 0.5, 0.6, 0.4, 0.1, 0.3]).p_value
    0.03125
    """
    from scipy.stats import wilcoxon

    check_resampling(n_resamples, confidence)
    left, right = check_scores(first, "first", nan), check_scores(second, "second", nan)
    if np.shape(first) != np.shape(second):
        msg = (
            f"second: expected the shape of first, {np.shape(first)}, got {np.shape(second)}. Align the perturbations."
        )
        raise ValueError(msg)
    difference = left - right
    interval = bootstrap_mean(difference, n_resamples=n_resamples, confidence=confidence, nan="omit", seed=seed)
    p_value, share = np.full(difference.shape[1], np.nan), np.full(difference.shape[1], np.nan)
    for column, pairs in enumerate(difference.T):
        present = pairs[~np.isnan(pairs)]
        if len(present) == 0:
            continue
        gain = np.sign(present if higher_is_better else -present)
        share[column] = (gain + 1).mean() / 2
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # small samples with ties: SciPy then takes the normal approximation
            p_value[column] = wilcoxon(present).pvalue if gain.any() else 1.0
    return PairedComparison(
        mean_difference=like_input(interval.mean, first),
        lower=like_input(interval.lower, first),
        upper=like_input(interval.upper, first),
        p_value=like_input(p_value, first),
        share_better=like_input(share, first),
        count=like_input(interval.count, first),
        confidence=confidence,
        higher_is_better=higher_is_better,
    )
