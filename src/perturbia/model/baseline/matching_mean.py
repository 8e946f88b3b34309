"""The baseline that averages the effects of the members of a combination."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from perturbia.model.baseline._mixing import member_mix
from perturbia.model.baseline.additive import Additive

if TYPE_CHECKING:
    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["MatchingMean"]


class MatchingMean(Additive):
    r"""The effect of a combination is the mean of the measured effects of its members: :math:`\frac1m \sum_t \delta_t`.

    Its direction is that of :class:`Additive`, its length a fraction: only scores that see magnitude tell them apart.
    A member that training cells never had on its own counts with the mean over all perturbed cells. Answers what
    :class:`Additive` answers.

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
    >>> pb.model.MatchingMean.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.MatchingMean(adata)
    >>> model.train()
    >>> one, other, both = model.estimate_ate(["P01", "P02", "P01+P02"]).X
    >>> bool(abs((one + other) / 2 - both).max() < 1e-5)
    True

    References
    ----------
    Viñas Torné, R. et al. (2025). Systema: a framework for evaluating genetic perturbation response prediction beyond
    systematic variation. Nature Biotechnology.
    """

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        every_cell = measured.n_cells / measured.n_cells.sum()
        size = np.maximum(np.diff(dosage.indptr), 1)
        return sparse.diags(1 / size) @ member_mix(dosage, measured, substitute=every_cell)
