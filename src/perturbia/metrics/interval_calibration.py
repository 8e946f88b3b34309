"""Do predicted intervals hold the truth as often as they say?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.special

from perturbia.metrics._paired_effects import as_rows, result
from perturbia.metrics.probability_scores import checked_samples
from perturbia.stats._arrays import check_nonnegative, check_same_shape, dense_matrix


@dataclass(frozen=True)
class CoverageCurve:
    """Nominal against empirical coverage of central intervals.

    Attributes
    ----------
    nominal
        Levels of the intervals, shape (n_levels,).
    empirical
        Share of true values inside, shape (n_levels,). Below the level: overconfident; above: too wide.
    n_values
        Number of true values.
    """

    nominal: np.ndarray
    empirical: np.ndarray
    n_values: int

    @property
    def error(self) -> float:
        """Mean absolute difference of empirical and nominal coverage over the levels; 0 is best."""
        return float(np.abs(self.empirical - self.nominal).mean())

    def __repr__(self) -> str:
        return (
            f"CoverageCurve: {len(self.nominal)} levels, {self.n_values} values, mean absolute error {self.error:.3g}"
        )


def interval_coverage(
    truth: np.ndarray, lower: np.ndarray, upper: np.ndarray, *, per_perturbation: bool = False
) -> float | np.ndarray:
    """Share of true values inside their predicted intervals, limits included.

    **Range** [0, 1]; best is the level of the intervals, neither more nor less. **Chance**: none; intervals without end
    cover everything. **Not seen**: width, so report :func:`crps_gaussian` or :func:`crps_samples` beside it. A measured
    effect carries its own noise, which the intervals have to include.

    Parameters
    ----------
    truth
        Effects against control, shape (n_perturbations, n_genes).
    lower, upper
        Limits, same shape.
    per_perturbation
        The share in each row instead of that of all entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        Bad arrays, shapes that differ, or a lower limit above its upper one.

    Examples
    --------
    >>> import numpy as np
    >>> interval_coverage(np.array([[0.0, 2.0]]), np.array([[-1.0, -1.0]]), np.array([[1.0, 1.0]]))
    0.5
    """
    true, low, high = (
        dense_matrix(value, name) for value, name in ((truth, "truth"), (lower, "lower"), (upper, "upper"))
    )
    check_same_shape(true, low, ("truth", "lower"))
    check_same_shape(true, high, ("truth", "upper"))
    if (n_crossed := int((low > high).sum())) > 0:
        msg = f"upper: expected limits at or above lower, got {n_crossed} below. Swap them."
        raise ValueError(msg)
    rows = as_rows(((low <= true) & (true <= high)).astype(np.float64), per_perturbation=per_perturbation)
    return result(rows.mean(axis=1), per_perturbation=per_perturbation)


def _centrality_of_samples(true: np.ndarray, samples: Any) -> np.ndarray:
    """|2 u - 1| of the position u of truth among draws, uniform if truth is one more draw; ties in the middle."""
    draws = checked_samples(samples, true.shape, least=2)
    below, equal = (draws < true).sum(axis=0), (draws == true).sum(axis=0)
    return np.abs(2.0 * (below + equal / 2.0 + 0.5) / (len(draws) + 1.0) - 1.0)


def _centrality_of_gaussian(true: np.ndarray, mean: Any, sd: Any) -> np.ndarray:
    centre, spread = dense_matrix(mean, "mean"), dense_matrix(sd, "sd")
    check_same_shape(true, centre, ("truth", "mean"))
    check_same_shape(true, spread, ("truth", "sd"))
    check_nonnegative(spread, "sd")
    error = np.abs(true - centre)
    sure = np.where(error > 0, np.inf, 0.0)  # no spread: inside every interval or none
    z = np.divide(error, spread, out=sure, where=spread > 0)
    return 2.0 * scipy.special.ndtr(z) - 1.0


def coverage_curve(
    truth: np.ndarray,
    samples: np.ndarray | None = None,
    *,
    mean: np.ndarray | None = None,
    sd: np.ndarray | None = None,
    levels: Any = None,
) -> CoverageCurve:
    """Empirical coverage of central predictive intervals at many levels: the calibration curve of a regression.

    **Range** [0, 1] at each level; best is the diagonal. **Chance**: none. **Not seen**: sharpness; predicting the spread
    of all effects for each of them is calibrated and useless. Over- and underconfident genes can cancel: look at strata.

    Parameters
    ----------
    truth
        Effects against control, shape (n_perturbations, n_genes).
    samples
        Draws of the predicted effects, shape (n_samples, n_perturbations, n_genes). The position of the truth among
        n draws has n + 1 values, so that levels closer than 2 / (n + 1) are not told apart.
    mean, sd
        Instead of samples: means and standard deviations of Gaussian predictions, shape of `truth`.
    levels
        Levels in (0, 1). Default: 0.05, 0.10, ... 0.95.

    Returns
    -------
    :class:`CoverageCurve`.

    Raises
    ------
    ValueError
        Bad arrays, shapes that do not match, both or neither of samples and mean with sd, levels outside (0, 1).

    References
    ----------
    Kuleshov, Fenner and Ermon, ICML (2018).

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).normal(size=(100, 50))
    >>> coverage_curve(truth, mean=np.zeros_like(truth), sd=np.ones_like(truth)).error < 0.01
    True
    """
    true = dense_matrix(truth, "truth")
    if (samples is None) == (mean is None) or (mean is None) != (sd is None):
        msg = "samples: expected either samples, or mean and sd. Pass one of the two."
        raise ValueError(msg)
    nominal = np.arange(1, 20) / 20.0 if levels is None else np.asarray(levels, dtype=np.float64)
    if nominal.ndim != 1 or len(nominal) == 0 or not ((nominal > 0) & (nominal < 1)).all():
        msg = f"levels: expected shares between 0 and 1, got {levels!r}."
        raise ValueError(msg)
    if samples is not None:
        centrality = _centrality_of_samples(true, samples)
    else:
        centrality = _centrality_of_gaussian(true, mean, sd)
    inside = np.searchsorted(np.sort(centrality, axis=None), nominal, side="right")
    return CoverageCurve(nominal=nominal, empirical=inside / true.size, n_values=true.size)
