"""The forms in which the plan of one block is held: sparse, duals, or uniform."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from perturbia.stats.transport_cost import PairCost

__all__ = ["DualPlan", "Part", "Plan", "SparsePlan", "UniformPlan", "random_matches", "truncated"]


class Plan(Protocol):
    """Joint masses of some cells, which sum to one or to the share of a part."""

    @property
    def dtype(self) -> np.dtype:
        """Type of its tiles."""

    def tile(self, rows: np.ndarray) -> np.ndarray:
        """Masses of some rows, shape (len(rows), m)."""

    def sparse(self) -> sp.csr_matrix:
        """All masses."""

    def transpose(self) -> Plan:
        """The same masses seen from the other side."""


@dataclass(frozen=True)
class SparsePlan:
    """Masses held as CSR."""

    matrix: sp.csr_matrix

    @property
    def dtype(self) -> np.dtype:
        """Type of its tiles."""
        return self.matrix.dtype

    def tile(self, rows: np.ndarray) -> np.ndarray:
        """Masses of some rows."""
        return self.matrix[rows].toarray()

    def sparse(self) -> sp.csr_matrix:
        """All masses."""
        return self.matrix

    def transpose(self) -> SparsePlan:
        """The same masses seen from the other side."""
        return SparsePlan(self.matrix.T.tocsr())


@dataclass(frozen=True)
class DualPlan:
    """Masses exp(f + g - C / epsilon), times a share, computed when they are asked for."""

    pairs: PairCost
    f: np.ndarray
    g: np.ndarray
    epsilon: float
    share: float = 1.0

    @property
    def dtype(self) -> np.dtype:
        """Type of its tiles."""
        return np.dtype(str(self.pairs.dtype).removeprefix("torch."))

    def tile(self, rows: np.ndarray) -> np.ndarray:
        """Masses of some rows."""
        import torch

        from perturbia.stats._kernel_tiles import exponential_

        pairs = self.pairs
        f, g = (torch.as_tensor(one, dtype=pairs.dtype, device=pairs.device) for one in (self.f[rows], self.g))
        tile = exponential_(pairs.tile(rows).mul_(-1 / self.epsilon).add_(g).add_(f[:, None]))
        # no share within the exponent, whose last digits would change
        return tile.mul_(self.share).cpu().numpy()

    def sparse(self) -> sp.csr_matrix:
        """All masses."""
        return sp.csr_matrix(self.tile(np.arange(len(self.f))))

    def transpose(self) -> DualPlan:
        """The same masses seen from the other side."""
        return DualPlan(self.pairs.transpose(), self.g, self.f, self.epsilon, self.share)


@dataclass(frozen=True)
class UniformPlan:
    """The same mass for every pair."""

    shape: tuple[int, int]

    @property
    def dtype(self) -> np.dtype:
        """Type of its tiles."""
        return np.dtype(np.float32)

    def tile(self, rows: np.ndarray) -> np.ndarray:
        """Masses of some rows."""
        return np.full((len(rows), self.shape[1]), 1 / (self.shape[0] * self.shape[1]), dtype=self.dtype)

    def sparse(self) -> sp.csr_matrix:
        """All masses."""
        return sp.csr_matrix(self.tile(np.arange(self.shape[0])))

    def transpose(self) -> UniformPlan:
        """The same masses seen from the other side."""
        return UniformPlan(self.shape[::-1])


@dataclass(frozen=True)
class Part:
    """A plan, and which of the cells of its block it joins: sorted positions, or None for all."""

    plan: Plan
    rows: np.ndarray | None = None
    columns: np.ndarray | None = None

    def row_positions(self, n: int) -> np.ndarray:
        """Positions of its rows in the block."""
        return np.arange(n) if self.rows is None else self.rows

    def column_positions(self, m: int) -> np.ndarray:
        """Positions of its columns in the block."""
        return np.arange(m) if self.columns is None else self.columns

    def transpose(self) -> Part:
        """The same part seen from the other side."""
        return Part(self.plan.transpose(), self.columns, self.rows)


def random_matches(shape: tuple[int, int], max_entries: int, rng: np.random.Generator) -> sp.csr_matrix:
    """A uniform plan of few entries: so many columns for each row, drawn without replacement.

    Parameters
    ----------
    shape
        Rows and columns.
    max_entries
        Entries of a row at most.
    rng
        Source of the draws.

    Returns
    -------
    Masses of sum one, float64.
    """
    n, m = shape
    k = min(max_entries, m)
    step = max(1, 4_000_000 // m)
    draws = (rng.random((min(step, n - start), m), dtype=np.float32) for start in range(0, n, step))
    columns = np.sort(np.concatenate([np.argpartition(keys, k - 1, axis=1)[:, :k] for keys in draws]), axis=1).ravel()
    return sp.csr_matrix((np.full(n * k, 1 / (n * k)), columns, np.arange(0, n * k + 1, k)), shape=shape)


def truncated(tile: np.ndarray, mass: float, max_entries: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """The largest entries of each row, scaled to the sum of the row.

    Parameters
    ----------
    tile
        Masses, shape (n_rows, m).
    mass
        Share of a row to keep.
    max_entries
        Entries of a row at most.

    Returns
    -------
    What is left, shape (n_rows, m), float64, and the mass that was kept of each row before scaling.
    """
    n_rows, m = tile.shape
    sums = tile.sum(1, dtype=np.float64)
    k = min(max_entries, m)
    columns = np.argpartition(-tile, k - 1, axis=1)[:, :k] if k < m else np.tile(np.arange(m), (n_rows, 1))
    values = np.take_along_axis(tile, columns, axis=1).astype(np.float64)
    order = np.argsort(-values, axis=1, kind="stable")
    columns, values = np.take_along_axis(columns, order, axis=1), np.take_along_axis(values, order, axis=1)
    before = np.cumsum(values, axis=1) - values
    values[before >= mass * sums[:, None]] = 0
    kept = values.sum(1)
    scale = np.divide(sums, kept, out=np.zeros(n_rows), where=kept > 0)
    filled = values > 0
    indptr = np.concatenate([[0], np.cumsum(filled.sum(1))])
    matrix = sp.csr_matrix(((values * scale[:, None])[filled], columns[filled], indptr), shape=tile.shape)
    matrix.sort_indices()
    return matrix, kept
