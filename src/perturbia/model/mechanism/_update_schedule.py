"""When the parameters of treatments move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["UpdateSchedule"]


@dataclass(frozen=True)
class UpdateSchedule:
    """When treatment-level parameters move, in optimiser steps.

    Attributes
    ----------
    n_steps
        Length of the training.
    first
        Step of the first closed-form update.
    every
        Steps between closed-form updates.
    rotate_at
        Fractions of the training at which the basis is rotated.
    sparsify_at
        Fraction of the training until which the prior inclusion probability is held at one half.
    """

    n_steps: int
    first: int = 200
    every: int = 25
    rotate_at: Sequence[float] = (0.3, 0.5, 0.8)
    sparsify_at: float = 0.3

    @property
    def rotation_steps(self) -> set[int]:
        """Steps at which the basis is rotated."""
        return {max(1, round(fraction * self.n_steps)) for fraction in self.rotate_at}

    def is_update(self, step: int) -> bool:
        """Whether a closed-form update follows optimiser step `step`."""
        return step >= self.first and (step - self.first) % self.every == 0

    def is_early(self, step: int) -> bool:
        """Whether masks do not feel their prior yet."""
        return step < self.sparsify_at * self.n_steps
