"""The baseline that predicts no effect at all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy import sparse

from perturbia.model.baseline._closed_form import ClosedFormModel

if TYPE_CHECKING:
    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["NoChange"]


class NoChange(ClosedFormModel):
    """A perturbation changes nothing: predictions are the starting cells.

    Answers every query. Effects and standard errors are zero, and encoding leaves the effect of a cell in it.

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
    >>> pb.model.NoChange.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.NoChange(adata)
    >>> model.train()
    >>> float(abs(model.estimate_ate(["P01"]).X).max())
    0.0
    """

    _capabilities = frozenset({"combination", "dose"})

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        return sparse.csr_matrix((dosage.shape[0], len(measured.effects)))
