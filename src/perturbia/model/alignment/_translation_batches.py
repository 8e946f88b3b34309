"""Batches of output cells with input cells drawn from their matches, or with all of their matches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import sparse
from torch.utils.data import DataLoader, Dataset

from perturbia.model.alignment._feature_rows import dense_rows
from perturbia.stats._row_draws import RowDraws

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.stats import Coupling

__all__ = ["MatchDataset", "RowMatches", "match_loader"]

_DENSE_FROM = 20  # one filled entry in so many: a product with a dense matrix is faster from here on


class RowMatches:
    """Kept matches of each output cell, ready to draw from.

    Parameters
    ----------
    coupling
        Output cells in rows, input cells in columns.
    """

    def __init__(self, coupling: Coupling) -> None:
        joint = coupling.to_sparse()
        joint.eliminate_zeros()
        joint.sort_indices()
        self.draws = RowDraws(joint)
        self.matched = self.draws.matched
        scale = np.repeat(np.asarray(joint.sum(1)).ravel(), np.diff(joint.indptr))
        # CSR of rows that sum to one
        self.matrix = sparse.csr_matrix(
            ((joint.data / scale).astype(np.float32), joint.indices, joint.indptr), shape=joint.shape
        )

    def draw(self, rows: torch.Tensor, n_draws: int) -> torch.Tensor:
        """Independent draws of input cells, with the random numbers of torch.

        Parameters
        ----------
        rows
            Positions of matched output cells, int64, shape (n,).
        n_draws
            Draws for each, with replacement.

        Returns
        -------
        Positions of input cells, int64, shape (n, n_draws).
        """
        uniform = torch.rand(len(rows), n_draws, dtype=torch.float64).numpy()
        return torch.from_numpy(self.draws.columns(rows.numpy(), uniform))

    def inputs(self, rows: np.ndarray) -> np.ndarray:
        """Input cells that are matched to some output cells.

        Parameters
        ----------
        rows
            Positions of output cells.

        Returns
        -------
        Sorted distinct positions.
        """
        return np.flatnonzero(self._mark(self.matrix[rows].indices))

    def weights(self, rows: np.ndarray) -> tuple[np.ndarray, torch.Tensor]:
        """All matches of some output cells.

        Parameters
        ----------
        rows
            Positions of output cells.

        Returns
        -------
        Sorted distinct positions of the input cells, shape (k,), and their weights, float32, shape (len(rows), k), rows
        of sum one; sparse where few are filled.
        """
        kept = self.matrix[rows].tocoo()
        matched = self._mark(kept.col)
        inputs = np.flatnonzero(matched)
        at = np.stack([kept.row, (np.cumsum(matched) - 1)[kept.col]]).astype(np.int64)
        shape = (len(rows), len(inputs))
        if kept.nnz * _DENSE_FROM < shape[0] * shape[1]:
            values = torch.from_numpy(kept.data)
            return inputs, torch.sparse_coo_tensor(
                torch.from_numpy(at), values, shape, is_coalesced=True, check_invariants=False
            )
        weights = torch.zeros(shape)
        weights[at[0], at[1]] = torch.from_numpy(kept.data)
        return inputs, weights

    def _mark(self, columns: np.ndarray) -> np.ndarray:
        marked = np.zeros(self.matrix.shape[1], dtype=bool)
        marked[columns] = True
        return marked


class MatchDataset(Dataset):
    """Output cells; a batch of them comes with input features.

    Parameters
    ----------
    X, Y
        Features of input and output cells, dense or CSR. Rows of a batch are all that is ever made dense.
    matches
        Matches of the output cells.
    rows
        Positions of the output cells to take.
    n_draws
        Draws of input cells for each output cell; None gives all matches with their weights.
    """

    def __init__(self, X: Any, Y: Any, matches: RowMatches, rows: np.ndarray, n_draws: int | None) -> None:
        self.X, self.Y, self.matches, self.rows, self.n_draws = X, Y, matches, rows, n_draws

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch.

        Parameters
        ----------
        indices
            Positions in `rows`.

        Returns
        -------
        ``"y"`` (n, g); ``"x"``, of draws (n, n_draws, p), or of distinct input cells (k, p) with ``"weights"``
        (n, k).
        """
        rows = self.rows[np.asarray(indices)]
        y = torch.from_numpy(dense_rows(self.Y, rows))
        if self.n_draws is not None:
            drawn = self.matches.draw(torch.from_numpy(rows), self.n_draws)
            x = torch.from_numpy(dense_rows(self.X, drawn.ravel().numpy()))
            return {"y": y, "x": x.view(*drawn.shape, -1)}
        inputs, weights = self.matches.weights(rows)
        return {"y": y, "x": torch.from_numpy(dense_rows(self.X, inputs)), "weights": weights}


def match_loader(dataset: MatchDataset, batch_size: int, *, shuffle: bool) -> DataLoader:
    """Batches of the cells of a dataset.

    Parameters
    ----------
    dataset
        The cells.
    batch_size
        Output cells of a batch.
    shuffle
        Whether in a new order each epoch.

    Returns
    -------
    The loader.
    """
    return DataLoader(dataset, batch_size=batch_size, shuffle=shuffle, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> dict[str, torch.Tensor]:
    return batch
