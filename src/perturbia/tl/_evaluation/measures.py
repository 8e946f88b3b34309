"""The measures by which predictions are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia import metrics
from perturbia.tl._evaluation.differential import DIFFERENTIAL
from perturbia.tl._evaluation.interactions import interaction_r, interaction_r2
from perturbia.tl._evaluation.measure import Measure, score_rows

if TYPE_CHECKING:
    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["MEASURES"]

TOP = 20
Score = Callable[..., Any]


def _on_effects(score: Score, *, per_perturbation: bool = True, **options: Any) -> Callable[[Truth, Prediction], Any]:
    def measure(truth: Truth, prediction: Prediction) -> Any:
        return score_rows(score, truth.effects, prediction.effects, per_perturbation=per_perturbation, **options)

    return measure


def _on_means(score: Score, *, absolute: bool, **options: Any) -> Callable[[Truth, Prediction], Any]:
    def measure(truth: Truth, prediction: Prediction) -> Any:
        means, effects = prediction.populations
        true, predicted = (truth.means, means) if absolute else (truth.effects, effects)
        return score_rows(score, true, predicted, per_perturbation=True, **options)

    return measure


def _against_centroid(*, top: bool) -> Callable[[Truth, Prediction], np.ndarray]:
    def measure(truth: Truth, prediction: Prediction) -> np.ndarray:
        # in the precision that effects were stated in: what is left of equal ones is dust, and the metric knows how much
        true, predicted, centroid = (
            values.astype(np.float32) for values in (truth.effects, prediction.effects, truth.centroid)
        )
        options = {"selection": true, "k": min(TOP, true.shape[1])} if top else {}
        return score_rows(
            metrics.reference_correlation, true, predicted, reference=centroid, per_perturbation=True, **options
        )

    return measure


def _top(*, per_perturbation: bool) -> Callable[[Truth, Prediction], Any]:
    """Genes are chosen on one half of the held-out cells and scored on the other, both ways."""

    def measure(truth: Truth, prediction: Prediction) -> Any:
        one, two = truth.halves
        both = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
        k = min(TOP, one.shape[1])
        if not both.any():
            return np.full(len(one), np.nan) if per_perturbation else np.nan
        scores = [
            score_rows(
                metrics.top_gene_correlation,
                true[both],
                prediction.effects[both],
                selection=chosen[both],
                k=k,
                per_perturbation=per_perturbation,
            )
            for true, chosen in ((one, two), (two, one))
        ]
        mean = np.mean(scores, axis=0)
        if not per_perturbation:
            return float(mean)
        found = np.full(len(one), np.nan)
        found[both] = mean
        return found

    return measure


def _top_of_truth(score: Score) -> Callable[[Truth, Prediction], float]:
    """On the genes of largest measured effect: the truth chooses the genes it scores, as in published evaluations."""

    def measure(truth: Truth, prediction: Prediction) -> float:
        k = min(TOP, truth.effects.shape[1])
        genes = metrics.top_genes(truth.effects, k=k)
        true, predicted = (np.take_along_axis(v, genes, axis=1) for v in (truth.effects, prediction.effects))
        return score_rows(score, true, predicted)

    return measure


def _direction(truth: Truth, prediction: Prediction) -> np.ndarray:
    found = np.full(len(truth), np.nan)
    rows = truth.significant.any(axis=1)
    if rows.any():
        found[rows] = metrics.direction_match(
            truth.effects[rows], prediction.effects[rows], significant=truth.significant[rows], per_perturbation=True
        )
    return found


def _retrieval(**options: Any) -> Callable[[Truth, Prediction], np.ndarray]:
    """Within each context: candidates are the judged perturbations of that context."""

    def measure(truth: Truth, prediction: Prediction) -> np.ndarray:
        found = np.full(len(truth), np.nan)
        contexts = np.array(truth.contexts)
        for context in np.unique(contexts):
            rows = np.flatnonzero((contexts == context) & np.isfinite(truth.effects).all(axis=1))
            if len(rows) < 2:
                continue  # nothing to be confused with
            extra = {"exclude": target_genes(truth)[rows]} if options.get("_exclude_target") else {}
            plain = {key: value for key, value in options.items() if not key.startswith("_")}
            found[rows] = metrics.retrieval(
                truth.effects[rows], prediction.effects[rows], per_perturbation=True, **plain, **extra
            )
        return found

    return measure


def target_genes(truth: Truth) -> np.ndarray:
    """Column of the gene that a single perturbation targets, -1 if it is not among the features or there are several."""
    return truth.screen.adata.var_names.get_indexer(truth.perturbations)


def _centroid_accuracy(truth: Truth, prediction: Prediction) -> np.ndarray:
    """Candidates are the other judged perturbations and all that trained, as Systema has it."""
    found = np.full(len(truth), np.nan)
    names, seen = truth.training
    contexts = np.array(truth.contexts)
    for context in np.unique(contexts):
        rows = np.flatnonzero(contexts == context)
        others = seen[~np.isin(names, np.array(truth.perturbations)[rows])]
        if len(rows) + len(others) < 2:
            continue
        found[rows] = metrics.centroid_accuracy(
            truth.effects[rows],
            prediction.effects[rows],
            candidates=others if len(others) else None,
            per_perturbation=True,
        )
    return found


def _distances(truth: Truth, prediction: Prediction) -> np.ndarray:
    del truth
    return prediction.distances


def _likelihood(truth: Truth, prediction: Prediction) -> float:
    model = prediction.model
    if not hasattr(model, "get_iwelbo") or getattr(model, "adata", None) is None:
        return np.nan
    rows = np.sort(np.random.default_rng(truth.seed).permutation(np.flatnonzero(truth.screen.part == "test"))[:2000])
    cells = model.adata.obs_names.get_indexer(truth.screen.adata.obs_names[rows])
    if (cells < 0).any():
        return np.nan
    return float(model.get_iwelbo(indices=cells, n_particles=50, return_mean=True, seed=truth.seed))


def _measures() -> list[Measure]:
    r = Measure(
        "correlation",
        "r, per perturbation",
        "Pearson correlation of predicted and observed effects over genes, for each perturbation. Blind to the size of "
        "effects, and generous to a shift that all perturbations share.",
        _on_effects(metrics.effect_correlation),
        noise="correlation",
    )
    error = Measure(
        "rmse",
        "RMSE",
        "Root mean squared error of effects over genes.",
        _on_effects(metrics.rmse),
        noise="error",
        higher_is_better=False,
        best=0.0,
        chance=np.nan,
        unit="scale of effects",
    )
    retrieval = Measure(
        "retrieval_cosine",
        "retrieval (cosine)",
        "How many of the other observed effects are farther from the prediction than its own, by cosine: 1 is the "
        "nearest, .5 is chance, ties share their rank.",
        _retrieval(query="prediction", metric="cosine"),
        chance=0.5,
    )
    return [
        r,
        Measure(
            "r2",
            "R², per perturbation",
            "Share of the variation of observed effects over genes that is predicted, for each perturbation. Effects of "
            "the wrong size cost.",
            _on_effects(metrics.effect_r2),
            noise="determination",
        ),
        Measure(
            "cosine",
            "cosine",
            "Cosine of predicted and observed effects, for each perturbation.",
            _on_effects(metrics.effect_cosine),
            noise="correlation",
        ),
        Measure(
            "correlation_systema",
            "r to centroid",
            "Pearson correlation after the mean effect of all seen perturbations was taken off both sides (Systema): what "
            "is specific to a perturbation. The mean baseline scores 0.",
            _against_centroid(top=False),
            noise="correlation",
            reference="perturbed centroid",
        ),
        Measure(
            "correlation_systema_top20",
            "r to centroid, top 20",
            "The same on the 20 genes of largest observed effect, which the judged cells choose themselves.",
            _against_centroid(top=True),
            reference="perturbed centroid",
        ),
        Measure(
            "top20",
            "r, top 20",
            "Pearson correlation on the 20 genes of strongest effect, chosen on one half of the held-out cells and scored "
            "on the other, for each perturbation.",
            _top(per_perturbation=True),
            noise="correlation of halves",
        ),
        Measure(
            "jaccard20",
            "Jaccard, top 20",
            "Overlap of the 20 strongest predicted and observed genes, with their signs: shared over all.",
            _on_effects(metrics.top_gene_jaccard, k=TOP, signed=True),
        ),
        Measure(
            "direction",
            "direction",
            "Share of the significant genes (5 % FDR in held-out cells) that are predicted to go the right way.",
            _direction,
            chance=0.5,
        ),
        error,
        replace(
            error,
            name="mae",
            title="MAE",
            description="Mean absolute error of effects over genes.",
            score=_on_effects(metrics.mae),
        ),
        retrieval,
        replace(
            retrieval,
            name="retrieval_l1",
            title="retrieval (L1)",
            description="The same by the sum of absolute differences, which rewards predictions of the right size; "
            "stretching a prediction can raise it.",
            score=_retrieval(query="prediction", metric="l1"),
        ),
        Measure(
            "edistance",
            "e-distance",
            "Energy distance (Euclidean, U-statistic) from predicted to held-out cells in 50 principal components of "
            "training cells. 0 is equality up to noise, which may make it negative.",
            _distances,
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
            "model that states effects against its own predicted controls scores when it may not.",
            _on_means(metrics.effect_correlation, absolute=False),
            reads="cells",
            noise="correlation",
        ),
        Measure(
            "correlation_all",
            "r",
            "Pearson correlation over all perturbations and genes at once: mixes which perturbations are strong with what "
            "they do.",
            _on_effects(metrics.effect_correlation, per_perturbation=False),
            level="all",
            noise="correlation",
            flattened="correlation",
        ),
        Measure(
            "r2_all",
            "R²",
            "Share of the variation of observed effects over all perturbations and genes that is predicted.",
            _on_effects(metrics.effect_r2, per_perturbation=False),
            level="all",
            noise="determination",
            flattened="determination",
        ),
        Measure(
            "top20_all",
            "r, top 20 of each",
            "Pearson correlation over the 20 strongest genes of every perturbation at once, chosen on one half of the "
            "held-out cells and scored on the other.",
            _top(per_perturbation=False),
            level="all",
            noise="correlation of halves",
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
            _top_of_truth(metrics.effect_correlation),
            level="all",
        ),
        Measure(
            "top20_truth_r2",
            "R², top 20 by the truth",
            "R² on the same genes.",
            _top_of_truth(metrics.effect_r2),
            level="all",
        ),
        Measure(
            "iwelbo",
            "log likelihood",
            "Importance-weighted bound on the log likelihood of at most 2,000 held-out cells, 50 draws each, mean per cell. "
            "Comparable between models of one likelihood on the same counts only; does not rank effects.",
            _likelihood,
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
            _centroid_accuracy,
            chance=0.5,
        ),
        replace(
            error,
            name="rmse_rank",
            title="RMSE rank",
            description="For each observed effect, the share of other predictions that are farther than its own by RMSE, "
            "ties averaged (PerturBench's rank, turned so that 1 is best).",
            score=_retrieval(query="reference", metric="rmse"),
            higher_is_better=True,
            best=1.0,
            chance=0.5,
            unit="",
            noise="none",
        ),
        replace(
            retrieval,
            name="cosine_rank",
            title="cosine rank",
            description="For each observed effect, the share of other predictions that are farther than its own by cosine, "
            "ties averaged (PerturBench's rank, turned so that 1 is best).",
            score=_retrieval(query="reference", metric="cosine"),
        ),
        *_cell_eval(error, retrieval),
    ]


def _cell_eval(error: Measure, retrieval: Measure) -> list[Measure]:
    """The scores of cell-eval on means of cells; what needs differential expression is in `differential`."""

    def pds(metric: str) -> Callable[[Truth, Prediction], np.ndarray]:
        return _retrieval(query="prediction", metric=metric, normalize="vcc", ties="first", _exclude_target=True)

    def on_cells(score: Callable[[Truth, Prediction], np.ndarray]) -> Callable[[Truth, Prediction], np.ndarray]:
        def measure(truth: Truth, prediction: Prediction) -> np.ndarray:
            return score(truth, replace(prediction, effects=prediction.populations[1]))

        return measure

    return [
        *(
            replace(
                error,
                name=f"{name}{suffix}",
                title=f"{title}{' of effects' if suffix else ''}",
                description=f"{title} of {what}, mean over genes.",
                score=_on_means(score, absolute=not suffix),
                reads="cells",
                noise=noise,  # type: ignore[arg-type]
            )
            for name, title, score, noise in (
                ("mae", "MAE", metrics.mae, "error"),
                ("mse", "MSE", metrics.mse, "squared error"),
            )
            for suffix, what in (("_means", "mean expression"), ("_delta", "mean expression minus controls"))
        ),
        *(
            replace(
                retrieval,
                name=f"discrimination_{metric}",
                title=f"discrimination ({metric.upper() if metric != 'cosine' else metric})",
                description="cell-eval's perturbation discrimination score: rank of the own observed effect by distance "
                "to the prediction, target gene left out, ties in order of names; chance is just above .5.",
                score=on_cells(pds(metric)),
                reads="cells",
            )
            for metric in ("l1", "l2", "cosine")
        ),
        *DIFFERENTIAL,
    ]


MEASURES: dict[str, Measure] = {measure.name: measure for measure in _measures()}
