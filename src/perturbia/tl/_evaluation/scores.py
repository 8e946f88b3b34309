"""How truth and prediction become a score: the functions that measures are made of."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia import metrics
from perturbia.tl._evaluation.measure import Overall, score_rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

    Score = Callable[..., Any]

__all__ = [
    "TOP",
    "against_centroid",
    "centroid_accuracy",
    "compared",
    "direction",
    "distances",
    "fold_changes",
    "jaccard_of_top_genes",
    "likelihood",
    "on_effects",
    "on_means",
    "profiles",
    "retrieval",
    "top_genes_of_halves",
    "top_genes_of_truth",
]

TOP = 20
MAX_AVERAGED = 1000  # controls of a context whose mean PerturBench takes
MAX_SCORED = 2000  # cells whose likelihood is asked for


def on_effects(score: Score, *, per_perturbation: bool = True, **options: Any) -> Callable[[Truth, Prediction], Any]:
    """A metric on effects as they are stated."""

    def measure(truth: Truth, prediction: Prediction) -> Any:
        return score_rows(score, truth.effects, prediction.effects, per_perturbation=per_perturbation, **options)

    return measure


def on_means(score: Score, *, absolute: bool, **options: Any) -> Callable[[Truth, Prediction], Any]:
    """A metric on means of predicted cells, as they are or relative to observed controls."""

    def measure(truth: Truth, prediction: Prediction) -> Any:
        means, effects = prediction.populations
        true, predicted = (truth.means, means) if absolute else (truth.effects, effects)
        return score_rows(score, true, predicted, per_perturbation=True, **options)

    return measure


def against_centroid(*, top: bool) -> Callable[[Truth, Prediction], np.ndarray]:
    """Correlation of what is specific to perturbations: the mean of those that were seen is taken off both sides."""

    def measure(truth: Truth, prediction: Prediction) -> np.ndarray:
        # in the precision that effects were stated in: what is left of equal ones is dust, and the metric knows how much
        centroid = truth.centroid.astype(np.float32)
        true = (truth.specific + truth.centroid).astype(np.float32)
        options = {"selection": true, "k": min(TOP, true.shape[1])} if top else {}
        return score_rows(
            metrics.reference_correlation,
            true,
            prediction.effects.astype(np.float32),
            reference=centroid,
            per_perturbation=True,
            **options,
        )

    return measure


def top_genes_of_halves(*, per_perturbation: bool, top: int = TOP) -> Callable[[Truth, Prediction], Any]:
    """Genes are chosen on one half of the held-out cells and scored on the other, both ways."""

    def measure(truth: Truth, prediction: Prediction) -> Any:
        one, two = truth.halves
        both = np.isfinite(one).all(axis=1) & np.isfinite(two).all(axis=1)
        k = min(top, one.shape[1])
        found = np.full(len(one), np.nan)
        if not both.any():
            return found if per_perturbation else Overall.undefined(len(one))
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
        if not per_perturbation:
            return Overall.of(np.mean([one.value for one in scores]), both)
        found[both] = np.mean(scores, axis=0)
        return found

    return measure


def top_genes_of_truth(score: Score) -> Callable[[Truth, Prediction], Overall]:
    """On the genes of largest measured effect: the truth chooses the genes it scores, as in published evaluations."""

    def measure(truth: Truth, prediction: Prediction) -> Overall:
        k = min(TOP, truth.effects.shape[1])
        genes = metrics.top_genes(truth.effects, k=k)
        true, predicted = (np.take_along_axis(v, genes, axis=1) for v in (truth.effects, prediction.effects))
        return score_rows(score, true, predicted)

    return measure


def jaccard_of_top_genes(*, top: int = TOP) -> Callable[[Truth, Prediction], np.ndarray]:
    """Signed overlap of at most so many strongest genes."""

    def measure(truth: Truth, prediction: Prediction) -> np.ndarray:
        k = min(top, truth.effects.shape[1])
        return score_rows(
            metrics.top_gene_jaccard, truth.effects, prediction.effects, k=k, signed=True, per_perturbation=True
        )

    return measure


def profiles(truth: Truth, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """Means of held-out and of predicted cells."""
    return truth.means, prediction.populations[0]


def fold_changes(truth: Truth, prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    """PerturBench's log fold changes of these means, each side against controls of its own; NaN without a logarithm of counts.

    Controls are at most 1,000 of the context: held-out ones for the truth, those that models may have seen for predictions.
    """
    sides = profiles(truth, prediction)
    if truth.screen.scale != "log1p_cp10k":
        return np.full_like(sides[0], np.nan), np.full_like(sides[1], np.nan)
    true, predicted = (
        metrics.log_fold_change(means, _mean_controls(truth, held_out=held_out))
        for means, held_out in zip(sides, (True, False), strict=True)
    )
    return true, predicted


def _mean_controls(truth: Truth, *, held_out: bool) -> np.ndarray:
    """Mean of the controls of the context of each condition, batches pooled."""
    cache = truth.__dict__.setdefault("mean_controls", {})
    if held_out not in cache:
        means = {
            context: truth.screen.cells(
                truth.control_rows(held_out=held_out, context=context, limit=MAX_AVERAGED)
            ).mean(axis=0, dtype=np.float64)
            for context in set(truth.contexts)
        }
        cache[held_out] = np.stack([means[context] for context in truth.contexts])
    return cache[held_out]


def compared(
    values: Callable[[Truth, Prediction], tuple[np.ndarray, np.ndarray]], score: Callable[[Truth, Prediction], Any]
) -> Callable[[Truth, Prediction], Any]:
    """A score of effects on other values of both sides."""

    def measure(truth: Truth, prediction: Prediction) -> Any:
        true, predicted = values(truth, prediction)
        return score(replace(truth, effects=true), replace(prediction, effects=predicted))

    return measure


def direction(truth: Truth, prediction: Prediction) -> np.ndarray:
    """Share of the significant genes that are predicted with the right sign; NaN where nothing is significant."""
    found = np.full(len(truth), np.nan)
    rows = truth.significant.any(axis=1)
    if rows.any():
        found[rows] = metrics.direction_match(
            truth.effects[rows], prediction.effects[rows], significant=truth.significant[rows], per_perturbation=True
        )
    return found


def retrieval(**options: Any) -> Callable[[Truth, Prediction], np.ndarray]:
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


def centroid_accuracy(truth: Truth, prediction: Prediction) -> np.ndarray:
    """Candidates are the other judged perturbations and all that trained, against the same controls."""
    found = np.full(len(truth), np.nan)
    names, _, seen = truth.training
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


def distances(truth: Truth, prediction: Prediction) -> np.ndarray:
    """Energy distances from predicted to held-out cells."""
    del truth
    return prediction.distances


def likelihood(truth: Truth, prediction: Prediction) -> Overall:
    """Mean IWELBO of at most 2,000 held-out cells, none for methods without a likelihood."""
    model = prediction.model
    if not hasattr(model, "get_iwelbo"):
        return Overall.undefined(len(truth))
    screen = truth.screen
    rows = np.sort(np.random.default_rng(truth.seed).permutation(np.flatnonzero(screen.part == "test"))[:MAX_SCORED])
    cells = screen.positions_in(model.adata, rows)
    where = {"indices": cells} if cells is not None else {"adata": screen.copy_of(rows)}
    value = model.get_iwelbo(**where, n_particles=50, return_mean=True, seed=truth.seed)
    return Overall.of(
        value, np.array([np.isin(truth.cells_of(i), rows).any() for i in range(len(truth))]), n_cells=len(rows)
    )
