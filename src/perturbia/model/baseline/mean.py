"""The baseline that predicts one effect for all perturbations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from perturbia.model.base._arguments import check_choice
from perturbia.model.baseline._closed_form import ClosedFormModel

if TYPE_CHECKING:
    from anndata import AnnData

    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["Mean"]


class Mean(ClosedFormModel):
    r"""Every perturbation has the mean effect of those measured, :math:`\hat\delta = \frac1K \sum_k \delta_k`.

    Perturbations count alike, however many cells they have, unless `weighted`; combinations and doses measured in
    training are among them. Answers every query with the same effect, whatever its dose. Standard errors are those of the mean, and say
    nothing of how perturbations differ.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    weighted
        Weight perturbations by their training cells: :math:`\sum_k n_k \delta_k / \sum_k n_k`.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=20, n_latent=2)
    >>> pb.model.Mean.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Mean(adata)
    >>> model.train()
    >>> effects = model.estimate_ate(["P01", "P02+P03"]).X
    >>> bool((effects[0] == effects[1]).all())
    True
    """

    _capabilities = frozenset({"combination", "dose", "uncertainty"})

    def __init__(self, adata: AnnData | None = None, registry: dict | None = None, *, weighted: bool = False) -> None:
        super().__init__(adata, registry)
        check_choice("weighted", weighted, (False, True))
        self.weighted = bool(weighted)
        if self.weighted:
            self._model_summary_string += ", weighted by cells"
        self.init_params_ = self._get_init_params(locals())

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        n = len(measured.effects)
        weight = measured.n_cells / measured.n_cells.sum() if self.weighted else np.full(n, 1 / n)
        treated = sparse.csr_matrix((np.diff(dosage.indptr) > 0)[:, None], dtype=np.float64)
        return treated @ sparse.csr_matrix(weight[None])
