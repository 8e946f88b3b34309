"""What closed-form updates know of the encoded training cells: sums over cells, exact, remembered or running."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import torch

from perturbia.model.mechanism import _ranks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scipy import sparse

    from perturbia.nn import GivenTreatments

__all__ = ["EncodedCells", "RememberedCells", "RunningCells", "Statistics"]

Statistics = Literal["remembered", "running"]


class EncodedCells:
    """Source of `D.T @ F`, the sums over cells of strengths times encoder means, `(n_rows, n_latent)` float64."""

    def observe(self, given: GivenTreatments, means: torch.Tensor) -> None:
        """See the encodings of a minibatch of the training."""

    def cross(self, design: sparse.csr_matrix) -> np.ndarray:
        """Sums over the training cells, whose design is `design`."""
        raise NotImplementedError

    def exact(self, design: sparse.csr_matrix) -> np.ndarray:
        """The same, all cells encoded anew."""
        raise NotImplementedError

    def rotate(self, matrix: np.ndarray) -> None:
        """Turn what is remembered to another basis of the latent space."""

    def forget(self) -> None:
        """Drop what is remembered."""


class RememberedCells(EncodedCells):
    """Encoder means of all cells, some of them encoded anew each time.

    On several devices each process encodes its share of the cells, and sums are added up.

    Parameters
    ----------
    encode
        Function of positions among the training cells that returns their encoder means, `(n_positions, n_latent)`.
    max_cells
        Cells to encode for an update; the others are remembered from the last time they were encoded.
    """

    def __init__(self, encode: Callable[[np.ndarray], np.ndarray], *, max_cells: int = 20_000) -> None:
        self.encode = encode
        self.max_cells = max_cells
        self.means: np.ndarray | None = None
        self._rng = np.random.default_rng(0)

    def cross(self, design: sparse.csr_matrix) -> np.ndarray:
        """Sums with encodings as fresh as `max_cells` allows."""
        rank, n_ranks = _ranks.rank_and_number()
        share = np.arange(rank, design.shape[0], n_ranks)
        allowed = -(-self.max_cells // n_ranks)
        if self.means is None or len(share) <= allowed:
            self.means = self.encode(share)
        else:
            chosen = np.sort(self._rng.choice(len(share), allowed, replace=False))
            self.means[chosen] = self.encode(share[chosen])
        own = design if n_ranks == 1 else design[share]
        return _ranks.add_up(own.T @ self.means.astype(np.float64))

    def exact(self, design: sparse.csr_matrix) -> np.ndarray:
        """Sums with all cells encoded anew."""
        self.means = None
        return self.cross(design)

    def rotate(self, matrix: np.ndarray) -> None:
        """Turn the remembered encodings."""
        if self.means is not None:
            self.means = (self.means @ matrix).astype(self.means.dtype)

    def forget(self) -> None:
        """Drop the remembered encodings."""
        self.means = None


class RunningCells(EncodedCells):
    """Sums gathered from the minibatches of the training, older ones fading; no cell is encoded twice or held.

    A row's sum over recent cells is scaled to all its cells by their summed squared strengths.

    Parameters
    ----------
    encode_batches
        Function that yields the treatments and encoder means of all training cells, batch by batch.
    window
        Cells after whose number the weight of what was seen has fallen to 1/e.
    """

    def __init__(
        self, encode_batches: Callable[[], Iterator[tuple[GivenTreatments, torch.Tensor]]], *, window: float
    ) -> None:
        self.encode_batches = encode_batches
        self.window = window
        self._sums: np.ndarray | None = None
        self._fresh: torch.Tensor | None = None
        self._n_fresh = 0

    def observe(self, given: GivenTreatments, means: torch.Tensor) -> None:
        """Add a minibatch."""
        n_rows = int(given.row.max()) + 1
        if self._fresh is None or len(self._fresh) < n_rows:
            grown = torch.zeros((max(n_rows, 1), means.shape[1] + 1), dtype=torch.float64, device=means.device)
            if self._fresh is not None:
                grown[: len(self._fresh)] = self._fresh
            self._fresh = grown
        _add_batch(self._fresh, given, means)
        self._n_fresh += len(means)

    def cross(self, design: sparse.csr_matrix) -> np.ndarray:
        """Fold in what was seen since the last time, and scale."""
        n_rows = design.shape[1]
        n_latent = 0 if self._fresh is None else self._fresh.shape[1] - 1
        fresh = np.zeros((n_rows, n_latent + 1))
        if self._fresh is not None:
            fresh[: len(self._fresh)] = self._fresh.cpu().numpy()
        fresh, n_fresh = _ranks.add_up(fresh), float(_ranks.add_up(np.array([float(self._n_fresh)]))[0])
        self._fresh, self._n_fresh = None, 0
        faded = 0.0 if self._sums is None else self._sums * np.exp(-n_fresh / self.window)
        self._sums = faded + fresh
        weight = self._sums[:, -1:]
        total = np.asarray(design.multiply(design).sum(0)).reshape(-1, 1)
        return self._sums[:, :-1] * np.divide(total, weight, out=np.zeros_like(weight), where=weight > 0)

    def exact(self, design: sparse.csr_matrix) -> np.ndarray:
        """Sums over one pass through the training cells, which every process makes."""
        total = None
        for given, means in self.encode_batches():
            if total is None:
                total = torch.zeros((design.shape[1], means.shape[1] + 1), dtype=torch.float64, device=means.device)
            _add_batch(total, given, means)
        if total is None:
            msg = "data: expected training cells, got none."
            raise ValueError(msg)
        return _ranks.from_first(total[:, :-1].cpu().numpy())

    def rotate(self, matrix: np.ndarray) -> None:
        """Turn the sums."""
        if self._sums is not None:
            self._sums[:, :-1] = self._sums[:, :-1] @ matrix
        if self._fresh is not None:
            self._fresh[:, :-1] = self._fresh[:, :-1] @ torch.from_numpy(matrix).to(self._fresh)

    def forget(self) -> None:
        """Drop the sums."""
        self._sums = self._fresh = None
        self._n_fresh = 0


def _add_batch(sums: torch.Tensor, given: GivenTreatments, means: torch.Tensor) -> None:
    """Add strengths times means, and squared strengths in the last column, to the rows that a batch calls."""
    means = means.double()
    for slot in range(given.row.shape[1]):
        dose = given.dose[:, slot, None].double()
        sums.index_add_(0, given.row[:, slot], torch.cat([dose * means, dose**2], 1))
