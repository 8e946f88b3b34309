"""Effect of a perturbation on its own target gene, beyond what moves in latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.nn.given_treatments import GivenTreatments

__all__ = ["TargetShift"]


class TargetShift(nn.Module):
    r"""One number a treatment, added to the decoder's output for the gene that the treatment targets.

    A knock-out lowers its target whatever it does to the cell; that is one gene of one perturbation, which no
    low-dimensional shift can express. The shifts are point estimates under the prior :math:`N(0, s^2)`.

    Parameters
    ----------
    genes
        Position of each treatment's target among the features, -1 for none.
    prior_scale
        Prior standard deviation :math:`s`, in units of the output (log expression for counts).

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import GivenTreatments, TargetShift
    >>> shift = TargetShift([2, -1])
    >>> _ = shift.shift.data.copy_(torch.tensor([-3.0, 5.0]))
    >>> given = GivenTreatments(torch.tensor([[0], [1]]), torch.tensor([[1.0], [1.0]]))
    >>> shift(torch.zeros(2, 3), given).tolist()
    [[0.0, 0.0, -3.0], [0.0, 0.0, 0.0]]
    """

    genes: torch.Tensor

    def __init__(self, genes: Sequence[int], *, prior_scale: float = 2.0) -> None:
        super().__init__()
        self.prior_scale = prior_scale
        self.shift = nn.Parameter(torch.zeros(len(genes)))
        # not persistent: it follows from the names of treatments and features
        self.register_buffer("genes", torch.as_tensor(list(genes), dtype=torch.int64), persistent=False)

    def forward(self, output: torch.Tensor, given: GivenTreatments) -> torch.Tensor:
        """`output` of shape `(..., n_cells, n_features)` with the shifts of the given treatments added."""
        gene = self.genes[given.row]
        value = torch.where(gene >= 0, given.dose * self.shift[given.row], 0.0)
        gene, value = (part.expand(*output.shape[:-1], -1) for part in (gene.clamp(min=0), value))
        return output.scatter_add(-1, gene, value.to(output))

    def penalty(self) -> torch.Tensor:
        """Minus the log prior of the shifts, without its constant."""
        return 0.5 * (self.shift / self.prior_scale).square().sum()
