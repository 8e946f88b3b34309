"""How well a classifier tells perturbations apart, and how honest its probabilities are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from perturbia.stats.log_ratios import cross_entropy, propensity_scores

__all__ = ["class_auroc", "classification_scores", "reliability_curve"]


def classification_scores(logits: np.ndarray, codes: np.ndarray, n_labels: int) -> dict[str, Any]:
    """Scores of a classifier on cells.

    Parameters
    ----------
    logits
        Shape (n_cells, n_labels).
    codes
        Label of each cell.
    n_labels
        Number of labels.

    Returns
    -------
    `n_cells`; `cross_entropy` in nats and `chance`, that of the class frequencies; `accuracy` and `majority`, that of the
    most frequent label; `auroc`, mean over labels; `calibration_error`, the expected one.
    """
    frequency = np.bincount(codes, minlength=n_labels) / len(codes)
    present = frequency[frequency > 0]
    return {
        "n_cells": len(codes),
        "cross_entropy": cross_entropy(logits, codes),
        "chance": float(-(present * np.log(present)).sum()),
        "accuracy": float((logits.argmax(1) == codes).mean()),
        "majority": float(frequency.max()),
        "auroc": float(np.nanmean(class_auroc(logits, codes, n_labels))) if len(present) > 1 else np.nan,
        "calibration_error": _calibration_error(logits, codes),
    }


def class_auroc(logits: np.ndarray, codes: np.ndarray, n_labels: int) -> np.ndarray:
    """Area under the ROC curve of every label against all others.

    Parameters
    ----------
    logits
        Shape (n_cells, n_labels).
    codes
        Label of each cell.
    n_labels
        Number of labels.

    Returns
    -------
    Shape (n_labels,); NaN for labels without cells, or without others.
    """
    from sklearn.metrics import roc_auc_score

    scores = propensity_scores(logits, kind="probs")
    area = np.full(n_labels, np.nan)
    for label in np.unique(codes):
        if 0 < (is_label := codes == label).sum() < len(codes):
            area[label] = roc_auc_score(is_label, scores[:, label])
    return area


def reliability_curve(logits: np.ndarray, codes: np.ndarray, *, n_bins: int = 10) -> pd.DataFrame:
    """Confidence against accuracy, in bins of as many cells each.

    Parameters
    ----------
    logits
        Shape (n_cells, n_labels).
    codes
        Label of each cell.
    n_bins
        Bins, at most one a cell.

    Returns
    -------
    A row a bin, from the least to the most confident: `n_cells`; `confidence`, mean probability of the most probable label;
    `accuracy`, how often it is the right one; `lower` and `upper`, 95 % Wilson interval of the accuracy.
    """
    from scipy.stats import binomtest

    probability = propensity_scores(logits, kind="probs")
    confidence, right = probability.max(1), probability.argmax(1) == codes
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(n_bins, len(codes)))
    curve = pd.DataFrame(
        {
            "n_cells": [len(one) for one in bins],
            "confidence": [confidence[one].mean() for one in bins],
            "accuracy": [right[one].mean() for one in bins],
        }
    )
    intervals = [binomtest(int(right[one].sum()), len(one)).proportion_ci(method="wilson") for one in bins]
    curve["lower"], curve["upper"] = [one.low for one in intervals], [one.high for one in intervals]
    return curve


def _calibration_error(logits: np.ndarray, codes: np.ndarray) -> float:
    """Expected calibration error."""
    curve = reliability_curve(logits, codes)
    return float(np.average((curve["confidence"] - curve["accuracy"]).abs(), weights=curve["n_cells"]))
