"""Perturbation signatures: cells minus the mean of the control cells that resemble them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy import sparse

from perturbia.errors import ControlError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Signatures", "control_neighbours", "folds_of"]


def control_neighbours(
    coordinates: np.ndarray, is_control: np.ndarray, batch: np.ndarray, *, n_neighbors: int, n_jobs: int | None
) -> sparse.csr_matrix:
    """Weights `(n_cells, n_controls)`: one in `n_neighbors` for each of the nearest controls of the batch, never itself.

    Raises
    ------
    ControlError
        If a batch has no more than `n_neighbors` controls.
    """
    from sklearn.neighbors import NearestNeighbors

    controls = np.flatnonzero(is_control)
    indices = np.empty((len(coordinates), n_neighbors), dtype=np.int64)
    for one in np.unique(batch):
        cells, pool = np.flatnonzero(batch == one), np.flatnonzero(batch[controls] == one)
        if len(pool) <= n_neighbors:
            msg = (
                f"n_neighbors: expected more than {n_neighbors} control cells in every batch, got {len(pool)} in one. "
                "Ask for fewer neighbours, or leave batch_key out."
            )
            raise ControlError(msg)
        search = NearestNeighbors(n_neighbors=n_neighbors + 1, n_jobs=n_jobs).fit(coordinates[controls[pool]])
        found = pool[search.kneighbors(coordinates[cells], return_distance=False)]
        itself = controls[found] == cells[:, None]
        # where a cell has exact doubles it may be missing among its neighbours: then the farthest goes
        itself[~itself.any(1), -1] = True
        indices[cells] = found[~itself].reshape(len(cells), n_neighbors)
    pointers = np.arange(len(coordinates) + 1) * n_neighbors
    weights = np.full(indices.size, 1 / n_neighbors, dtype=np.float32)
    return sparse.csr_matrix((weights, indices.ravel(), pointers), shape=(len(coordinates), len(controls)))


def folds_of(n_cells: int, n_folds: int, rng: np.random.Generator) -> np.ndarray:
    """Fold of each cell, sizes as equal as they can be."""
    return rng.permutation(n_cells) % n_folds


@dataclass(frozen=True)
class Signatures:
    """Signatures of cells, made when they are asked for.

    Attributes
    ----------
    features
        Log-normalised features `(n_cells, n_genes)`, CSR.
    neighbours
        Result of :func:`control_neighbours`.
    controls
        Positions of the control cells.
    """

    features: sparse.csr_matrix
    neighbours: sparse.csr_matrix
    controls: np.ndarray

    def of(self, cells: np.ndarray, genes: Any = slice(None)) -> np.ndarray:
        """Dense signatures `(n, n_genes)` of some cells, float64."""
        pool = self.features[self.controls][:, genes]
        own = self.features[cells][:, genes]
        return np.asarray((own - self.neighbours[cells] @ pool).todense(), dtype=np.float64)

    def control_variance(self, *, n_cells: int = 512) -> np.ndarray:
        """Variance of the signatures of control cells, `(n_genes,)`, in blocks of cells."""
        first, second = np.zeros((2, self.features.shape[1]))
        for block in self._blocks(n_cells):
            first += block.sum(0)
            second += (block**2).sum(0)
        n = len(self.controls)
        return np.maximum(second / n - (first / n) ** 2, 0) * n / (n - 1)

    def _blocks(self, n_cells: int) -> Iterator[np.ndarray]:
        pool = self.features[self.controls]
        weights = self.neighbours[self.controls]
        for start in range(0, len(self.controls), n_cells):
            rows = slice(start, start + n_cells)
            yield np.asarray((pool[rows] - weights[rows] @ pool).todense(), dtype=np.float64)
