"""The baseline that lets the strongest member of a combination decide."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse

from perturbia.model.baseline._mixing import find_members, member_mix
from perturbia.model.baseline.additive import Additive

if TYPE_CHECKING:
    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["MaxEffect"]


class MaxEffect(Additive):
    r"""A combination has the effect of its strongest member, :math:`\delta_{t^*}`.

    .. math:: t^* = \arg\max_{t \in d} \lVert \delta_t \rVert_2

    The rule of complete epistasis: the one perturbation masks the others. A member that training cells never had on its
    own counts with the mean effect of all measured perturbations, as it does in :class:`Additive`, whose queries it
    answers; of members of equal strength the first registered decides. Noise makes effects of few cells long, so that
    the winner is overestimated. Standard errors are those of the chosen effect, and do not know of the choice.

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
    >>> pb.model.MaxEffect.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.MaxEffect(adata)
    >>> model.train()
    >>> one, other, both = model.estimate_ate(["P01", "P02", "P01+P02"]).X
    >>> bool((both == max(one, other, key=lambda effect: (effect**2).sum())).all())
    True
    """

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        substitute = np.full(len(measured.effects), 1 / len(measured.effects))
        return member_mix(_strongest_members(dosage, measured, substitute), measured, substitute)


def _strongest_members(
    dosage: sparse.csr_matrix, measured: TrainingEffects, substitute: np.ndarray
) -> sparse.csr_matrix:
    """Queries with their strongest member alone; controls stay controls."""
    member = find_members(dosage, measured.dosage)
    length = np.append(np.linalg.norm(measured.effects, axis=1), np.linalg.norm(substitute @ measured.effects))[member]
    query = np.repeat(np.arange(dosage.shape[0]), np.diff(dosage.indptr))
    order = np.lexsort((dosage.indices, -length, query))
    treated, first = np.unique(query[order], return_index=True)
    chosen = order[first]
    return sparse.csr_matrix((dosage.data[chosen], (treated, dosage.indices[chosen])), shape=dosage.shape)
