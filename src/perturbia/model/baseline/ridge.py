"""The baseline that regresses measured effects on doses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scipy import sparse

from perturbia.model.baseline._closed_form import ClosedFormModel
from perturbia.stats import dosage_ridge

if TYPE_CHECKING:
    import numpy as np
    from anndata import AnnData

    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["Ridge"]


class Ridge(ClosedFormModel):
    r"""Effects are linear in the doses, fitted by ridge regression to every measured perturbation and combination.

    .. math:: \hat\delta(d) = d^\top (D^\top D + \lambda I)^{-1} D^\top \Delta

    Rows of :math:`D` and :math:`\Delta` are the distinct perturbations of the training cells and their effects, each
    counted once. Answers every query; a perturbation without training cells has no effect. Standard errors hold for
    the expectation of this estimator, not for the bias of its penalty.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    penalty
        Ridge penalty :math:`\lambda`, in units of squared doses.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=20, n_latent=2)
    >>> pb.model.Ridge.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Ridge(adata)
    >>> model.train()
    >>> model.estimate_ate(["P01", "P01+P02"]).shape
    (2, 20)
    """

    _capabilities = frozenset({"combination", "dose", "uncertainty"})

    def __init__(self, adata: AnnData | None = None, registry: dict | None = None, *, penalty: float = 0.1) -> None:
        super().__init__(adata, registry)
        if not 0 <= penalty < float("inf"):
            msg = f"penalty: expected zero or a positive number, got {penalty!r}."
            raise ValueError(msg)
        self.penalty = penalty
        self._model_summary_string += f", penalty={penalty}"
        self.init_params_ = self._get_init_params(locals())

    def _solve(self, measured: TrainingEffects) -> np.ndarray:
        every = sparse.identity(len(measured.effects), format="csr")
        return dosage_ridge(measured.dosage, every, penalty=self.penalty).coefficients

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        del measured
        return sparse.csr_matrix(dosage @ self.module.solution.cpu().numpy())
