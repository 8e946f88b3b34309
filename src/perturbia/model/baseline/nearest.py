"""The baseline that asks the nearest measured perturbations."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from scipy import sparse
from scipy.spatial.distance import cdist

from perturbia.model.base._arguments import check_positive_integer
from perturbia.model.baseline._mixing import find_rows
from perturbia.model.baseline._vector_model import VectorModel

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["Nearest"]

_BLOCK = 512  # queries whose distances are held at once


class Nearest(VectorModel):
    r"""A perturbation has the mean effect of the measured ones that lie nearest to it: :math:`\frac1k \sum_{q \in N_k(p)} \delta_q`.

    Nearness is the Euclidean distance between vectors of perturbations: those given, or, as in :class:`LinearPCA`, the
    principal component scores of the genes that have the names of the targets. Combinations sum the vectors of their
    members, doses multiply them, and what was measured may be a neighbour whatever its order. Of neighbours at equal
    distance the first registered come first.

    The rule is meant for perturbations that were never measured. One that was is its own nearest neighbour, and its
    effect is averaged with those of :math:`k - 1` others.

    Answers every query whose targets have vectors; others are refused. Standard errors are those of the mean over the
    neighbours, and do not know how far away they are.

    Parameters
    ----------
    adata
        Data registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data.
    perturbation_embedding
        Vectors of targets, as in :class:`LinearPCA`. Scale its columns as their importance has it.
    k
        Number of neighbours; all measured perturbations with a vector if there are fewer.
    n_components
        Number of principal components of genes where no vectors are given.

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
    >>> vectors = pd.DataFrame({"x": [1.0, 3.0, 1.2, 9.0]}, index=["P01", "P02", "P03", "P04"])
    >>> pb.model.Nearest.setup_anndata(adata, perturbation_key="perturbation")
    >>> model = pb.model.Nearest(adata, perturbation_embedding=vectors, k=1)
    >>> model.train()
    >>> unseen, neighbour = model.estimate_ate(["P03", "P01"]).X
    >>> bool((unseen == neighbour).all())
    True
    """

    _capabilities = VectorModel._capabilities | {"uncertainty"}

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        perturbation_embedding: pd.DataFrame | np.ndarray | None = None,
        k: int = 5,
        n_components: int = 10,
    ) -> None:
        perturbation_embedding = copy.deepcopy(perturbation_embedding)  # it is saved with the model
        super().__init__(adata, registry, perturbation_embedding=perturbation_embedding, n_components=n_components)
        check_positive_integer("k", k)
        self.k = k
        self._model_summary_string += f", k={k}"
        self.init_params_ = self._get_init_params(locals())

    def _solve(self, measured: TrainingEffects) -> np.ndarray:
        return self._given if self._given is not None else self._vectors(self._coordinates(measured))

    def _mix(self, dosage: sparse.csr_matrix, measured: TrainingEffects) -> sparse.csr_matrix:
        vectors = self.module.solution.cpu().numpy().astype(np.float64)
        candidates = np.flatnonzero(self._answerable(measured.dosage))
        table = measured.dosage[candidates]
        k = min(self.k, len(candidates))
        places = table @ vectors
        treated = np.flatnonzero(np.diff(dosage.indptr) > 0)
        itself = find_rows(dosage, table)
        chosen = np.empty((len(treated), k), dtype=np.int64)
        for start in range(0, len(treated), _BLOCK):
            rows = treated[start : start + _BLOCK]
            distance = cdist(dosage[rows] @ vectors, places)
            (seen,) = np.nonzero(itself[rows] >= 0)
            distance[seen, itself[rows[seen]]] = -1  # before others that share its vector
            chosen[start : start + len(rows)] = candidates[np.argsort(distance, axis=1, kind="stable")[:, :k]]
        entries = np.full(chosen.size, 1 / k), (np.repeat(treated, k), chosen.ravel())
        return sparse.csr_matrix(entries, shape=(dosage.shape[0], len(measured.effects)))
