"""What a measure is: what it reads, which way is better, what chance and noise score."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["Measure", "Overall", "score_rows"]

Level = Literal["perturbation", "all"]
Reads = Literal["effects", "cells", "model"]
#: How noise of the held-out cells enters a score, and so how halves of them tell what perfect effects would score.
Noise = Literal["correlation", "correlation of halves", "determination", "error", "squared error", "distance", "none"]


@dataclass(frozen=True)
class Measure:
    """One score.

    Attributes
    ----------
    name, title
        Name in tables, and a short title for figures.
    description
        What it says, and what it does not see.
    score
        From truth and prediction to one value a condition, or to an :class:`Overall`.
    level
        One value for each condition, or one for all together.
    reads
        Whether it needs effects, predicted cells, or the model itself.
    noise
        How noise of the held-out cells enters.
    higher_is_better, best, chance
        Direction, the value of a perfect prediction of exact effects, and that of a prediction without information
        (NaN where it depends on the data).
    unit
        Unit, empty for pure numbers.
    reference
        What effects are relative to.
    tests
        Whether it calls differential expression, on as many predicted as held-out cells.
    top
        How many strongest genes it looks at, 0 for all.
    flattened
        Kind of a score whose interval comes from :mod:`perturbia.tl._evaluation.flattened`.
    """

    name: str
    title: str
    description: str
    score: Callable[[Truth, Prediction], Any]
    level: Level = "perturbation"
    reads: Reads = "effects"
    noise: Noise = "none"
    higher_is_better: bool = True
    best: float = 1.0
    chance: float = 0.0
    unit: str = ""
    reference: str = "control"
    tests: bool = False
    top: int = 0
    flattened: str = ""


@dataclass(frozen=True)
class Overall:
    """One score of all conditions together, and what it is made of.

    Attributes
    ----------
    value
        The score, NaN if there is none.
    used
        Which conditions it is made of, bool `(n_conditions,)`; none if there is no score.
    n_cells
        Held-out cells that it reads, None for all cells of these conditions.
    """

    value: float
    used: np.ndarray
    n_cells: int | None = None

    @classmethod
    def of(cls, value: float, used: np.ndarray, *, n_cells: int | None = None) -> Overall:
        """A score of these conditions, which are none where the score is not defined."""
        return cls(float(value), used & np.isfinite(value), n_cells)

    @classmethod
    def undefined(cls, n_conditions: int) -> Overall:
        """No score, of no conditions."""
        return cls(np.nan, np.zeros(n_conditions, dtype=bool))


def score_rows(score: Callable[..., Any], true: np.ndarray, predicted: np.ndarray, **options: Any) -> Any:
    """A metric on rows that the truth has; what it can not define is NaN, which the result counts.

    One value a row with `per_perturbation`, otherwise an :class:`Overall`.
    """
    per_row = options.get("per_perturbation", False)
    rows = np.isfinite(true).all(axis=1)
    options = {
        key: value[rows]
        if isinstance(value, np.ndarray) and value.shape[:1] == rows.shape and key != "reference"
        else value
        for key, value in options.items()
    }
    found: Any = np.full(len(true), np.nan) if per_row else Overall.undefined(len(true))
    if not rows.any():
        return found
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            value = score(true[rows], predicted[rows], **options)
        except ValueError as error:
            if "No score is defined" not in str(error):
                raise
            return found
    if not per_row:
        return Overall.of(value, rows)
    found[rows] = value
    return found
