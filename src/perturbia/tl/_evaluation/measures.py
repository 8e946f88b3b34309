"""The measures by which predictions are judged."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from perturbia import metrics
from perturbia.tl._evaluation.differential import DIFFERENTIAL
from perturbia.tl._evaluation.interactions import interaction_r, interaction_r2
from perturbia.tl._evaluation.measure import Measure
from perturbia.tl._evaluation.scores import (
    against_centroid,
    centroid_accuracy,
    compared,
    direction,
    distances,
    fold_changes,
    jaccard_of_top_genes,
    likelihood,
    on_effects,
    on_means,
    profiles,
    retrieval,
    top_genes_of_halves,
    top_genes_of_truth,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["MEASURES"]


#: Numbers of strongest genes that are looked at.
TOPS = (20, 50, 100)
#: Why a perfect prediction of cells stays short of the best value.
APART = (
    " Held-out and predicted cells are set against controls of their own, whose noise keeps a perfect prediction short of "
    "the best value."
)
CORRELATION = Measure(
    "correlation",
    "r, per perturbation",
    "Pearson correlation of predicted and observed effects over genes, for each perturbation. Blind to the size of "
    "effects, and generous to a shift that all perturbations share.",
    on_effects(metrics.effect_correlation),
    noise="correlation",
)
RMSE = Measure(
    "rmse",
    "RMSE",
    "Root mean squared error of effects over genes.",
    on_effects(metrics.rmse),
    noise="error",
    higher_is_better=False,
    best=0.0,
    chance=np.nan,
    unit="scale of effects",
)
RETRIEVAL = Measure(
    "retrieval_cosine",
    "retrieval (cosine)",
    "How many of the other observed effects are farther from the prediction than its own, by cosine: 1 is the "
    "nearest, .5 is chance, ties share their rank.",
    retrieval(query="prediction", metric="cosine"),
    chance=0.5,
)
EFFECT_MEASURES: tuple[Measure, ...] = (
    CORRELATION,
    Measure(
        "r2",
        "R², per perturbation",
        "Share of the variation of observed effects over genes that is predicted, for each perturbation. Effects of "
        "the wrong size cost.",
        on_effects(metrics.effect_r2),
        noise="determination",
        chance=np.nan,
    ),
    Measure(
        "cosine",
        "cosine",
        "Cosine of predicted and observed effects, for each perturbation.",
        on_effects(metrics.effect_cosine),
        noise="correlation",
    ),
    Measure(
        "correlation_systema",
        "r to centroid",
        "Pearson correlation after the mean effect of all seen perturbations was taken off both sides (Systema): what "
        "is specific to a perturbation. The mean baseline scores 0; a prediction of no effect scores above it where "
        "perturbations are weak, since it is right that they are not like the mean.",
        against_centroid(top=False),
        noise="correlation",
        reference="perturbed centroid",
        chance=np.nan,
    ),
    Measure(
        "correlation_systema_top20",
        "r to centroid, top 20",
        "The same on the 20 genes of largest observed effect, which the judged cells choose themselves.",
        against_centroid(top=True),
        reference="perturbed centroid",
        chance=np.nan,
    ),
    *(
        Measure(
            f"top{top}",
            f"r, top {top}",
            f"Pearson correlation on the {top} genes of strongest effect, chosen on one half of the held-out cells and scored "
            "on the other, for each perturbation.",
            top_genes_of_halves(per_perturbation=True, top=top),
            noise="correlation of halves",
            top=top,
        )
        for top in TOPS
    ),
    *(
        Measure(
            f"jaccard{top}",
            f"Jaccard, top {top}",
            f"Overlap of the {top} strongest predicted and observed genes, with their signs: shared over all.",
            jaccard_of_top_genes(top=top),
            chance=np.nan,
            top=top,
        )
        for top in TOPS
    ),
    Measure(
        "direction",
        "direction",
        "Share of the significant genes (5 % FDR in held-out cells) that are predicted to go the right way. A coin has .5; "
        "a prediction of no effect has none right.",
        direction,
        chance=np.nan,
    ),
    RMSE,
    replace(
        RMSE,
        name="mae",
        title="MAE",
        description="Mean absolute error of effects over genes.",
        score=on_effects(metrics.mae),
    ),
    RETRIEVAL,
    replace(
        RETRIEVAL,
        name="retrieval_l1",
        title="retrieval (L1)",
        description="The same by the sum of absolute differences, which rewards predictions of the right size; "
        "stretching a prediction can raise it.",
        score=retrieval(query="prediction", metric="l1"),
    ),
    Measure(
        "edistance",
        "e-distance",
        "Energy distance (Euclidean, U-statistic) from predicted to held-out cells in 50 principal components of "
        "training cells. 0 is equality up to noise, which may make it negative; so do the held-out cells themselves, which "
        "are nearer to one another than any other sample.",
        distances,
        reads="cells",
        noise="distance",
        higher_is_better=False,
        best=0.0,
        chance=np.nan,
        unit="log1p CP10K",
        reference="cells",
    ),
    Measure(
        "correlation_cells",
        "r of predicted cells",
        "Pearson correlation of the mean of predicted cells minus observed controls with observed effects: what a "
        "model that states effects against its own predicted controls scores when it may not." + APART,
        on_means(metrics.effect_correlation, absolute=False),
        reads="cells",
        noise="correlation",
    ),
    Measure(
        "correlation_all",
        "r",
        "Pearson correlation over all perturbations and genes at once: mixes which perturbations are strong with what "
        "they do.",
        on_effects(metrics.effect_correlation, per_perturbation=False),
        level="all",
        noise="correlation",
        flattened="correlation",
    ),
    Measure(
        "r2_all",
        "R²",
        "Share of the variation of observed effects over all perturbations and genes that is predicted.",
        on_effects(metrics.effect_r2, per_perturbation=False),
        level="all",
        noise="determination",
        flattened="determination",
        chance=np.nan,
    ),
    *(
        Measure(
            f"top{top}_all",
            f"r, top {top} of each",
            f"Pearson correlation over the {top} strongest genes of every perturbation at once, chosen on one half of the "
            "held-out cells and scored on the other.",
            top_genes_of_halves(per_perturbation=False, top=top),
            level="all",
            noise="correlation of halves",
            top=top,
        )
        for top in TOPS
    ),
    Measure(
        "interaction_r",
        "interaction r",
        "Pearson correlation of predicted and observed departures of combinations from the sum of their members. An "
        "additive prediction scores 0. Members are measured by validation cells, which no method is fitted to; without "
        "enough of them there is no score.",
        interaction_r,
        level="all",
        reference="sum of members",
    ),
    Measure(
        "interaction_r2",
        "interaction R²",
        "Share of the variation of observed departures from additivity that is predicted.",
        interaction_r2,
        level="all",
        reference="sum of members",
    ),
    Measure(
        "top20_truth_r",
        "r, top 20 by the truth",
        "Pearson correlation on the 20 genes of largest observed effect of each perturbation; the judged effects choose "
        "the genes themselves.",
        top_genes_of_truth(metrics.effect_correlation),
        level="all",
    ),
    Measure(
        "top20_truth_r2",
        "R², top 20 by the truth",
        "R² on the same genes.",
        top_genes_of_truth(metrics.effect_r2),
        level="all",
    ),
    Measure(
        "iwelbo",
        "log likelihood",
        "Importance-weighted bound on the log likelihood of at most 2,000 held-out cells, 50 draws each, mean per cell. "
        "Comparable between models of one likelihood on the same counts only; does not rank effects.",
        likelihood,
        level="all",
        reads="model",
        best=np.inf,
        chance=np.nan,
        unit="nats per cell",
        reference="cells",
    ),
    Measure(
        "centroid_accuracy",
        "centroid accuracy",
        "Share of the other perturbations, seen ones included, whose observed effect is farther (Euclidean) from the "
        "prediction than its own.",
        centroid_accuracy,
        chance=np.nan,
    ),
    replace(
        RMSE,
        name="rmse_means",
        title="RMSE of means",
        description="Root mean squared error of mean expression over genes (PerturBench).",
        score=on_means(metrics.rmse, absolute=True),
        reads="cells",
    ),
    Measure(
        "cosine_logfc",
        "cosine of log fold changes",
        "Cosine of predicted and observed log fold changes (PerturBench): differences of the logarithm to base 2 of mean "
        "log1p expression plus .1, to the mean of at most 1,000 controls of the context, batches pooled. For counts alone."
        + APART,
        compared(fold_changes, on_effects(metrics.effect_cosine)),
        reads="cells",
        noise="correlation",
    ),
    Measure(
        "rmse_means_rank",
        "rank by RMSE of means",
        "For each observed mean, the share of other predicted means of its context that are farther than its own by RMSE, "
        "ties averaged (PerturBench's rank, turned so that 1 is best).",
        compared(profiles, retrieval(query="reference", metric="rmse")),
        reads="cells",
        chance=0.5,
    ),
    Measure(
        "cosine_logfc_rank",
        "rank by cosine of log fold changes",
        "The same by the cosine of log fold changes." + APART,
        compared(fold_changes, retrieval(query="reference", metric="cosine")),
        reads="cells",
        chance=0.5,
    ),
    replace(
        RMSE,
        name="rmse_rank",
        title="RMSE rank",
        description="For each observed effect, the share of other predictions that are farther than its own by RMSE, "
        "ties averaged: retrieval in the other direction.",
        score=retrieval(query="reference", metric="rmse"),
        higher_is_better=True,
        best=1.0,
        chance=0.5,
        unit="",
        noise="none",
    ),
    replace(
        RETRIEVAL,
        name="cosine_rank",
        title="cosine rank",
        description="For each observed effect, the share of other predictions that are farther than its own by cosine, "
        "ties averaged: retrieval in the other direction.",
        score=retrieval(query="reference", metric="cosine"),
    ),
)


def _on_means_of_cells() -> list[Measure]:
    """The scores of cell-eval on means of cells; those that need differential expression are in `differential`."""

    def pds(metric: str) -> Callable[[Truth, Prediction], np.ndarray]:
        return retrieval(query="prediction", metric=metric, normalize="vcc", ties="first", _exclude_target=True)

    def relative(truth: Truth, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
        """Means of held-out and of predicted cells, both relative to the mean of the held-out controls."""
        return truth.means - truth.control_means, prediction.populations[0] - truth.control_means

    return [
        *(
            replace(
                RMSE,
                name=f"{name}{suffix}",
                title=f"{title} of {short}",
                description=f"{title} of {what}, mean over genes.{APART if suffix == '_delta' else ''}",
                score=on_means(score, absolute=suffix == "_means"),
                reads="cells",
                noise=noise,  # type: ignore[arg-type]
            )
            for name, title, score, noise in (
                ("mae", "MAE", metrics.mae, "error"),
                ("mse", "MSE", metrics.mse, "squared error"),
            )
            for suffix, short, what in (
                ("_means", "means", "mean expression"),
                ("_delta", "effects", "mean expression minus observed controls"),
            )
        ),
        *(
            replace(
                RETRIEVAL,
                name=f"discrimination_{metric}",
                title=f"discrimination ({metric.upper() if metric != 'cosine' else metric})",
                description="cell-eval's perturbation discrimination score: rank of the own observed effect by distance "
                "to the prediction, target gene left out, ties in order of names; chance is just above .5.",
                score=compared(relative, pds(metric)),
                reads="cells",
            )
            for metric in ("l1", "l2", "cosine")
        ),
    ]


MEASURES: dict[str, Measure] = {
    measure.name: measure for measure in (*EFFECT_MEASURES, *_on_means_of_cells(), *DIFFERENTIAL)
}
