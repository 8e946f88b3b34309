"""Statistics of the training cells that a module keeps: encoder standardisation, mean profile, library sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import nn

    from perturbia.model.mechanism._mechanism_module import MechanismModule
    from perturbia.nn import GivenTreatments

__all__ = ["ReferenceStatistics", "hold_statistics"]

_N_LIBRARY_QUANTILES = 64


def hold_statistics(module: nn.Module, n_input: int, n_rows: int) -> None:
    """Give a module the buffers that :meth:`ReferenceStatistics.write` fills."""
    module.register_buffer("input_mean", torch.zeros(n_input))
    module.register_buffer("input_sd", torch.ones(n_input))
    module.register_buffer("n_treated", torch.zeros(n_rows))
    module.register_buffer("reference_library", torch.full((_N_LIBRARY_QUANTILES,), 1e4))


@dataclass(frozen=True)
class ReferenceStatistics:
    """Moments over the training cells, gathered in one pass.

    Attributes
    ----------
    mean, sd
        Of log counts (or features), `(n_features,)`; the standard deviation of a constant feature is 1.
    profile
        Share of each feature in all counts, or the mean of features that are not counts, `(n_features,)`.
    n_treated
        Cells that call each row of effects, `(n_rows,)`.
    dosage
        Dosage matrix of the cells in the order in which they came, CSR, `(n_cells, n_treatments)`.
    control_library
        Library sizes of the controls, `(n_controls,)`; of all cells if no training cell is a control.
    """

    mean: torch.Tensor
    sd: torch.Tensor
    profile: torch.Tensor
    n_treated: torch.Tensor
    dosage: sparse.csr_matrix
    control_library: np.ndarray

    @classmethod
    def gather(cls, batches: Iterable[dict[str, torch.Tensor]], module: MechanismModule) -> ReferenceStatistics:
        """Read minibatches once and accumulate in double precision; `module` knows what its features are."""
        counts, n = module.is_count_model, 0
        total = squared = raw = torch.zeros((), dtype=torch.float64)
        n_treated = torch.zeros(module.design.n_rows, dtype=torch.float64)
        libraries, control, dosages = [], [], []
        for tensors in batches:
            x = tensors[REGISTRY_KEYS.X_KEY]
            values = (torch.log1p(x) if counts else x).double()
            n += len(x)
            total = total + values.sum(0)
            squared = squared + (values**2).sum(0)
            raw = raw + x.double().sum(0)
            given = module.given(tensors)
            called = module.design(given.to(module.n_treated.device))
            n_treated += torch.bincount(called.row[called.dose != 0].cpu(), minlength=len(n_treated))
            size = tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
            libraries.append((x.sum(-1) if size is None else size.ravel()).numpy())
            dosages.append(_as_matrix(given, module.design.n_treatments))
            control.append((given.dose == 0).all(-1).numpy())
        mean = total / n
        sd = (squared / n - mean**2).clamp(min=0).sqrt()
        library, is_control = np.concatenate(libraries), np.concatenate(control)
        return cls(
            mean=mean.float(),
            sd=torch.where(sd > 1e-6, sd, torch.ones_like(sd)).float(),
            # half a count for features that no training cell expresses
            profile=((raw + 0.5) / (raw + 0.5).sum() if counts else raw / n).float(),
            n_treated=n_treated.float(),
            dosage=sparse.vstack(dosages, format="csr"),
            control_library=library[is_control] if is_control.any() else library,
        )

    def write(self, module: MechanismModule, *, restart: bool = True) -> None:
        """Store the statistics in the module's buffers and start its decoder at the mean profile.

        Without `restart`, networks that have been trained keep their bias and the standardisation they know.
        """
        if restart:
            module.input_mean.copy_(self.mean)
            module.input_sd.copy_(self.sd)
            module.decoder.start_at(self.profile.to(module.input_mean))
        module.n_treated.copy_(self.n_treated)
        n = len(module.reference_library)
        quantiles = np.quantile(self.control_library, (np.arange(n) + 0.5) / n)
        module.reference_library.copy_(torch.from_numpy(quantiles))


def _as_matrix(given: GivenTreatments, n_treatments: int) -> sparse.csr_matrix:
    index, dose = (part.cpu().numpy() for part in given)
    row, slot = np.nonzero(dose)
    entries = (dose[row, slot], (row, index[row, slot]))
    return sparse.csr_matrix(entries, shape=(len(dose), n_treatments), dtype=np.float32)
