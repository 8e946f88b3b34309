"""What a method says of the judged conditions: effects, population means, and cells."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from perturbia.stats import energy_distance
from perturbia.tl._evaluation.control_cells import base_cells, shifted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from perturbia.tl._evaluation.truth import Truth

__all__ = ["Prediction", "Role"]

Role = Literal["model", "baseline", "reference"]

MIN_DRAWS = 50


@dataclass
class Prediction:
    """What one method says.

    Attributes
    ----------
    name, role
        Name in the tables; `"reference"` rows are neither models nor baselines and are not ranked.
    effects
        Stated effects, float64 `(n_conditions, n_genes)`.
    truth
        The judged conditions.
    draw
        Cells of a condition, `(condition, number) -> (number, n_genes)`; None where the effect shifts control cells.
    means
        Means of predicted cells, and the same minus means of observed controls, where the method predicts means itself.
    effects_of
        Effects that the method states for any labels, None if it states no more than the conditions.
    n_cells
        Cells that there are of each condition, `(n_conditions,)`; None where any number can be drawn, or where the effect
        shifts control cells.
    model
        The model, None for a prediction that was given.
    training_known
        False for a model that has no record of the cells that it was trained on.
    """

    name: str
    role: Role
    effects: np.ndarray
    truth: Truth
    draw: Callable[[int, int], np.ndarray] | None = None
    means: tuple[np.ndarray, np.ndarray] | None = None
    effects_of: Callable[[Sequence[str]], np.ndarray] | None = None
    n_cells: np.ndarray | None = None
    model: Any = None
    training_known: bool = True

    def cells(self, condition: int, n: int) -> np.ndarray:
        """Predicted cells of a condition on the scale of effects, float32 `(n, n_genes)`."""
        if self.draw is not None:
            return self.draw(condition, n)
        base = base_cells(self.truth, condition)[:n]
        return shifted(base, self.effects[condition], self.truth)

    @cached_property
    def distances(self) -> np.ndarray:
        """Energy distance from predicted to held-out cells of each condition, NaN where either is a single cell."""
        found = []
        for i, held_out in enumerate(self.truth.coordinates):
            predicted = self.truth.basis.project(self.cells(i, max(len(held_out), MIN_DRAWS)))
            enough = len(held_out) > 1 and len(predicted) > 1
            found.append(energy_distance(predicted, held_out) if enough else np.nan)
        return np.array(found)

    @cached_property
    def control_distances(self) -> np.ndarray:
        """Energy distance from predicted cells to held-out controls of each condition, NaN for a single cell of either."""
        controls = self.truth.control_coordinates
        found = []
        for i, context in enumerate(self.truth.contexts):
            predicted = self.truth.basis.project(self.cells(i, max(len(self.truth.populations[i]), MIN_DRAWS)))
            enough = len(predicted) > 1 and len(controls[context]) > 1
            found.append(energy_distance(predicted, controls[context]) if enough else np.nan)
        return np.array(found)

    @cached_property
    def populations(self) -> tuple[np.ndarray, np.ndarray]:
        """Means of predicted cells, and the same minus the means of observed controls that models may have seen."""
        if self.means is not None:
            return self.means
        means, effects = np.empty_like(self.effects), np.empty_like(self.effects)
        for i, effect in enumerate(self.effects):
            base = base_cells(self.truth, i)
            means[i] = shifted(base, effect, self.truth).mean(axis=0, dtype=np.float64)
            effects[i] = means[i] - base.mean(axis=0, dtype=np.float64)
        return means, effects


# from whatever was given ---------------------------------------------------------------------------------------------
