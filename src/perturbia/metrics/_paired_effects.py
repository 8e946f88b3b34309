"""What all scores of predicted effects share: checked pairs, residuals, and one rule for scores that are not defined."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from perturbia.stats._arrays import check_same_shape, dense_matrix


def paired_effects(truth: Any, prediction: Any, *, min_columns: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return two finite float64 matrices of one shape (n_perturbations, n_genes)."""
    true = dense_matrix(truth, "truth", min_columns=min_columns)
    predicted = dense_matrix(prediction, "prediction", min_columns=min_columns)
    check_same_shape(true, predicted, ("truth", "prediction"))
    return true, predicted


def as_rows(matrix: np.ndarray, *, per_perturbation: bool) -> np.ndarray:
    """One row a perturbation, or everything in one row."""
    return matrix if per_perturbation else matrix.reshape(1, -1)


def result(scores: np.ndarray, *, per_perturbation: bool) -> float | np.ndarray:
    """A float for the flattened score, the vector otherwise."""
    return scores if per_perturbation else float(scores[0])


def settle_undefined(scores: np.ndarray, defined: np.ndarray, reason: str) -> np.ndarray:
    """Put NaN, with a warning, where the truth defines no score; raise if it defines none at all."""
    if not defined.any():
        msg = f"truth: expected effects that vary, but {reason} in every row. No score is defined."
        raise ValueError(msg)
    if not defined.all():
        warnings.warn(
            f"truth: {reason} for {int((~defined).sum())} perturbations; their score is NaN.",
            RuntimeWarning,
            stacklevel=3,
        )
    return np.where(defined, scores, np.nan)


def mean_or_rows(scores: np.ndarray, defined: np.ndarray, reason: str, *, per_perturbation: bool) -> float | np.ndarray:
    """The scores of all rows, NaN where none is defined, or the mean of those that are; both warn, none at all raises."""
    if not defined.any():
        msg = f"truth: expected perturbations that define a score, but {reason} in every row."
        raise ValueError(msg)
    if not defined.all():
        fate = "their score is NaN" if per_perturbation else "they are left out of the mean"
        warnings.warn(
            f"truth: {reason} for {int((~defined).sum())} of {len(defined)} perturbations; {fate}.",
            RuntimeWarning,
            stacklevel=3,
        )
    return np.where(defined, scores, np.nan) if per_perturbation else float(scores[defined].mean())


def rounding(*arrays: Any) -> float:
    """Relative size below which a difference of two of these arrays is rounding error, by the coarsest float type."""
    types = [dtype for array in arrays if (dtype := np.asarray(array).dtype).kind == "f"]
    return 32.0 * max((float(np.finfo(dtype).eps) for dtype in types), default=float(np.finfo(np.float64).eps))


def residual(effects: np.ndarray, reference: np.ndarray, *, tolerance: float) -> np.ndarray:
    """Subtract `reference`; a row that only differs by rounding is exactly zero, or its noise would be scored."""
    difference = effects - reference
    size = np.linalg.norm(effects, axis=1)
    difference[np.linalg.norm(difference, axis=1) <= tolerance * size] = 0.0
    return difference
