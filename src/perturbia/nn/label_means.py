"""Prior means of latents, one row a label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from perturbia.nn.given_treatments import GivenTreatments

__all__ = ["LabelMeans"]


class LabelMeans(nn.Module):
    r"""Prior :math:`N(\sum_t d_{it}\, \mu_t, I)` of latents given the treatments of a cell.

    The means have the prior :math:`N(0, I)` themselves and are moved by gradients.

    Parameters
    ----------
    n_rows
        Number of treatments.
    n_latent
        Number of latent dimensions.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import GivenTreatments, LabelMeans
    >>> means = LabelMeans(2, 3)
    >>> given = GivenTreatments.of_doses(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    >>> means.offset(given, torch.tensor([9.0, 4.0]))[1].tolist()
    [[0.10000000149011612], [0.0]]
    """

    def __init__(self, n_rows: int, n_latent: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(n_rows, n_latent))

    def offset(self, given: GivenTreatments, n_treated: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean of each cell's prior `(n_cells, n_latent)`, and how uncertain it is, a variance `(n_cells, 1)`.

        `n_treated` `(n_rows,)` are the cells that each mean was learnt from.
        """
        variance = 1 / (n_treated + 1)
        return given.sum_of(self.mean), given.sum_of(variance[:, None], squared=True)

    def penalty(self) -> torch.Tensor:
        """Minus the log prior of the means, without its constant."""
        return 0.5 * self.mean.square().sum()
