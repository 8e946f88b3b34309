"""Measures that call differential expression on held-out and on predicted cells, each against observed controls."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia import metrics
from perturbia.stats import rank_sum
from perturbia.tl._evaluation.matched_cells import matched_sizes
from perturbia.tl._evaluation.measure import Measure, Overall
from perturbia.tl._evaluation.truth import FDR, MAX_CONTROLS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["DIFFERENTIAL", "DifferentialTable"]

#: How tests are made comparable, and why a perfect prediction stays short of the best value.
TESTED = (
    " Tests take as many held-out as predicted cells, the same number for every method; each side has controls of its own, "
    "so that a perfect prediction stays short of the best value."
)

CONTROL = "control"
MIN_CLUSTERED = 3


@dataclass(frozen=True)
class DifferentialTable:
    """Wilcoxon rank-sum tests of each condition against the observed controls of its context.

    Attributes
    ----------
    fold_change, fdr
        log2 fold changes and false discovery rates, both `(n_conditions, n_genes)`.
    """

    fold_change: np.ndarray
    fdr: np.ndarray


def _test(truth: Truth, cells: Sequence[np.ndarray], *, held_out: bool) -> DifferentialTable:
    shape = truth.effects.shape
    fold_change, fdr = np.zeros(shape), np.ones(shape)
    contexts = np.array(truth.contexts)
    for context in np.unique(contexts):
        rows = np.flatnonzero(contexts == context)
        controls = truth.screen.cells(truth.control_rows(held_out=held_out, context=context, limit=MAX_CONTROLS))
        parts = [controls, *(cells[int(row)] for row in rows)]
        labels = np.repeat([CONTROL, *map(str, rows)], [len(part) for part in parts])
        tested = rank_sum(
            np.vstack(parts),
            labels,
            reference=CONTROL,
            fold_change="geometric" if truth.screen.scale == "log1p_cp10k" else None,
        )
        found = tested.groups.astype(int)
        fdr[found] = tested.fdr
        # without a logarithm of counts, the standardised statistic ranks genes
        change = tested.log2_fold_change
        fold_change[found] = change if truth.screen.scale == "log1p_cp10k" else tested.z_score
    return DifferentialTable(fold_change, fdr)


def _of_truth(truth: Truth) -> DifferentialTable:
    cache = truth.__dict__
    if "differential" not in cache:
        sizes = zip(truth.populations, matched_sizes(truth), strict=True)
        cache["differential"] = _test(truth, [truth.screen.cells(rows[:n]) for rows, n in sizes], held_out=True)
    return cache["differential"]


def _of_prediction(truth: Truth, prediction: Prediction) -> DifferentialTable:
    """As many predicted cells as held-out ones are tested, because the number of significant genes follows that of cells.

    They are tested against the controls that models may have seen: with the controls of the truth, both sides would share
    the noise of these.
    """
    cache = prediction.__dict__
    if "differential" not in cache:
        cells = [prediction.cells(i, int(n)) for i, n in enumerate(matched_sizes(truth))]
        cache["differential"] = _test(truth, cells, held_out=False)
    return cache["differential"]


def _per_condition(score: Callable[[DifferentialTable, DifferentialTable], Any]) -> Callable[[Truth, Prediction], Any]:
    """One score a condition, NaN where the truth defines none."""

    def measure(truth: Truth, prediction: Prediction) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # perturbations without a score are NaN and counted
            try:
                return score(_of_truth(truth), _of_prediction(truth, prediction))
            except ValueError as error:
                if "significant" not in str(error):
                    raise
                return np.full(len(truth), np.nan)  # nothing is significant in any held-out population

    return measure


def _numbers(truth: Truth, prediction: Prediction) -> Overall:
    """Rank correlation over conditions of the numbers of significant genes, where held-out cells have any."""
    true, predicted = _of_truth(truth).fdr, _of_prediction(truth, prediction).fdr
    responding = (true < FDR).any(axis=1)
    n_cells = int(matched_sizes(truth)[responding].sum())
    try:
        return Overall.of(metrics.de_spearman_significant(true, predicted), np.asarray(responding), n_cells=n_cells)
    except ValueError as error:
        if "significant" not in str(error):
            raise
        return Overall.undefined(len(truth))


def _distances(truth: Truth, prediction: Prediction) -> Overall:
    """Correlation over conditions of the energy distances of predicted and of held-out cells to controls."""
    true = truth.control_distances
    predicted = prediction.control_distances
    defined = np.isfinite(true) & np.isfinite(predicted)
    if defined.sum() < 2:
        return Overall.undefined(len(truth))
    return Overall.of(metrics.edistance_correlation(true[defined], predicted[defined]), defined)


def _clustering(truth: Truth, prediction: Prediction) -> Overall:
    true, predicted = truth.effects, prediction.populations[1]
    defined = np.isfinite(true).all(axis=1) & np.isfinite(predicted).all(axis=1)
    if defined.sum() < MIN_CLUSTERED:
        return Overall.undefined(len(truth))
    try:
        value = metrics.clustering_agreement(true[defined], predicted[defined], seed=truth.seed)
    except ValueError as error:
        if "form clusters" not in str(error):
            raise
        return Overall.undefined(len(truth))  # the observed effects are one cluster
    return Overall.of(value, defined)


DIFFERENTIAL: tuple[Measure, ...] = (
    Measure(
        "overlap_at_n",
        "DES (overlap at N)",
        "Share of the N significant genes of held-out cells that are among the N strongest significant genes of predicted "
        "cells; 0 where held-out cells have none." + TESTED,
        _per_condition(
            lambda true, predicted: metrics.overlap_at_n(
                true.fold_change, true.fdr, predicted.fold_change, predicted.fdr, per_perturbation=True
            )
        ),
        chance=np.nan,
        reads="cells",
        tests=True,
    ),
    Measure(
        "precision_at_n",
        "precision at N",
        "The same with N the number of significant genes of predicted cells.",
        _per_condition(
            lambda true, predicted: metrics.overlap_at_n(
                true.fold_change,
                true.fdr,
                predicted.fold_change,
                predicted.fdr,
                size="prediction",
                per_perturbation=True,
            )
        ),
        chance=np.nan,
        reads="cells",
        tests=True,
    ),
    Measure(
        "de_recall",
        "recall of DE genes",
        "Share of the significant genes of held-out cells that are significant in predicted cells.",
        _per_condition(lambda true, predicted: metrics.de_recall(true.fdr, predicted.fdr, per_perturbation=True)),
        chance=np.nan,
        reads="cells",
        tests=True,
    ),
    Measure(
        "de_direction",
        "direction of DE genes",
        "Share of the significant genes of held-out cells whose fold change has the right sign in predicted cells.",
        _per_condition(
            lambda true, predicted: metrics.direction_match(
                true.fold_change, predicted.fold_change, significant=true.fdr < FDR, per_perturbation=True
            )
        ),
        reads="cells",
        tests=True,
        chance=0.5,
    ),
    Measure(
        "de_spearman_lfc",
        "rank correlation of DE genes",
        "Spearman correlation of fold changes on the significant genes of held-out cells.",
        _per_condition(
            lambda true, predicted: metrics.de_spearman_lfc(
                true.fold_change, true.fdr, predicted.fold_change, per_perturbation=True
            )
        ),
        reads="cells",
        tests=True,
    ),
    Measure(
        "de_pr_auc",
        "PR AUC of DE genes",
        "Area under the precision-recall curve of the false discovery rates of predicted cells, for the significant genes of "
        "held-out cells; chance is their share.",
        _per_condition(
            lambda true, predicted: metrics.de_precision_recall_auc(true.fdr, predicted.fdr, per_perturbation=True)
        ),
        reads="cells",
        tests=True,
        chance=np.nan,
    ),
    Measure(
        "de_roc_auc",
        "ROC AUC of DE genes",
        "Area under the ROC curve of the same.",
        _per_condition(lambda true, predicted: metrics.de_roc_auc(true.fdr, predicted.fdr, per_perturbation=True)),
        reads="cells",
        tests=True,
        chance=0.5,
    ),
    Measure(
        "de_spearman_significant",
        "rank correlation of DE numbers",
        "Spearman correlation over perturbations of the numbers of significant genes.",
        _numbers,
        level="all",
        reads="cells",
        tests=True,
    ),
    Measure(
        "de_edistance",
        "r of e-distances",
        "Pearson correlation over perturbations of the energy distance to controls of predicted and of held-out cells.",
        _distances,
        level="all",
        reads="cells",
        reference="cells",
    ),
    Measure(
        "clustering",
        "agreement of clusters",
        "Adjusted mutual information of clusterings of predicted and of observed mean effects, best over resolutions "
        "(Louvain, where cell-eval has Leiden).",
        _clustering,
        level="all",
        chance=np.nan,
        reads="cells",
    ),
)
