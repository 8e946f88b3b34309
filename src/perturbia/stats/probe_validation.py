"""Nested cross-validation of probes over folds of whole groups, and the choice of a block that it allows."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from perturbia.stats.linear_probe import Predictor, Probe

__all__ = ["BlockChoice", "BlockValidation", "choose_block", "earliest_good", "validate_block"]

Rule = Literal["one_se", "best"]
_DIGITS = 12  # scores that agree so far are equal: what is left depends on the order of rows


@dataclass(frozen=True)
class BlockValidation:
    """Scores of one block on folds that the probe was not fitted to.

    Attributes
    ----------
    outer
        Score on fold k of probes fitted to all other folds, shape (n_folds, n_settings).
    inner
        Score on fold j of probes fitted to all folds but k and j, shape (n_folds, n_folds, n_settings): what may be known
        while fold k is held out. NaN on the diagonal, and where nothing can be scored.
    seconds
        CPU seconds.
    """

    outer: np.ndarray
    inner: np.ndarray
    seconds: float


def validate_block(
    X: np.ndarray,
    codes: np.ndarray,
    folds: np.ndarray,
    *,
    probe: Probe,
    n_components: int | None = None,
    balanced: bool = True,
) -> BlockValidation:
    """Score a probe on one block of features, with every fold and every pair of folds left out.

    The probe that is fitted without folds k and j serves twice: on j while k is held out, and on k while j is. So nested
    cross-validation takes F (F + 1) / 2 fits for F folds, and the inner folds never hold a row of the outer one.

    Parameters
    ----------
    X
        Features, shape (n_rows, d).
    codes
        Label of every row, shape (n_rows,).
    folds
        Fold of every row, 0 to F - 1, shape (n_rows,); groups must not be in two.
    probe
        Classifier with its settings.
    n_components
        Principal axes that a fit keeps, found in its own training rows.
    balanced
        Whether labels have equal weight, in fits and in scores (balanced accuracy), else rows (accuracy).

    Returns
    -------
    :class:`BlockValidation`. Rows of labels that a fit has not seen are not scored; NaN where none is left.
    """
    start = time.process_time()
    values = _compact(X)
    n_folds, n_settings = int(folds.max()) + 1, len(probe.settings)
    inner = np.full((n_folds, n_folds, n_settings), np.nan)
    members = [np.flatnonzero(folds == k) for k in range(n_folds)]
    for k in range(n_folds):
        for j in range(k, n_folds):
            train = (folds != k) & (folds != j)
            known = np.unique(codes[train])
            if len(known) < 2:
                continue
            predict = probe.fit(values[train], codes[train], n_components=n_components, balanced=balanced)
            for held_out, scored in {(k, j), (j, k)}:
                rows = members[scored][np.isin(codes[members[scored]], known)]
                inner[held_out, scored] = _score(predict, values[rows], codes[rows], n_settings, balanced=balanced)
    own = np.arange(n_folds)
    outer = inner[own, own]
    inner[own, own] = np.nan
    return BlockValidation(outer=outer, inner=inner, seconds=time.process_time() - start)


def _compact(X: np.ndarray) -> np.ndarray:
    """Centred float64 rows, rotated into as many columns as there are rows where there are more; distances stay."""
    values = X - X.mean(axis=0, dtype=np.float64)
    if values.shape[1] <= len(values):
        return values
    squares, vectors = np.linalg.eigh(values @ values.T)
    return vectors * np.sqrt(squares.clip(min=0))


def _score(predict: Predictor, X: np.ndarray, truth: np.ndarray, n_settings: int, *, balanced: bool) -> np.ndarray:
    """Balanced accuracy or accuracy of every setting, (n_settings,)."""
    if len(truth) == 0:
        return np.full(n_settings, np.nan)
    _, position, counts = np.unique(truth, return_inverse=True, return_counts=True)
    weight = 1 / (len(counts) * counts[position]) if balanced else np.full(len(truth), 1 / len(truth))
    return weight @ (predict(X) == truth[:, None])


@dataclass(frozen=True)
class BlockChoice:
    """Scores of blocks under nested cross-validation, and the one that a rule chooses.

    Attributes
    ----------
    setting
        Setting that the inner folds choose for each block and outer fold, positions, shape (n_blocks, n_folds).
    score
        Score of that setting on the outer fold, shape (n_blocks, n_folds).
    naive
        Score of the best setting on the outer fold itself, shape (n_blocks, n_folds).
    selected
        Position of the block that the rule chooses from the means of `score`.
    nested_block
        Block that the rule chooses from the inner folds alone while fold k is held out, shape (n_folds,).
    nested
        Its score on fold k, shape (n_folds,): what choosing block and setting earns on groups that took no part.
    naive_best
        Score of the best block and setting on fold k itself, shape (n_folds,).
    """

    setting: np.ndarray
    score: np.ndarray
    naive: np.ndarray
    selected: int
    nested_block: np.ndarray
    nested: np.ndarray
    naive_best: np.ndarray


def choose_block(outer: np.ndarray, inner: np.ndarray, *, rule: Rule) -> BlockChoice:
    """Choose settings, and a block, by the inner folds, and score them by the outer ones.

    Parameters
    ----------
    outer
        As in :class:`BlockValidation`, blocks in order of depth, shape (n_blocks, n_folds, n_settings).
    inner
        Likewise, shape (n_blocks, n_folds, n_folds, n_settings). For each outer fold, some inner fold is scored.
    rule
        ``"one_se"``: the earliest block within one standard error of the best; ``"best"``: the best.

    Returns
    -------
    :class:`BlockChoice`. By construction `nested` is nowhere above `naive_best`, nor `score` above `naive`.
    """
    outer, inner = np.round(outer, _DIGITS), np.round(inner, _DIGITS)
    n_blocks, n_folds, _ = outer.shape
    blocks, folds = np.arange(n_blocks)[:, None], np.arange(n_folds)
    setting = np.round(np.nanmean(inner, axis=2), _DIGITS).argmax(axis=2)
    score, naive = outer[blocks, folds, setting], outer.max(axis=2)
    known = inner[blocks, folds, :, setting]  # scores on inner folds, (n_blocks, n_folds, n_folds)
    nested_block = np.array([earliest_good(known[:, k], rule) for k in folds])
    return BlockChoice(
        setting=setting,
        score=score,
        naive=naive,
        selected=earliest_good(score, rule),
        nested_block=nested_block,
        nested=score[nested_block, folds],
        naive_best=naive.max(axis=0),
    )


def earliest_good(scores: np.ndarray, rule: Rule) -> int:
    """Position of the best row by its mean, or of the earliest within one standard error of it.

    Parameters
    ----------
    scores
        Scores, shape (n_blocks, n_folds); folds that are NaN in one row are so in all, and do not count.
    rule
        As in :func:`choose_block`.

    Returns
    -------
    The position. One fold has no standard error: the best is taken.
    """
    kept = scores[:, ~np.isnan(scores).any(axis=0)]
    mean = np.round(kept.mean(axis=1), _DIGITS)
    best = int(mean.argmax())
    if rule == "best" or kept.shape[1] < 2:
        return best
    error = kept[best].std(ddof=1) / np.sqrt(kept.shape[1])
    return int(np.flatnonzero(mean >= mean[best] - error)[0])
