"""The baseline that maps vectors of perturbations to coordinates of genes, linearly."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from scipy import linalg, sparse

from perturbia.model.baseline._vector_model import VectorModel

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["LinearPCA"]


class LinearPCA(VectorModel):
    r"""Effects are bilinear in coordinates of genes and vectors of perturbations: :math:`\hat\delta(p) = G W p + b`.

    .. math::

        W = (G^\top G + \lambda I)^{-1} G^\top (Y - b 1^\top)\, P\, (P^\top P + \lambda I)^{-1}

    :math:`Y` holds the measured effects, genes × perturbations, and :math:`b` their mean. Rows of :math:`G` are the
    scores of genes in a principal component analysis of all measured effects. Rows of :math:`P` are vectors of
    perturbations: those given, or the row of :math:`G` of the gene with the name of the target, so that a target which
    was never perturbed is known by how its gene answers to the others. Combinations sum the vectors of their members,
    and doses multiply them; measured combinations are fitted in the same way. Perturbations without a vector are left
    out of the fit. The components are chosen from the effects themselves, so there are no standard errors:
    `layers["se"]` is zero.

    Answers every query whose targets have vectors; others are refused.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    perturbation_embedding
        Vectors of targets: a data frame indexed by target (it may hold more targets, or lack some), or an array
        `(n_perturbations, n_dimensions)` in the order of `model.perturbations`. By default genes stand for themselves.
        The penalty sees its scale.
    n_components
        Number of principal components of genes; fewer if fewer effects were measured.
    penalty
        Ridge penalty :math:`\lambda` on both sides, a positive number.

    Raises
    ------
    UnsupportedQuery
        If no registered target has a vector; in training, if no trained one has.
    LabelError, ScaleError
        If vectors are not one for each target, or not finite numbers.

    Examples
    --------
    >>> import numpy as np, pandas as pd, perturbia as pb
    >>> adata = pb.datasets.simulate_screen(n_perturbations=4, n_combinations=1, n_genes=20, n_latent=2)
    >>> adata.obs["pb_split"] = np.where(adata.obs["perturbation"] == "P03", "test", "train")
    >>> vectors = pd.DataFrame(np.eye(4)[:, :3], index=["P01", "P02", "P03", "P04"])
    >>> pb.model.LinearPCA.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.LinearPCA(adata, perturbation_embedding=vectors)
    >>> model.train()
    >>> model.estimate_ate(["P03", "P01+P02"]).obs["n_cells"].tolist()[0]
    0

    References
    ----------
    Ahlmann-Eltze, C., Huber, W. and Anders, S. (2025). Deep-learning-based gene perturbation effect prediction does not
    yet outperform simple linear baselines. Nature Methods. There the components are those of mean expression; here they
    are those of effects.
    """

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        perturbation_embedding: pd.DataFrame | np.ndarray | None = None,
        n_components: int = 10,
        penalty: float = 0.1,
    ) -> None:
        perturbation_embedding = copy.deepcopy(perturbation_embedding)  # it is saved with the model
        super().__init__(adata, registry, perturbation_embedding=perturbation_embedding, n_components=n_components)
        if not 0 < penalty < float("inf"):
            msg = f"penalty: expected a positive number, got {penalty!r}."
            raise ValueError(msg)
        self.penalty = penalty
        self._model_summary_string += f", n_components={n_components}, penalty={penalty}"
        self.init_params_ = self._get_init_params(locals())

    def _solve(self, measured: TrainingEffects) -> np.ndarray:
        genes = self._coordinates(measured)
        vectors = self._vectors(genes)
        fitted = self._answerable(measured.dosage)
        effects = measured.effects[fitted].astype(np.float64)
        mean, placed = effects.mean(0), measured.dosage[fitted] @ vectors
        left = _ridged(genes, self.penalty, genes.T @ ((effects - mean).T @ placed))
        weights = _ridged(placed, self.penalty, left.T).T
        return np.vstack([vectors @ weights.T @ genes.T, mean])

    def _expected(self, dosage: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        *slopes, mean = self.module.solution.cpu().numpy().astype(np.float64)
        treated = (np.diff(dosage.indptr) > 0)[:, None]
        effects = np.asarray(dosage @ np.stack(slopes)) + treated * mean
        return effects, np.zeros_like(effects)


def _ridged(design: np.ndarray, penalty: float, right: np.ndarray) -> np.ndarray:
    """Solve `(X'X + penalty I) B = right` for `B`."""
    gram = design.T @ design
    gram[np.diag_indices_from(gram)] += penalty
    return linalg.solve(gram, right, assume_a="pos")
