"""What noise allows: the score of a second experiment, and that of the true effects."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from perturbia.metrics import top_gene_correlation
from perturbia.stats import spearman_brown
from perturbia.tl._evaluation.matched_cells import match_cells
from perturbia.tl._evaluation.measure import Overall, score_rows
from perturbia.tl._evaluation.predictions import Prediction

if TYPE_CHECKING:
    from perturbia.tl._evaluation.measure import Measure
    from perturbia.tl._evaluation.truth import Halving, Truth

__all__ = ["CEILING", "REPEAT", "ceilings"]

REPEAT = "second experiment"
CEILING = "true effects"
# populations cost more than effects
N_HALVINGS_OF_CELLS = 3
MIN_TO_SHRINK = 4
LEAST_DEFINED = 0.5  # share of the halvings that have a score


def ceilings(measure: Measure, truth: Truth) -> tuple[np.ndarray | Overall, np.ndarray | Overall]:
    """Scores that noise allows.

    Parameters
    ----------
    measure
        The measure.
    truth
        The judged conditions.

    Returns
    -------
    What a second experiment with as many cells would score as a prediction, and what the true effects would score;
    NaN where halves of the cells do not tell. One value a condition, or one for all.

    Notes
    -----
    Halves of the held-out cells are scored against one another, and corrected for their size: correlations by
    Spearman-Brown to a reliability ρ, which a second experiment scores and whose root the true effects score; squared
    errors by 2 and by 4, and R² by those over the variation of all cells. On the strongest genes, which are chosen on one half and scored on the
    other, quarters within the scored half are correlated. Scores of perturbations are first drawn to their mean by as much
    as their variance between perturbations is noise; and where their mean does not exceed its error twice, nothing is said
    of the true effects, since the root of noise is not small. Other scores stay as halves have them, and nothing is said of
    the true effects; nor is it for errors of means of cells, to which the cells that an effect shifts add their own.
    """
    if measure.level == "perturbation":
        return _noise_allows(measure, truth)[:2]
    repeat, ceiling, used = _noise_allows(measure, truth)
    return Overall.of(float(repeat), used), Overall.of(float(ceiling), used)


def _noise_allows(measure: Measure, truth: Truth) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both scores, one value or one a condition, and the conditions that an overall score is made of."""
    nothing = np.full((len(truth),) if measure.level == "perturbation" else (), np.nan)
    everything = np.isfinite(truth.effects).all(axis=1)
    if measure.reads == "model":
        return nothing, nothing, everything
    if truth.exact:
        return nothing, nothing if measure.reads == "cells" else np.full_like(nothing, measure.best), everything
    n_halvings = len(truth.repeats) if measure.reads == "effects" else min(len(truth.repeats), N_HALVINGS_OF_CELLS)
    if n_halvings == 0:
        return nothing, nothing, everything
    if measure.noise == "determination":
        return _determination(truth, whole=measure.level == "all")
    scores, masks = zip(*(_score_of_halves(measure, truth, i) for i in range(n_halvings)), strict=True)
    value, known = _denoised(np.array(scores, dtype=float))
    repeat, ceiling = _corrected(value, measure)
    if measure.noise in {"correlation", "correlation of halves"} and not known:
        ceiling = np.full_like(ceiling, np.nan)
    return repeat, ceiling, np.mean(masks, axis=0) >= LEAST_DEFINED


def _score_of_halves(measure: Measure, truth: Truth, halving: int) -> tuple[np.ndarray | float, np.ndarray]:
    """One half as the truth, the other as a prediction, where both have the cells for it; and the conditions used."""
    if measure.noise == "correlation of halves":
        return _top_genes_of_quarters(truth.repeats[halving], top=measure.top, whole=measure.level == "all")
    cells, plain = measure.reads == "cells", measure.noise == "distance"
    centred = measure.reference == "perturbed centroid"
    key = (halving, cells, plain, centred)
    cache = truth.__dict__.setdefault("experiments", {})
    if key not in cache:
        cache[key] = _experiment(truth, truth.repeats[halving], cells=cells, plain=plain, centred=centred)
    judged, prediction, rows = cache[key]
    used, found = np.zeros(len(truth), dtype=bool), np.full(len(truth), np.nan)
    if len(rows) == 0:
        return np.nan if measure.level == "all" else found, used
    value = measure.score(judged, prediction)
    if measure.level == "all":
        used[rows] = value.used
        return value.value, used
    found[rows] = value
    return found, np.isfinite(found)


def _top_genes_of_quarters(halving: Halving, *, top: int, whole: bool) -> tuple[np.ndarray | float, np.ndarray]:
    """Genes of one half, on which the two quarters of the other are correlated, both ways."""
    first, second = halving.effects
    sides = ((second, halving.quarters[0], halving.quarters[1]), (first, halving.quarters[2], halving.quarters[3]))
    arrays = (*halving.effects, *halving.quarters)
    used = np.all([np.isfinite(values).all(axis=1) for values in arrays], axis=0)
    found = np.full(len(first), np.nan)
    if not used.any():
        return np.nan if whole else found, used
    scores = [
        score_rows(
            top_gene_correlation,
            one[used],
            other[used],
            selection=choice[used],
            k=min(top, first.shape[1]),
            per_perturbation=not whole,
        )
        for choice, one, other in sides
    ]
    if whole:
        return float(np.mean([one.value for one in scores])), used
    found[used] = np.mean(scores, axis=0)
    return found, used


def _experiment(
    truth: Truth, halving: Halving, *, cells: bool, plain: bool, centred: bool
) -> tuple[Truth, Prediction, np.ndarray]:
    """Truth of one half, prediction of the other, and the conditions for which both have enough cells.

    Each half has controls of its own; where a centroid is taken off, `centred`, it is measured against these.
    """
    first, second = halving.effects
    own, other_own = halving.centroids
    if centred:
        second = second - other_own + truth.centroid
    (rows,) = np.nonzero(np.isfinite(second).all(axis=1) & np.isfinite(first).all(axis=1))
    names, seen, against = truth.training
    positions = halving.populations if plain else halving.rows
    judged = replace(
        truth,
        conditions=truth.conditions.iloc[rows].reset_index(drop=True),
        effects=first[rows],
        standard_errors=truth.standard_errors[rows] * np.sqrt(2),  # of half the cells
        halves=(halving.quarters[0][rows], halving.quarters[1][rows]),
        training=(names, seen, against - against.mean(axis=0) + own),
        test=np.sort(positions[0]),
        repeats=(),
    )
    judged.conditions["n_cells"] //= 2
    prediction = Prediction(REPEAT, "reference", second[rows], judged)
    if cells and len(rows):
        judged.__dict__["basis"] = truth.basis
        other = replace(judged, test=np.sort(positions[1]))
        prediction.means = other.means, second[rows]
        prediction.draw = lambda condition, n: truth.screen.cells(other.populations[condition][:n])
        prediction.n_cells = np.array([len(part) for part in other.populations])
        match_cells(judged, [prediction])
    return judged, prediction, rows


def _denoised(found: np.ndarray) -> tuple[np.ndarray, bool]:
    """Mean over halvings, drawn to the mean over conditions; and whether that is clearly more than nothing.

    Halvings share the noise of all cells, which a halving sees as much of as of the difference of the halves: noise has
    the variance over halvings, and what is left of it in their mean.
    """
    n_halvings = len(found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        value = np.where(np.isfinite(found).mean(axis=0) >= LEAST_DEFINED, np.nanmean(found, axis=0), np.nan)
    if n_halvings < 2:
        return value, True
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        noise = np.nan_to_num(np.nanvar(found, axis=0, ddof=1)) * (1 + 1 / n_halvings)
    if value.ndim == 0:
        return value, bool(value > 2 * np.sqrt(noise))
    defined = np.isfinite(value)
    n = int(defined.sum())
    if n < MIN_TO_SHRINK:
        return value, bool(n and np.mean(value[defined]) > 2 * np.sqrt(np.mean(noise[defined]) / n))
    middle, spread = value[defined].mean(), value[defined].var(ddof=1)
    factor = max(0.0, 1 - noise[defined].mean() / spread) if spread > 0 else 0.0
    return middle + factor * (value - middle), bool(middle > 2 * np.sqrt(spread / n))


def _determination(truth: Truth, *, whole: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """R² of a second experiment and of the true effects: noise from the differences of halves, over what all cells show."""
    found = []
    for halving in truth.repeats:
        error = ((halving.effects[0] - halving.effects[1]) ** 2).sum(axis=1)
        found.append(error)
    error = np.mean(found, axis=0)
    rows = np.isfinite(error) & np.isfinite(truth.effects).all(axis=1)
    if whole:
        kept = truth.effects[rows]
        share = error[rows].sum() / ((kept - kept.mean()) ** 2).sum() if rows.any() else np.nan
        return np.asarray(1 - share / 2), np.asarray(1 - share / 4), rows
    total = ((truth.effects - truth.effects.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    share = np.divide(error, total, out=np.full(len(error), np.nan), where=rows & (total > 0))
    return 1 - share / 2, 1 - share / 4, rows


def _corrected(value: np.ndarray, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """From the score of two halves to those of a second experiment of full size and of the true effects."""
    if measure.noise == "correlation":
        reliability = _reliability(value)
        return reliability, _root(reliability)
    if measure.noise == "correlation of halves":  # the truth of such scores is one half, and quarters were compared
        half = _reliability(value)
        return _root(half * np.abs(_reliability(half))), _root(half)
    unknown = np.full_like(value, np.nan)
    if measure.noise == "error":
        return value / np.sqrt(2), unknown if measure.reads == "cells" else value / 2
    if measure.noise == "squared error":
        return value / 2, unknown if measure.reads == "cells" else value / 4
    if measure.noise == "distance":
        return value, np.zeros_like(value)
    return value, unknown


def _reliability(value: np.ndarray) -> np.ndarray:
    """Correlation of measurements of twice the size."""
    return np.asarray(spearman_brown(np.clip(value, -1, 1)))


def _root(value: np.ndarray) -> np.ndarray:
    """Square root that keeps the sign."""
    return np.sign(value) * np.sqrt(np.abs(value))
