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
    halvings = truth.repeats if measure.reads == "effects" else truth.repeats[:N_HALVINGS_OF_CELLS]
    if not halvings:
        return nothing, nothing
    found = np.array([_score_of_halves(measure, truth, halving) for halving in halvings], dtype=float)
    value = found.mean(axis=0)  # NaN where one halving has none: too few cells to tell
    repeat, ceiling = _corrected(value, measure)
    if measure.level == "all":
        return float(repeat), float(ceiling)
    return repeat, ceiling


def _score_of_halves(measure: Measure, truth: Truth, halving: Halving) -> np.ndarray | float:
    """One half as the truth, the other as a prediction."""
    judged = replace(
        truth, effects=halving.effects[0], halves=halving.quarters[:2], test=np.sort(halving.rows[0]), repeats=()
    )
    judged.__dict__["basis"] = truth.basis if measure.reads == "cells" else None
    judged.__dict__["significant"] = truth.significant
    second = halving.quarters[2] if measure.noise == "correlation of halves" else halving.effects[1]
    prediction = Prediction(REPEAT, "reference", second, judged)
    if measure.reads == "cells":
        other = replace(truth, test=np.sort(halving.rows[1]), repeats=())
        means = other.means
        prediction.means = means, halving.effects[1]
        prediction.draw = lambda condition, n: truth.screen.cells(other.populations[condition][:n])
    defined = np.isfinite(second).all(axis=1)
    if not defined.all():
        return _score_of_rows(measure, judged, prediction, defined)
    return measure.score(judged, prediction)


def _score_of_rows(measure: Measure, judged: Truth, prediction: Prediction, defined: np.ndarray) -> np.ndarray | float:
    """The score of those conditions that both halves have."""
    nothing = np.full(len(defined), np.nan) if measure.level == "perturbation" else np.nan
    if not defined.any():
        return nothing
    rows = np.flatnonzero(defined)
    part = replace(
        judged,
        conditions=judged.conditions.iloc[rows].reset_index(drop=True),
        effects=judged.effects[rows],
        standard_errors=judged.standard_errors[rows],
        halves=(judged.halves[0][rows], judged.halves[1][rows]),
    )
    part.__dict__["basis"] = judged.__dict__["basis"]
    part.__dict__["significant"] = judged.significant[rows]
    kept = Prediction(prediction.name, prediction.role, prediction.effects[rows], part)
    if prediction.means is not None:
        kept.means = prediction.means[0][rows], prediction.means[1][rows]
    if prediction.draw is not None:
        draw = prediction.draw
        kept.draw = lambda condition, n: draw(int(rows[condition]), n)
    value = measure.score(part, kept)
    if measure.level == "all":
        return value
    found = np.full(len(defined), np.nan)
    found[rows] = value
    return found


def _corrected(value: np.ndarray, measure: Measure) -> tuple[np.ndarray, np.ndarray]:
    """From the score of two halves to those of a second experiment of full size and of the true effects."""
    if measure.noise in {"correlation", "correlation of halves"}:
        reliability = np.asarray(spearman_brown(np.clip(value, 0, 1)))
        return reliability, np.sqrt(reliability)
    if measure.noise == "determination":
        reliability = np.asarray(spearman_brown(np.clip((value + 1) / 2, 0, 1)))
        return 2 * reliability - 1, reliability
    if measure.noise == "error":
        return value / np.sqrt(2), value / 2
    if measure.noise == "squared error":
        return value / 2, value / 4
    if measure.noise == "distance":
        return value, np.zeros_like(value)
    return value, np.full_like(value, np.nan)
