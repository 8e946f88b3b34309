"""Minibatches with as many cells of every group, whatever the sizes of the groups."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi.dataloaders import DataSplitter
from torch.utils.data import DataLoader, Sampler

from perturbia import _keys

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BalancedSampler", "BalancedSplitter", "group_codes"]


def group_codes(dosage: object, n_groups: int) -> np.ndarray:
    """Number of the group of each row of a CSR dosage matrix: 0 without treatments; int64 `(n_cells,)`."""
    treated = np.diff(dosage.indptr) > 0  # type: ignore[attr-defined]
    if n_groups == 1:
        return treated.astype(np.int64)
    codes = np.zeros(len(treated), dtype=np.int64)
    # of several target groups a cell is in one
    codes[treated] = dosage.indices[dosage.indptr[:-1][treated]] + 1  # type: ignore[attr-defined]
    return codes


class BalancedSampler(Sampler):
    """Positions of cells, one array a minibatch: equal shares of all groups, each passed through in random order.

    Parameters
    ----------
    groups
        Number of the group of each cell, `(n_cells,)`.
    batch_size
        Cells of a minibatch, all groups together.
    """

    def __init__(self, groups: np.ndarray, batch_size: int) -> None:
        self.members = [torch.from_numpy(np.flatnonzero(groups == code)) for code in np.unique(groups)]
        self.share = max(1, batch_size // len(self.members))
        self.n_batches = -(-len(groups) // batch_size)
        self._waiting = [members[:0] for members in self.members]

    def __len__(self) -> int:
        return self.n_batches

    def __iter__(self) -> Iterator[np.ndarray]:
        for _ in range(self.n_batches):
            yield torch.cat([self._next(i) for i in range(len(self.members))]).numpy()

    def _next(self, i: int) -> torch.Tensor:
        """The next cells of one group; none twice, so that a small group fills less than its share."""
        share = min(self.share, len(self.members[i]))
        if len(self._waiting[i]) < share:
            self._waiting[i] = self.members[i][torch.randperm(len(self.members[i]))]
        chosen, self._waiting[i] = self._waiting[i][:share], self._waiting[i][share:]
        return chosen


class BalancedSplitter(DataSplitter):
    """scvi-tools' splitter, whose training cells come from a :class:`BalancedSampler`."""

    def __init__(self, *args: object, n_groups: int = 1, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)
        self.n_groups = n_groups

    def train_dataloader(self) -> DataLoader:
        """Loader of balanced minibatches."""
        dosage = self.adata_manager.get_from_registry(_keys.PERTURBATION)[self.train_idx]
        sampler = BalancedSampler(group_codes(dosage, self.n_groups), self.data_loader_kwargs["batch_size"])
        dataset = self.adata_manager.create_torch_dataset(indices=self.train_idx)
        return DataLoader(dataset, batch_size=None, sampler=sampler, pin_memory=self.pin_memory)
