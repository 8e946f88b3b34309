"""What a cell's treatments amount to: dose responses, and pairs that interact."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import torch
from scipy import sparse
from torch import nn

from perturbia.nn.given_treatments import GivenTreatments

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["DoseResponse", "TreatmentDesign"]

DoseResponse = Literal["linear", "power"]


class TreatmentDesign(nn.Module):
    r"""Rows of effects that a cell's treatments call, and how strongly.

    A treatment at dose :math:`d` counts as :math:`h_t(d) = d` or :math:`d^{\gamma_t}`; pairs of treatments that
    interact are rows of their own behind the treatments, of strength :math:`h_t(d_t) h_u(d_u)`.

    Parameters
    ----------
    n_treatments
        Number of treatments :math:`T`.
    dose_response
        ``"linear"``, or ``"power"`` with one exponent a treatment, which gradients move; its logarithm has the prior
        :math:`N(0, 0.5^2)`.
    pairs
        Interacting pairs of treatments, by position.

    Examples
    --------
    >>> import torch
    >>> from perturbia.nn import GivenTreatments, TreatmentDesign
    >>> design = TreatmentDesign(3, pairs=[(0, 2)])
    >>> given = design(GivenTreatments(torch.tensor([[0, 2], [1, 2]]), torch.tensor([[1.0, 0.5], [1.0, 1.0]])))
    >>> given.row.tolist(), given.dose.tolist()
    ([[0, 2, 3], [1, 2, 0]], [[1.0, 0.5, 0.5], [1.0, 1.0, 0.0]])
    """

    log_power_prior_sd = 0.5
    log_power: nn.Parameter | None
    _pair_codes: torch.Tensor

    def __init__(
        self, n_treatments: int, *, dose_response: DoseResponse = "linear", pairs: Sequence[tuple[int, int]] = ()
    ) -> None:
        super().__init__()
        if dose_response not in get_args(DoseResponse):
            msg = f"dose_response: expected one of {get_args(DoseResponse)}, got {dose_response!r}."
            raise ValueError(msg)
        self.n_treatments = n_treatments
        power = nn.Parameter(torch.zeros(n_treatments)) if dose_response == "power" else None
        self.register_parameter("log_power", power)
        ordered = np.sort(np.asarray(list(pairs), dtype=np.int64).reshape(-1, 2), axis=1)
        self.pair_codes = np.unique(ordered[:, 0] * n_treatments + ordered[:, 1])
        # not persistent: it is given with the arguments of the model
        self.register_buffer("_pair_codes", torch.from_numpy(self.pair_codes), persistent=False)

    @property
    def n_rows(self) -> int:
        """Treatments and interacting pairs."""
        return self.n_treatments + len(self.pair_codes)

    def forward(self, given: GivenTreatments) -> GivenTreatments:
        """Rows and strengths of a minibatch."""
        index, dose = given
        if self.log_power is not None:
            power = torch.exp(self.log_power)[index]
            # the logarithm of an unused slot would poison the gradient
            dose = torch.where(dose > 0, torch.where(dose > 0, dose, 1.0) ** power, 0.0)
        if len(self.pair_codes) and index.shape[1] > 1:
            index, dose = self._with_pairs(index, dose)
        return GivenTreatments(index, dose)

    def _with_pairs(self, index: torch.Tensor, dose: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        first, second = torch.triu_indices(index.shape[1], index.shape[1], offset=1, device=index.device)
        one, other = index[:, first], index[:, second]
        code = torch.minimum(one, other) * self.n_treatments + torch.maximum(one, other)
        place = torch.searchsorted(self._pair_codes, code).clamp(max=len(self.pair_codes) - 1)
        strength = dose[:, first] * dose[:, second]
        interacts = (self._pair_codes[place] == code) & (strength != 0)
        row = torch.where(interacts, self.n_treatments + place, 0)
        return torch.cat([index, row], 1), torch.cat([dose, torch.where(interacts, strength, 0.0)], 1)

    def matrix(self, dosage: sparse.csr_matrix) -> sparse.csr_matrix:
        """The same of a dosage matrix `(n, T)`: CSR `(n, n_rows)`, float32."""
        dosage = sparse.csr_matrix(dosage, dtype=np.float32)
        if self.log_power is not None:
            power = self.log_power.detach().exp().cpu().numpy()[dosage.indices]
            dosage = sparse.csr_matrix((dosage.data**power, dosage.indices, dosage.indptr), shape=dosage.shape)
        if not len(self.pair_codes):
            return dosage
        by_treatment = dosage.tocsc()
        first, second = np.divmod(self.pair_codes, self.n_treatments)
        return sparse.hstack([dosage, by_treatment[:, first].multiply(by_treatment[:, second])], format="csr")

    def penalty(self) -> torch.Tensor:
        """Minus the log prior of the exponents, without its constant; zero for linear responses."""
        if self.log_power is None:
            return torch.zeros((), device=self._pair_codes.device)
        return 0.5 * (self.log_power / self.log_power_prior_sd).square().sum()
