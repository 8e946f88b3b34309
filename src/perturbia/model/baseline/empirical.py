"""The baseline that repeats what was measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from perturbia.model.baseline._closed_form import ClosedFormModel
from perturbia.model.baseline._mixing import find_rows

if TYPE_CHECKING:
    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["Empirical"]


class Empirical(ClosedFormModel):
    """A perturbation has the effect that its training cells show: difference of means to controls of their batches.

    Answers what was measured in training, combinations and doses included, and nothing else: an unmeasured
    combination, dose or single perturbation is refused. Standard errors are Welch's.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=20, n_latent=2)
    >>> pb.model.Empirical.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Empirical(adata)
    >>> model.train()
    >>> model.estimate_ate(["P01"]).obs["n_cells"].tolist()
    [60]
    """

    _capabilities = frozenset({"uncertainty"})
    _answers = "a perturbation that training cells have"
    _instead = "Additive sums the effects of members; Ridge and SAMSVAE know doses, too."

    def _answerable(self, dosage: sparse.csr_matrix) -> np.ndarray:
        is_control = np.diff(dosage.indptr) == 0
        return is_control | (find_rows(dosage, self.module.measured().dosage) >= 0)

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        position = find_rows(dosage, measured.dosage)
        (rows,) = np.nonzero(position >= 0)
        shape = (dosage.shape[0], len(measured.effects))
        return sparse.csr_matrix((self._factors(measured)[position[rows]], (rows, position[rows])), shape=shape)

    def _factors(self, measured: TrainingEffects) -> np.ndarray:
        """Factor `(K,)` of each measured effect."""
        return np.ones(len(measured.effects))
