"""The baseline that finds few expression programmes in measured effects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from perturbia.model.baseline._closed_form import ClosedFormModel
from perturbia.stats import low_rank_ridge

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["LowRank"]


class LowRank(ClosedFormModel):
    """Effects are linear in the doses and span few expression programmes: reduced-rank ridge regression.

    Programmes that many perturbations share are learnt from all of them, which helps on large noisy screens and may
    lose to :class:`Ridge` on small ones. Measured effects are weighted by their noise; see
    :func:`perturbia.stats.low_rank_ridge`. Answers every query; a perturbation without training cells has no effect.
    The choice of a rank has no standard error in closed form: `layers["se"]` is zero.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    rank
        Number of programmes; ``"evidence"``: as many as stand out from the noise; ``"cv"``: by cross-validation over
        perturbations, which needs combinations or doses.
    penalty
        Ridge penalty; ``"evidence"``: the one under which the measured effects are most probable.

    Examples
    --------
    >>> import perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=20, n_latent=2)
    >>> pb.model.LowRank.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.LowRank(adata)
    >>> model.train()
    >>> 0 <= model.rank_ <= 4
    True
    """

    _capabilities = frozenset({"combination", "dose"})

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        rank: int | Literal["evidence", "cv"] = "evidence",
        penalty: float | Literal["evidence"] = "evidence",
    ) -> None:
        super().__init__(adata, registry)
        self.rank, self.penalty = rank, penalty
        self._model_summary_string += f", rank={rank!r}, penalty={penalty!r}"
        self.init_params_ = self._get_init_params(locals())

    def _solve(self, measured: TrainingEffects) -> np.ndarray:
        fit = low_rank_ridge(
            measured.dosage,
            measured.effects,
            rank=self.rank,
            penalty=self.penalty,
            standard_errors=measured.standard_errors,
        )
        self.rank_ = fit.rank
        return fit.coefficients

    def _expected(self, dosage: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        effects = np.asarray(dosage @ self.module.solution.cpu().numpy(), dtype=np.float64)
        return effects, np.zeros_like(effects)
