"""Treatments of cells as a vector that networks read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from perturbia.nn.given_treatments import GivenTreatments

__all__ = ["TreatmentCode"]


class TreatmentCode(nn.Module):
    """Sum over treatments of dose times a vector of the treatment.

    The vectors are indicators, so that a network which reads the sum reads the dosage itself, unless there are more
    treatments than `max_size`: they are learnt then, as the first layer behind such indicators would learn them, and
    the cost follows what a cell was given. A treatment that never had cells is read as none.

    Parameters
    ----------
    n_treatments
        Number of treatments.
    max_size
        Largest size of the vectors.
    """

    known: torch.Tensor

    def __init__(self, n_treatments: int, *, max_size: int) -> None:
        super().__init__()
        self.size = min(n_treatments, max_size)
        learnt = n_treatments > max_size
        table = torch.randn(n_treatments, self.size) if learnt else torch.eye(n_treatments)
        self.table = nn.Parameter(table, requires_grad=learnt)
        self.register_buffer("known", torch.ones(n_treatments, 1))

    def forward(self, given: GivenTreatments) -> torch.Tensor:
        """Code of each cell, `(n_cells, size)`."""
        return given.sum_of(self.table * self.known)
