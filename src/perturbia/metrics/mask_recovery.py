"""Recovery of the true sparse masks of perturbations on latents."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.optimize

from perturbia.stats._arrays import dense_matrix

if TYPE_CHECKING:
    from perturbia.metrics.latent_recovery import LatentMatching


@dataclass(frozen=True)
class MaskScores:
    """Agreement of two binary masks after matching their columns.

    Attributes
    ----------
    precision
        True positives over all open entries of the estimate, surplus columns included; 0 if none is open.
    recall
        True positives over all open entries of the truth.
    f1
        Harmonic mean of both, 0 if both are 0.
    true_positives, false_positives, false_negatives
        Counts of entries.
    matching
        Estimated column of each true column, shape (n_true,); -1 where none was left.
    """

    precision: float
    recall: float
    f1: float
    true_positives: int
    false_positives: int
    false_negatives: int
    matching: np.ndarray


def _checked_matching(matching: Any, n_true: int, n_estimated: int) -> tuple[np.ndarray, np.ndarray]:
    pair = (matching.truth, matching.estimate) if hasattr(matching, "truth") else matching
    try:
        rows, columns = (np.asarray(index) for index in pair)
    except (TypeError, ValueError):
        rows = columns = np.empty(0)
    for index, size in ((rows, n_true), (columns, n_estimated)):
        valid = index.ndim == 1 and index.dtype.kind in "iu" and len(index) == len(rows) > 0
        if not valid or index.min() < 0 or index.max() >= size or len(np.unique(index)) != len(index):
            msg = (
                "matching: expected (true columns, estimated columns), distinct indices below "
                f"{n_true} and {n_estimated}, got {matching!r}. Use match_latents."
            )
            raise ValueError(msg)
    return rows, columns


def mask_scores(
    truth_mask: np.ndarray,
    estimated_mask: np.ndarray,
    *,
    matching: LatentMatching | tuple[np.ndarray, np.ndarray] | None = None,
    threshold: float = 0.5,
) -> MaskScores:
    r"""Precision, recall and F1 of estimated masks, whose columns come in any order and number.

    .. math:: P = \frac{TP}{TP + FP}, \quad R = \frac{TP}{TP + FN}, \quad F_1 = \frac{2 TP}{2 TP + FP + FN}

    **Range** [0, 1], 1 best. **Chance**: an all-open estimate has recall 1 and, as precision, the share of open true
    entries; the default matching lifts random masks further. **Not seen**: how strong an open entry is.

    Parameters
    ----------
    truth_mask
        True masks, boolean or 0/1, shape (n_perturbations, n_true).
    estimated_mask
        Masks, boolean or probabilities, shape (n_perturbations, n_estimated), rows in the same order.
    matching
        Pairs of columns: a :class:`~perturbia.metrics.LatentMatching` from :func:`~perturbia.metrics.match_latents` of the
        latents (the honest choice, since it does not look at the masks), or two index arrays. Default: the matching with
        most true positives, which also has the highest F1.
    threshold
        Entries of `estimated_mask` above it are open.

    Returns
    -------
    :class:`MaskScores`. Open entries of estimated columns without a partner count as false positives, those of true
    columns without a partner as false negatives.

    Raises
    ------
    ValueError
        Numbers of perturbations differ, the true mask is not 0/1 or has no open entry, or the matching is no matching.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[1, 0], [0, 1], [1, 1]])
    >>> round(mask_scores(truth, np.array([[0.1, 0.9, 0.8], [0.7, 0.2, 0.0], [0.9, 0.6, 0.3]])).f1, 3)
    0.889
    """
    true = dense_matrix(truth_mask, "truth_mask")
    estimated = dense_matrix(estimated_mask, "estimated_mask") > threshold
    if not np.isin(true, (0.0, 1.0)).all() or not true.any():
        msg = "truth_mask: expected zeros and ones with at least a one, got other values or only zeros."
        raise ValueError(msg)
    if len(true) != len(estimated):
        msg = f"estimated_mask: expected the {len(true)} perturbations (rows) of truth_mask, got {len(estimated)}."
        raise ValueError(msg)
    overlap = true.T @ estimated
    if matching is None:
        rows, columns = scipy.optimize.linear_sum_assignment(-overlap)
    else:
        rows, columns = _checked_matching(matching, true.shape[1], estimated.shape[1])
    hits = int(overlap[rows, columns].sum())
    n_open, n_true = int(estimated.sum()), int(true.sum())
    partner = np.full(true.shape[1], -1)
    partner[rows] = columns
    return MaskScores(
        precision=hits / n_open if n_open else 0.0,
        recall=hits / n_true,
        f1=2 * hits / (n_open + n_true),
        true_positives=hits,
        false_positives=n_open - hits,
        false_negatives=n_true - hits,
        matching=partner,
    )
