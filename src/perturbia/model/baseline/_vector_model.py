"""What baselines share that know perturbations by vectors: where vectors come from, and which queries have one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia.errors import UnsupportedQuery, shorten
from perturbia.model.base._arguments import check_positive_integer
from perturbia.model.base._embedding import read_embedding
from perturbia.model.baseline._closed_form import ClosedFormModel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from perturbia.model.baseline._training_effects import TrainingEffects
    from perturbia.perturbation import Perturbation

__all__ = ["VectorModel", "gene_coordinates"]


class VectorModel(ClosedFormModel):
    """A baseline that places perturbations by a vector for each target, and so knows targets that were never measured.

    Vectors are given, or those of the genes of the same name: rows of :func:`gene_coordinates`. The vector of a
    perturbation is the sum over its targets, each times its dose.
    """

    _capabilities = frozenset({"combination", "dose", "unseen_perturbation"})
    _answers = "targets that have a vector"

    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        perturbation_embedding: pd.DataFrame | np.ndarray | None = None,
        n_components: int = 10,
    ) -> None:
        super().__init__(adata, registry)
        check_positive_integer("n_components", n_components)
        self.n_components = n_components
        names = self.perturbations
        if perturbation_embedding is None:
            self._given = None
            self._gene = _positions(self.get_var_names(), names)
            self._known = self._gene >= 0
            lacking = "none of the {n} registered targets is a feature of that name. Pass the vectors of targets."
        else:
            self._given, self._known = read_embedding(perturbation_embedding, names)
            lacking = "it has a row for none of the {n} registered targets. Index it by target."
        if not self._known.any():
            msg = f"perturbation_embedding: expected vectors of perturbations, but {lacking.format(n=len(names))}"
            raise UnsupportedQuery(msg)

    def _vectors(self, genes: np.ndarray) -> np.ndarray:
        """Vector of each registered target, float64 `(T, d)`, zero where there is none; `genes` are their coordinates."""
        return self._given if self._given is not None else np.where(self._known[:, None], genes[self._gene], 0.0)

    def _coordinates(self, measured: TrainingEffects) -> np.ndarray:
        return gene_coordinates(measured.effects, self.n_components)

    def _answerable(self, dosage: sparse.csr_matrix) -> np.ndarray:
        return (sparse.csr_matrix(dosage != 0, dtype=np.int64) @ (~self._known).astype(np.int64)) == 0

    def _check_training(self, dosage: sparse.csr_matrix) -> None:
        treated = np.diff(dosage.indptr) > 0
        if treated.any() and not self._answerable(dosage[treated]).any():
            msg = (
                f"perturbation_embedding: expected vectors of trained perturbations, but none of them has one; "
                f"{self._coverage()}. Pass vectors of more targets."
            )
            raise UnsupportedQuery(msg)

    def _refusal(self, perturbation: Perturbation) -> str:
        known = set(np.asarray(self.perturbations, dtype=object)[self._known])
        without = [name for name in perturbation.names if name not in known]
        return (
            f"query: expected {self._answers}, got {str(perturbation)!r}, and there is none for {shorten(without, limit=5)}; "
            f"{self._coverage()}. Pass `perturbation_embedding` with more rows."
        )

    def _coverage(self) -> str:
        return f"{int(self._known.sum())} of {len(self._known)} registered targets have a vector"


def gene_coordinates(effects: np.ndarray, n_components: int) -> np.ndarray:
    """Principal component scores of genes across measured effects.

    Parameters
    ----------
    effects
        Measured effects `(K, n_genes)`.
    n_components
        Number of components; at most `min(K, n_genes)` are used.

    Returns
    -------
    float64 `(n_genes, n_components)`.
    """
    from sklearn.decomposition import PCA

    n = min(n_components, *effects.shape)
    return PCA(n_components=n, random_state=0).fit_transform(np.asarray(effects, dtype=np.float64).T)


def _positions(features: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Position of the feature that has each name, -1 if there is none, or more than one."""
    index = pd.Index(features).astype(str)
    alone = np.flatnonzero(~index.duplicated(keep=False))
    where = pd.Series(alone, index=index[alone])
    return where.reindex(list(names), fill_value=-1).to_numpy(np.int64)
