"""What all scores of predicted effects share: checked pairs, and one rule for scores that are not defined."""

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
