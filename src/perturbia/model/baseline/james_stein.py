"""The baseline that shrinks what was measured by its noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from perturbia.errors import UnsupportedQuery
from perturbia.model.baseline.empirical import Empirical
from perturbia.perturbation import dosage_labels
from perturbia.stats import james_stein_factor

if TYPE_CHECKING:
    import numpy as np

    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["JamesStein"]


class JamesStein(Empirical):
    r"""Measured effects, each shrunken towards zero by one factor: :math:`c_k \delta_k`.

    The factor :math:`c_k = \max(0, 1 - \frac{G - 2}{G} \sum_g s_{kg}^2 / \sum_g \delta_{kg}^2)` is small where noise
    explains the length of the effect. On noisy screens it is the hardest to beat of the baselines that treat
    perturbations one by one. Answers what :class:`Empirical` answers; standard errors are those of the shrunken effect
    with its factor held fixed. Needs three features.

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
    >>> pb.model.JamesStein.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.JamesStein(adata)
    >>> model.train()
    >>> bool((model.get_factors() <= 1).all())
    True

    References
    ----------
    James, W. and Stein, C. (1961). Estimation with quadratic loss. Berkeley Symposium.
    """

    def get_factors(self) -> pd.Series:
        """Factors of the measured perturbations, in [0, 1], named by their canonical labels."""
        self._require_trained()
        measured = self.module.measured()
        labels = dosage_labels(measured.dosage, self.perturbations)
        return pd.Series(self._factors(measured), index=pd.Index(labels, name=None), name="factor")

    def _solve(self, measured: TrainingEffects) -> np.ndarray:
        n_features = measured.effects.shape[1]
        if n_features < 3:
            msg = f"adata: expected three features or more to shrink effects by, got {n_features}. Use Empirical."
            raise UnsupportedQuery(msg)
        return james_stein_factor(measured.effects, measured.standard_errors)

    def _factors(self, measured: TrainingEffects) -> np.ndarray:
        del measured
        return self.module.solution.cpu().numpy()
