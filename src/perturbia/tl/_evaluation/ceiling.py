"""What noise allows: the score of a second experiment, and that of the true effects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from perturbia.stats import spearman_brown
from perturbia.tl._evaluation.predictions import Prediction

if TYPE_CHECKING:
    from perturbia.tl._evaluation.measure import Measure
    from perturbia.tl._evaluation.truth import Halving, Truth

__all__ = ["CEILING", "REPEAT", "ceilings"]

REPEAT = "second experiment"
CEILING = "true effects"
# populations cost more than effects
N_HALVINGS_OF_CELLS = 3


def ceilings(measure: Measure, truth: Truth) -> tuple[np.ndarray | float, np.ndarray | float]:
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
    NaN where halves of the cells do not tell. One value a condition, or one.

    Notes
    -----
    Halves of the held-out cells are scored against one another, and corrected for their size: correlations by
    Spearman-Brown to a reliability ρ, which a second experiment scores and whose root the true effects score; R² to 2ρ - 1
    and ρ; errors by the square roots of 2 and of 4. Other scores stay as halves have them: a lower bound.
    """
    shape = (len(truth),) if measure.level == "perturbation" else ()
    nothing = np.full(shape, np.nan)
    if measure.reads == "model":
        return nothing, nothing
    if truth.exact:
        if measure.reads == "cells":
            return nothing, nothing
        return nothing, np.full(shape, measure.best)
    n_halvings = len(truth.repeats) if measure.reads == "effects" else min(len(truth.repeats), N_HALVINGS_OF_CELLS)
    if n_halvings == 0:
        return nothing, nothing
    found = np.array([_score_of_halves(measure, truth, i) for i in range(n_halvings)], dtype=float)
    value = found.mean(axis=0)  # NaN where one halving has none: too few cells to tell
    repeat, ceiling = _corrected(value, measure)
    if measure.level == "all":
        return float(repeat), float(ceiling)
    return repeat, ceiling


def _score_of_halves(measure: Measure, truth: Truth, halving: int) -> np.ndarray | float:
    """One half as the truth, the other as a prediction, where both have the cells for it."""
    whole = measure.level == "all"
    cells, quarters = measure.reads == "cells", measure.noise == "correlation of halves"
    cache = truth.__dict__.setdefault("experiments", {})
    if (halving, cells, quarters) not in cache:
        cache[halving, cells, quarters] = _experiment(truth, truth.repeats[halving], cells=cells, quarters=quarters)
    judged, prediction, rows = cache[halving, cells, quarters]
    if len(rows) == 0:
        return np.nan if whole else np.full(len(truth), np.nan)
    value = measure.score(judged, prediction)
    if whole:
        return value
    found = np.full(len(truth), np.nan)
    found[rows] = value
    return found


def _experiment(truth: Truth, halving: Halving, *, cells: bool, quarters: bool) -> tuple[Truth, Prediction, np.ndarray]:
    """Truth of one half, prediction of the other, and the conditions for which both have enough cells."""
    second = halving.quarters[2] if quarters else halving.effects[1]
    (rows,) = np.nonzero(np.isfinite(second).all(axis=1) & np.isfinite(halving.effects[0]).all(axis=1))
    judged = replace(
        truth,
        conditions=truth.conditions.iloc[rows].reset_index(drop=True),
        effects=halving.effects[0][rows],
        standard_errors=truth.standard_errors[rows] * np.sqrt(2),  # of half the cells
        halves=(halving.quarters[0][rows], halving.quarters[1][rows]),
        test=np.sort(halving.rows[0]),
        repeats=(),
    )
    prediction = Prediction(REPEAT, "reference", second[rows], judged)
    if cells:
        judged.__dict__["basis"] = truth.basis
        other = replace(judged, test=np.sort(halving.rows[1]))
        prediction.means = other.means, halving.effects[1][rows]
        prediction.draw = lambda condition, n: truth.screen.cells(other.populations[condition][:n])
    return judged, prediction, rows


def _corrected(value: np.ndarray, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """From the score of two halves to those of a second experiment of full size and of the true effects."""
    if measure.noise == "correlation":
        reliability = _reliability(value)
        return reliability, _root(reliability)
    if measure.noise == "correlation of halves":  # the truth of such scores is one half, and quarters were compared
        half = _reliability(value)
        return _root(half * np.abs(_reliability(half))), _root(half)
    if measure.noise == "determination":
        reliability = _reliability(np.clip((value + 1) / 2, -1, 1))
        return 2 * reliability - 1, reliability
    if measure.noise == "error":
        return value / np.sqrt(2), value / 2
    if measure.noise == "squared error":
        return value / 2, value / 4
    if measure.noise == "distance":
        return value, np.zeros_like(value)
    return value, np.full_like(value, np.nan)


def _reliability(value: np.ndarray) -> np.ndarray:
    """Correlation of measurements of twice the size; negative values stay, or noise would average to something."""
    return np.asarray(spearman_brown(np.clip(value, -1, 1)))


def _root(value: np.ndarray) -> np.ndarray:
    """Square root that keeps the sign."""
    return np.sign(value) * np.sqrt(np.abs(value))
