"""The baseline that predicts one effect for singles and another for combinations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from perturbia.model.baseline._closed_form import ClosedFormModel

if TYPE_CHECKING:
    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["MeanSameOrder"]


class MeanSameOrder(ClosedFormModel):
    r"""A perturbation of :math:`m` members has the mean effect of those measured that have :math:`m` members.

    .. math:: \hat\delta(d) = \frac{1}{|S_m|} \sum_{k \in S_m} \delta_k, \qquad S_m = \{k : |k| = m\}

    Singles are predicted by singles and doubles by doubles, whose effects are usually longer, where :class:`Mean` mixes
    the two. If training has none of that order, the nearest order stands in, of two the lower. Perturbations of an order
    count alike, whatever their doses and numbers of cells. Answers every query. Standard errors are those of the mean,
    and say nothing of how perturbations differ.

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
    >>> pb.model.MeanSameOrder.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.MeanSameOrder(adata)
    >>> model.train()
    >>> one, other, pair, triple = model.estimate_ate(["P01", "P02", "P03+P04", "P01+P02+P03"]).X
    >>> bool((one == other).all()), bool((one == pair).all()), bool((pair == triple).all())
    (True, False, True)
    """

    _capabilities = frozenset({"combination", "dose", "uncertainty"})

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        known, order = np.unique(np.diff(measured.dosage.indptr), return_inverse=True)
        wanted = np.diff(dosage.indptr)
        nearest = np.abs(wanted[:, None] - known).argmin(1)  # the first of equals, and orders rise
        table = sparse.csr_matrix(
            (1 / np.bincount(order)[order], (order, np.arange(len(order)))), shape=(len(known), len(order))
        )
        return sparse.diags((wanted > 0).astype(float)) @ table[nearest]
