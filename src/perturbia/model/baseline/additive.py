"""The baseline that adds up the effects of the members of a combination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from perturbia.model.baseline._closed_form import ClosedFormModel
from perturbia.model.baseline._mixing import find_members, member_mix

if TYPE_CHECKING:
    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["Additive"]


class Additive(ClosedFormModel):
    r"""The effect of a combination is the sum of the measured effects of its members: :math:`\sum_t \delta_t`.

    That holds for combinations that were measured, too: their own cells are not looked at. A member that training
    cells never had on its own counts with the mean effect of all measured perturbations. A member at a dose other than
    1 is answered if training cells had exactly that dose alone, and refused otherwise. Standard errors know that
    members share their controls.

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
    >>> pb.model.Additive.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Additive(adata)
    >>> model.train()
    >>> one, other, both = model.estimate_ate(["P01", "P02", "P01+P02"]).X
    >>> bool(abs(one + other - both).max() < 1e-5)
    True
    """

    _capabilities = frozenset({"combination", "uncertainty"})
    _answers = "members at dose 1, or at doses that training cells had alone"

    def _answerable(self, dosage: sparse.csr_matrix) -> np.ndarray:
        known = (find_members(dosage, self.module.measured().dosage) >= 0) | (dosage.data == 1)
        refused = sparse.csr_matrix((~known, dosage.indices, dosage.indptr), shape=dosage.shape, dtype=np.int64)
        return np.asarray(refused.sum(1)).ravel() == 0

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        n = len(measured.effects)
        return member_mix(dosage, measured, substitute=np.full(n, 1 / n))
