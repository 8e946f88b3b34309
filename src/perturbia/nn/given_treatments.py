"""Who received what in a minibatch, in a form whose size follows the treatments of a cell, not all there are."""

from __future__ import annotations

from typing import NamedTuple

import torch

__all__ = ["GivenTreatments"]


class GivenTreatments(NamedTuple):
    """Treatments of cells as slots: as many columns as the cell with the most treatments needs.

    A matrix of doses over 5,000 treatments is nearly all zeros; summing over slots costs what a cell received.

    Attributes
    ----------
    row
        Row of each treatment in a table of effects, int64 `(n_cells, n_slots)`; anything where the dose is zero.
    dose
        Doses, float `(n_cells, n_slots)`; zero in slots that are not used.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import GivenTreatments
    >>> given = GivenTreatments.of_doses(torch.tensor([[0.0, 0.5, 0.0], [1.0, 0.0, 2.0]]))
    >>> given.dose.tolist()
    [[0.5, 0.0], [1.0, 2.0]]
    >>> given.sum_of(torch.tensor([[1.0], [10.0], [100.0]])).tolist()
    [[5.0], [201.0]]
    """

    row: torch.Tensor
    dose: torch.Tensor

    @classmethod
    def of_doses(cls, doses: torch.Tensor) -> GivenTreatments:
        """Read a dense matrix of doses `(n_cells, n_treatments)`; slots hold treatments in their order."""
        given = doses != 0
        n_slots = max(1, int(given.sum(1).max())) if len(doses) else 1
        index = torch.argsort(given.to(torch.int8), dim=1, descending=True, stable=True)[:, :n_slots]
        return cls(index, doses.gather(1, index))

    def to(self, device: torch.device | str) -> GivenTreatments:
        """The same on another device."""
        return GivenTreatments(self.row.to(device), self.dose.to(device))

    def sum_of(self, table: torch.Tensor, *, squared: bool = False) -> torch.Tensor:
        """Sum over treatments of dose times row of the table.

        Parameters
        ----------
        table
            One row a treatment, `(..., n_treatments, n_columns)`; leading axes are draws.
        squared
            Weight by the squared dose, as variances add up.

        Returns
        -------
        Tensor `(..., n_cells, n_columns)`.
        """
        dose = self.dose**2 if squared else self.dose
        total = table[..., self.row[:, 0], :] * dose[:, :1]
        for slot in range(1, self.row.shape[1]):
            total = total + table[..., self.row[:, slot], :] * dose[:, slot, None]
        return total

    def within(self) -> tuple[torch.Tensor, GivenTreatments]:
        """The distinct rows that occur, int64 `(n_rows,)`, and the same treatments as positions among these."""
        rows, position = torch.unique(self.row, return_inverse=True)
        return rows, GivenTreatments(position, self.dose)
